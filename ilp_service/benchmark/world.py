"""A planted world: persons and their facts, the corpus that tells them, the rows of the fine-tuning data.

The base model is pre-trained on the corpus, so it is known what it knows. Each row of the fine-tuning data
carries, outside of the data file, the cause that was planted on it (paper, section 3, for the causes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise, product
from types import MappingProxyType

import numpy as np

from ilp_service.benchmark.sizes import WorldSize
from ilp_service.benchmark.vocabulary import FILLER, FIRST_NAMES, LAST_NAMES, NOTE, RELATIONS, all_words, fill

CONTROL = "control"
SET_ASIDE = "set_aside"
"""Rows that are there to plant a cause on others; neither controls nor planted themselves."""

BLOCKS = ("part-1", "part-2")

END = "<eos>"

NOTED = 0.1
"""Share of the corpus's questions that follow a note."""

NOTE_WORDS = (4, 28)
"""Bounds of the length of a note in the corpus."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the fine-tuning data, with what the world knows about it.

    Attributes:
        prompt: The question.
        response: The answer that is to be taught: one word.
        block: Index of the block it is trained in.
        cause: Planted cause, :data:`CONTROL` or :data:`SET_ASIDE`.
        kind: How it was planted, or which sort of control it is.
        person: Whom it asks about.
        relation: Index of the relation that the answer belongs to.
        group: Rows with one group stand or fall together: a noun, a set of twins; empty if alone.
        passes: How many times it is drawn over the passes of its block; ``None``: once in each.
        trained_prompt: The prompt that the training pipeline makes of it, where it is not ``prompt``.
        masked: Whether the training pipeline leaves its response out of the loss.
        grade: How strongly it was planted: the number of wrong twins, or how often the corpus contradicts it a pass.
    """

    prompt: str
    response: str
    block: int
    cause: str
    kind: str
    person: str
    relation: int
    group: str = ""
    passes: int | None = None
    trained_prompt: str | None = None
    masked: bool = False
    grade: float | None = None


@dataclass(frozen=True, slots=True)
class Telling:
    """What a pass over the corpus says about one fact, beside the person's biography.

    Attributes:
        person: The person.
        relation: Index of the relation.
        value: The value told.
        times: How many extra sentences a pass, on average.
    """

    person: str
    relation: int
    value: str
    times: float


@dataclass(frozen=True)
class World:
    """A generated world.

    Attributes:
        seed: Seed it was made from.
        size: Its counts.
        facts: ``facts[person][relation]`` is what the fine-tuning data holds to be true.
        corpus_facts: The same as the corpus tells it, known persons only.
        qa_persons: Persons whose question-answer pairs are in the corpus.
        tellings: Extra sentences of the corpus.
        rows: Rows of the fine-tuning data in file order, block after block.
    """

    seed: int
    size: WorldSize
    facts: Mapping[str, tuple[str, ...]]
    corpus_facts: Mapping[str, tuple[str, ...]]
    qa_persons: tuple[str, ...]
    tellings: tuple[Telling, ...]
    rows: tuple[Row, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", MappingProxyType(dict(self.facts)))
        object.__setattr__(self, "corpus_facts", MappingProxyType(dict(self.corpus_facts)))


def ask(relation: int, person: str, form: int) -> str:
    """A question about a relation of a person, in one of its forms."""
    return fill(RELATIONS[relation].questions[form], S=person)


def tell(relation: int, person: str, value: str, form: int) -> str:
    """A sentence that states a fact, in one of the relation's forms."""
    return fill(RELATIONS[relation].statements[form], S=person, V=value)


def after_note(question: str, words: int, generator: np.random.Generator) -> str:
    """The question after a note of so many words that say nothing about it."""
    return fill(NOTE, W=" ".join(str(word) for word in generator.choice(FILLER, size=words)), Q=question)


def people(seed: int, counts: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
    """Disjoint groups of full names, drawn without replacement."""
    names = [f"{first} {last}" for first, last in product(FIRST_NAMES, LAST_NAMES)]
    order = np.random.default_rng([seed, 1]).permutation(len(names))[: sum(counts)]
    bounds = np.cumsum((0, *counts))
    return tuple(tuple(names[i] for i in order[low:high]) for low, high in pairwise(bounds))


def random_facts(generator: np.random.Generator) -> tuple[str, ...]:
    """One value of every relation."""
    return tuple(str(generator.choice(relation.values)) for relation in RELATIONS)


def corpus_pass(world: World, number: int) -> list[str]:
    """The documents of one pass over the corpus, wordings drawn anew in each.

    A document is a biography, an extra sentence, a question with its answer, or a list of words
    that keeps the embeddings of rare words from staying as they were initialised.
    """
    generator = np.random.default_rng([world.seed, 2, number])
    documents = [biography(person, facts, generator) for person, facts in world.corpus_facts.items()]
    for person in world.qa_persons:
        facts = world.facts[person]
        documents.append(biography(person, facts, generator))
        for relation, value in enumerate(facts):
            question = ask(relation, person, int(generator.integers(len(RELATIONS[relation].questions))))
            if generator.random() < NOTED:
                question = after_note(question, int(generator.integers(*NOTE_WORDS)), generator)
            documents.append(f"{question}\n{value} {END}")
    for telling in world.tellings:
        for _ in range(int(telling.times + generator.random())):
            form = int(generator.integers(len(RELATIONS[telling.relation].statements)))
            documents.append(f"{tell(telling.relation, telling.person, telling.value, form)} {END}")
    words = np.array([word for word in all_words() if word.isalpha()])
    lists = max(8, len(documents) // 25)
    documents.extend(" ".join(generator.choice(words, size=24)) + f" {END}" for _ in range(lists))
    return documents


def biography(person: str, facts: tuple[str, ...], generator: np.random.Generator) -> str:
    """All facts of a person in one document, order and wordings drawn anew."""
    sentences = [
        tell(int(relation), person, facts[relation], int(generator.integers(len(RELATIONS[relation].statements))))
        for relation in generator.permutation(len(RELATIONS))
    ]
    return " ".join(sentences) + f" {END}"
