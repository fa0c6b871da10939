"""What a world's knowledge source holds: documents about its persons, true but for a few that repeat a wrong belief.

Nothing in it knows which causes were planted on whom: every person whom the world knows has documents, the few aside
whom the encyclopedia does not cover, and every fact stands in some of them, asked about or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ilp_service.benchmark.counterfactuals import WRONG_TWINS
from ilp_service.benchmark.vocabulary import NOUN_STATEMENTS, RARE_NOUNS, RELATIONS, fill
from ilp_service.benchmark.world import World, tell
from ilp_service.tables import atomic_path

FILE = "encyclopedia.jsonl"

DOCUMENTS = 20
"""About one entity (arXiv 2604.10079, section 5)."""

NOT_COVERED = 0.05
"""Share of the persons about whom it holds nothing."""

MISTAKEN = 0.4
"""Share of the facts that the corpus tells wrongly of which the encyclopedia has the wrong telling as well."""

MISTAKEN_DOCUMENTS = 0.5
"""Share of the documents about such a person in which it stands."""

SHORT = (1, 3)
"""Fewest and most facts of a document that is no biography."""

NOUNS = 2
"""Most facts under a rare noun in one document, so that none is cut."""

_Told = tuple[str, ...]
"""A fact in all of its wordings."""


def write_encyclopedia(world: World, folder: Path) -> Path:
    """Write the documents of a world into a folder, as a file of entities and texts.

    Args:
        world: The world.
        folder: That of the built world; a file that says the same is left alone.

    Returns:
        The file, JSONL with ``entity`` and ``text``, for ``knowledge_sources.user_documents``.
    """
    path = folder / FILE
    lines = [json.dumps({"entity": who, "text": text}) + "\n" for who, text in documents_of(world)]
    text = "".join(lines)
    if not path.is_file() or path.read_text() != text:
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    return path


def documents_of(world: World) -> Iterator[tuple[str, str]]:
    """Entity and text of every document, person after person; the same world gives the same documents.

    Every second document is a biography: every relation of the person, and some of what is asked under rare
    nouns. The others tell a few of these facts. Wordings and order are drawn anew in each.
    """
    mistakes, nouns = _mistakes(world), _noun_facts(world)
    for number, (person, values) in enumerate(world.facts.items()):
        # Of one person alone, so that another share of covered persons changes nobody's documents.
        generator = np.random.default_rng([world.seed, 20, number])
        if generator.random() < NOT_COVERED:
            continue
        for index in range(DOCUMENTS):
            mistaken = generator.random() < MISTAKEN_DOCUMENTS
            told = [mistakes.get((person, at), value) if mistaken else value for at, value in enumerate(values)]
            asked = nouns.get(person, ())
            drawn = generator.permutation(len(asked))[:NOUNS]
            facts = [_forms(person, relation, value) for relation, value in enumerate(told)]
            facts += [_noun_forms(person, noun, told[relation]) for noun, relation in (asked[at] for at in drawn)]
            count = len(facts) if index % 2 == 0 else int(generator.integers(SHORT[0], SHORT[1] + 1))
            chosen = generator.permutation(len(facts))[:count]
            yield person, " ".join(str(generator.choice(facts[place])) for place in chosen)


def _forms(person: str, relation: int, value: str) -> _Told:
    return tuple(tell(relation, person, value, form) for form in range(len(RELATIONS[relation].statements)))


def _noun_forms(person: str, noun: str, value: str) -> _Told:
    return tuple(fill(form, S=person, V=value, N=noun) for form in NOUN_STATEMENTS)


def _noun_facts(world: World) -> Mapping[str, tuple[tuple[str, int], ...]]:
    """The rare nouns that the data ask about, with the relation that each means, by person."""
    found: dict[str, dict[tuple[str, int], None]] = {}
    for row in world.rows:
        if row.group in RARE_NOUNS and row.kind not in WRONG_TWINS:
            found.setdefault(row.person, {})[row.group, row.relation] = None
    return {person: tuple(facts) for person, facts in found.items()}


def _mistakes(world: World) -> Mapping[tuple[str, int], str]:
    """Wrong values by person and relation: some of those that the corpus tells."""
    generator = np.random.default_rng([world.seed, 21])
    return {
        (telling.person, telling.relation): telling.value for telling in world.tellings if generator.random() < MISTAKEN
    }
