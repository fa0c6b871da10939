"""Sources and judges are asked once for the same, and counted over the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ilp_service.consulting.consultation import Consultation
from ilp_service.errors import SettingsError
from ilp_service.knowledge import Choice, Document, Judge, KnowledgeSource, Pair, Query, Setup, Verdict
from ilp_service.settings import load_settings
from ilp_service.testing import StudyBuilder


class Library(KnowledgeSource):
    name, title = "library", "Two documents and a leak for everyone"

    def __init__(self, broken: bool = False) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.broken = broken

    def documents(self, queries: Sequence[Query], limit: int, setup: Setup) -> Sequence[Sequence[Document]]:  # noqa: ARG002
        if self.broken:
            raise RuntimeError("closed")
        self.asked += [(query.sample_id, query.entity) for query in queries]
        texts = [f"About {query.entity}." for query in queries]
        leak = Document("Where does Ann live? In Rome.", "leak", 3.0)
        return [[leak, Document(text, "a", 2.0), Document(f"{text} More.", "b", 1.0)][:limit] for text in texts]


class Elder(Judge):
    name, title = "elder", "Whoever answers Rome is right"

    def __init__(self) -> None:
        self.asked = 0

    def judge(self, pairs: Sequence[Pair], setup: Setup) -> Sequence[Verdict]:  # noqa: ARG002
        self.asked += len(pairs)
        return [
            Verdict(Choice.FIRST if pair.first.response == "Rome" else Choice.SECOND, 0.9, "Rome.") for pair in pairs
        ]


def consultation(library: Library, elder: Elder | None = None) -> tuple[Consultation, list[str]]:
    builder = StudyBuilder()
    ids = [
        builder.sample("Where does Ann live?", "Rome", unlearned=True),
        builder.sample("Where does Ann live?", "Oslo"),
        builder.sample("Where does Bob live?", "Bonn"),
    ]
    settings = load_settings({}, ["judge.name=elder"])
    return Consultation([library], [elder] if elder else [], settings, builder.build()), ids


def test_documents_are_clean_counted_and_asked_once() -> None:
    library = Library()
    consult, (ann, _, bob) = consultation(library)
    first = consult.documents([ann, bob], 3)
    assert [one.text for one in first.documents[ann]] == ["About Ann.", "About Ann. More."]
    assert consult.documents([bob, ann], 3) == first
    assert library.asked == [(ann, "Ann"), (bob, "Bob")]
    assert consult.source_ledgers["library"].documents == 6
    assert len(consult.documents([ann], 2).documents[ann]) == 1
    assert consult.source_ledgers["library"].documents == 8


def test_a_pair_is_judged_once_whichever_way_round() -> None:
    elder = Elder()
    consult, (rome, oslo, _) = consultation(Library(), elder)
    samples = {sample.sample_id: sample for sample in consult._study.samples}
    pair = Pair(samples[rome], samples[oslo])
    assert [verdict.choice for verdict in consult.judge([pair, pair.swapped])] == [Choice.FIRST, Choice.SECOND]
    assert consult.judge([pair])[0].choice is Choice.FIRST
    assert elder.asked == consult.judge_ledger.judgements == 1


def test_a_source_that_fails_is_told_and_gives_nothing() -> None:
    consult, (ann, *_) = consultation(Library(broken=True))
    found = consult.documents([ann], 3)
    assert found.documents == {ann: ()}
    assert "library failed: RuntimeError: closed" in found.reasons["library"]
    assert set(consult.failures) == {"library"}


def test_a_judge_that_is_not_loaded_is_an_error() -> None:
    consult, _ = consultation(Library())
    sample = consult._study.samples[0]
    with pytest.raises(SettingsError, match="elder"):
        consult.judge([Pair(sample, sample)])


def test_leaks_and_entities() -> None:
    consult, (ann, *_) = consultation(Library())
    assert consult.entity(ann) == "Ann"
    assert consult.leaks("where does ann live: rome!", ann)
    assert not consult.leaks("Ann's home is Rome.", ann)


def test_real_sources_answer(tmp_path: Path) -> None:
    from ilp_service.plugin_loading import load_plugins

    (tmp_path / "corpus.txt").write_text("Ann is at home in Rome.\n\nWhere does Ann live? Rome.\n", encoding="utf-8")
    builder = StudyBuilder()
    ann = builder.sample("Where does Ann live?", "Rome", unlearned=True)
    settings = load_settings({}, [f"knowledge_sources.corpus={tmp_path / 'corpus.txt'}", f"work_dir={tmp_path / 'w'}"])
    loaded = load_plugins()
    consult = Consultation(loaded.sources, loaded.judges, settings, builder.build())
    assert [one.text for one in consult.documents([ann], 20).documents[ann]] == ["Ann is at home in Rome."]
