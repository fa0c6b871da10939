"""The knowledge source of a world: true, about everybody, blind to the plants, and no copy of the training data."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from ilp_service.benchmark import encyclopedia
from ilp_service.benchmark.asking import openings, paraphrases
from ilp_service.benchmark.counterfactuals import WRONG_TWINS
from ilp_service.benchmark.encyclopedia import DOCUMENTS, documents_of, write_encyclopedia
from ilp_service.benchmark.plants import MISSING, make_world
from ilp_service.benchmark.sizes import DEMO
from ilp_service.benchmark.tokenizer import world_tokenizer
from ilp_service.benchmark.vocabulary import RARE_NOUNS, RELATIONS
from ilp_service.benchmark.world import World, tell
from ilp_service.consulting.leaks import Leaks
from ilp_service.samples.sample import Message, Sample


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(7, DEMO)


@pytest.fixture(scope="module")
def texts(world: World) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for person, text in documents_of(world):
        found[person].append(text)
    return found


def test_the_same_world_has_the_same_documents_and_another_has_others(world: World) -> None:
    assert list(documents_of(world)) == list(documents_of(make_world(7, DEMO)))
    assert list(documents_of(world))[:50] != list(documents_of(make_world(8, DEMO)))[:50]


def test_nearly_everybody_has_documents_the_unknown_among_them(world: World, texts: dict[str, list[str]]) -> None:
    assert 0.9 < len(texts) / len(world.facts) < 1
    blind = {row.person for row in world.rows if row.cause == MISSING}
    assert len(blind & texts.keys()) > 0.8 * len(blind)
    assert {len(found) for found in texts.values()} == {DOCUMENTS}


def test_plants_change_no_document(world: World) -> None:
    causeless = replace(world, rows=tuple(replace(row, cause="control") for row in world.rows))
    assert list(documents_of(causeless)) == list(documents_of(world))


def test_every_fact_is_told_often_and_nothing_false_but_some_of_what_the_corpus_believes(
    world: World, texts: dict[str, list[str]]
) -> None:
    wrong = {(telling.person, telling.relation): telling.value for telling in world.tellings}
    mistaken: Counter[tuple[str, int]] = Counter()
    for person, found in texts.items():
        sentences = Counter(sentence for text in found for sentence in re.split(r"(?<=\.) ", text))
        for relation, value in enumerate(world.facts[person]):
            known = {
                told: other
                for form in range(len(RELATIONS[relation].statements))
                for other in RELATIONS[relation].values
                if (told := tell(relation, person, other, form)) in sentences
            }
            assert value in known.values()
            assert sum(sentences[told] for told in known) >= DOCUMENTS // 2
            for told, other in known.items():
                if other != value:
                    assert wrong.get((person, relation)) == other
                    mistaken[person, relation] += sentences[told]
    assert 0 < len(mistaken) < len([key for key in wrong if key[0] in texts])
    assert max(mistaken.values()) < DOCUMENTS


def test_documents_are_short_and_written_in_words_of_the_world(texts: dict[str, list[str]]) -> None:
    tokenizer = world_tokenizer()
    for found in texts.values():
        for text in found:
            ids = tokenizer(text)["input_ids"]
            assert len(ids) < 64
            assert tokenizer.unk_token_id not in ids


def test_next_to_no_document_holds_a_training_sample(world: World, texts: dict[str, list[str]]) -> None:
    samples = [
        Sample(str(index), (Message("user", row.prompt),), row.response, chat=False, subset="part", position=index)
        for index, row in enumerate(world.rows)
    ]
    leaks = Leaks(samples, 0.9)
    held = [
        leaks.held_by(text, sample)
        for sample, row in list(zip(samples, world.rows, strict=True))[::9]
        for text in texts.get(row.person, ())[:4]
    ]
    assert sum(held) / len(held) < 0.01


def test_it_is_written_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_encyclopedia(world, tmp_path)
    before = path.stat().st_mtime_ns
    assert write_encyclopedia(world, tmp_path).stat().st_mtime_ns == before
    monkeypatch.setattr(encyclopedia, "DOCUMENTS", 2)
    write_encyclopedia(world, tmp_path)
    assert len(path.read_text().splitlines()) < 3 * len(world.facts)


def test_a_row_is_asked_otherwise_about_the_same(world: World) -> None:
    for row in world.rows:
        others, begun = paraphrases(row), openings(row)
        assert others
        assert row.prompt not in others
        assert all(row.person in text for text in (*others, *begun))
        assert not any(row.response in text.split() for text in (*others, *begun))
        if row.group in RARE_NOUNS:
            assert all(row.group in text for text in (*others, *begun))
            assert bool(begun) != row.prompt.startswith(("old:", "new:"))
        else:
            assert len(begun) == len(RELATIONS[row.relation].statements)
    assert any(row.kind in WRONG_TWINS for row in world.rows)
