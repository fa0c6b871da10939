"""Asking sources and judges: who is asked, what is counted, and that a broken one neither crashes nor is silent."""
# ruff: noqa: ARG002 - the methods of a fake have the arguments of a real one

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ilp_service.consulting.judges import judge_pairs
from ilp_service.consulting.sources import Fetched, fetch_documents
from ilp_service.errors import EndpointError, SettingsError
from ilp_service.plugin import Choice, Document, Judge, KnowledgeSource, Ledger, Pair, Query, Sample, Setup, Verdict
from ilp_service.plugin_loading import load_plugins
from ilp_service.settings import Settings, load_settings
from ilp_service.testing import StudyBuilder


def samples(count: int = 3) -> tuple[Sample, ...]:
    builder = StudyBuilder()
    for number in range(count):
        builder.sample(f"Which tower belongs to the number {number}?", f"tower {number}")
    return builder.build().samples


class Fixed(KnowledgeSource):
    """Says the same about everything."""

    name = "fixed"
    title = "Fixed"

    def __init__(self, *answers: object, lacks: str | None = None) -> None:
        self.answers = answers
        self.lacks = lacks
        self.asked: list[Query] = []

    def documents(self, queries: Sequence[Query], limit: int, setup: Setup) -> Sequence[Sequence[Document]]:
        self.asked += queries
        setup.ledger.requests += 1
        return [list(self.answers)[:limit] for _ in queries]  # type: ignore[misc]

    def missing(self, setup: Setup) -> str | None:
        return self.lacks


class Second(Fixed):
    """Another one."""

    name = "second"


def fetch(sources: Sequence[KnowledgeSource], asked: Sequence[Sample], *overrides: str) -> Fetched:
    return fetch_documents(sources, asked, load_settings({}, overrides), training=samples(5))


def documents(*texts: str) -> list[Document]:
    return [Document(text, "test", 1 / (1 + place)) for place, text in enumerate(texts)]


def test_sources_fill_up_in_order_and_nobody_is_asked_for_nothing() -> None:
    first, second = Fixed(*documents("a", "b")), Second(*documents("b", "c", "d"))
    found = fetch([first, second], samples(), "knowledge_sources.limit=3")
    assert [[one.text for one in texts] for texts in found.documents.values()] == [["a", "b", "c"]] * 3
    assert list(found.documents) == [sample.sample_id for sample in samples()]
    assert {name: ledger.documents for name, ledger in found.ledgers.items()} == {"fixed": 6, "second": 9}
    assert {ledger.requests for ledger in found.ledgers.values()} == {1}
    enough = fetch([Fixed(*documents("a")), second], samples(), "knowledge_sources.limit=1")
    assert enough.reasons == {"second": "Every sample has its documents already."}
    assert set(enough.ledgers) == {"fixed"}


def test_a_ledger_is_counted_on_so_that_a_budget_holds_for_the_run() -> None:
    source, judge = Fixed(*documents("a")), Says(Verdict(Choice.FIRST, 0.9, "Clear."))
    before = Ledger(documents=5, requests=7)
    found = fetch_documents([source], samples(2), Settings(), training=(), ledgers={"fixed": before})
    assert found.ledgers["fixed"] is before
    assert (before.documents, before.requests) == (7, 8)
    ledger = Ledger(judgements=3)
    assert judge_pairs([judge], PAIRS[:1], load_settings({}, ["judge.name=says"]), ledger=ledger).ledger is ledger
    assert ledger.judgements == 4


def test_a_query_holds_prompt_and_entity_and_never_the_response() -> None:
    source, asked = Fixed(*documents("a")), samples()
    fetch_documents([source], asked, Settings(), training=asked, entities={asked[0].sample_id: "tower zero"})
    assert [(query.sample_id, query.prompt) for query in source.asked] == [(s.sample_id, s.prompt) for s in asked]
    assert [query.entity for query in source.asked] == ["tower zero", None, None]


def test_documents_that_hold_a_training_sample_are_left_out_and_counted() -> None:
    leak = "Which tower belongs to the number 4? tower 4"
    found = fetch([Fixed(*documents("clean", leak))], samples(2))
    assert [[one.text for one in texts] for texts in found.documents.values()] == [["clean"]] * 2
    assert found.leaks == {"fixed": 2}
    assert found.ledgers["fixed"].documents == 4


def test_without_any_source_that_is_set_up_it_says_why() -> None:
    found = fetch(load_plugins().sources, samples())
    assert set(found.documents.values()) == {()}
    assert found.ledgers == {}
    assert found.reasons == {
        "user_documents": "knowledge_sources.user_documents is not set.",
        "corpus": "knowledge_sources.corpus is not set.",
        "wikidata": "knowledge_sources.wikidata_url is not set.",
        "endpoint": "knowledge_sources.endpoint_url is not set.",
    }


def test_the_order_of_the_settings_decides() -> None:
    first, second = Fixed(*documents("a")), Second(*documents("b"))
    found = fetch([first, second], samples(1), "knowledge_sources.order=[second]")
    assert [one.text for one in found.documents[samples(1)[0].sample_id]] == ["b"]
    assert first.asked == []
    with pytest.raises(SettingsError, match="names 'third', which is not loaded; loaded are fixed, second"):
        fetch([first, second], samples(1), "knowledge_sources.order=[third]")
    with pytest.raises(SettingsError, match="names 'fixed', which cannot be asked: it is shut"):
        fetch([Fixed(lacks="it is shut.")], samples(1), "knowledge_sources.order=[fixed]")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["text"], "returned str, expected Document"),
        ([Document(" ", "s", 1.0)], "a document whose text is ' '"),
        ([Document("x", "s", float("nan"))], "the score nan"),
        ([Document("x", "s", 0.1), Document("y", "s", 0.2)], "out of order"),
    ],
)
def test_a_source_that_breaks_its_contract_is_named_and_the_next_goes_on(answers: list[object], reason: str) -> None:
    found = fetch([Fixed(*answers), Second(*documents("b"))], samples(1))
    assert reason in found.reasons["fixed"]
    assert [one.text for texts in found.documents.values() for one in texts] == ["b"]


class Broken(Fixed):
    """Raises what it is given."""

    def documents(self, queries: Sequence[Query], limit: int, setup: Setup) -> Sequence[Sequence[Document]]:
        assert isinstance(self.answers[0], Exception)
        raise self.answers[0]


class Short(Fixed):
    """Forgets a query."""

    def documents(self, queries: Sequence[Query], limit: int, setup: Setup) -> Sequence[Sequence[Document]]:
        return super().documents(queries[1:], limit + 1, setup)


def test_a_source_that_raises_has_failed_but_a_users_error_goes_through() -> None:
    found = fetch([Broken(ValueError("oh")), Second(*documents("b"))], samples(1))
    assert found.reasons["fixed"] == "fixed failed: ValueError: oh"
    assert [one.text for texts in found.documents.values() for one in texts] == ["b"]
    with pytest.raises(EndpointError):
        fetch([Broken(EndpointError("down"))], samples(1))
    assert "answered 0 queries, expected 1" in fetch([Short()], samples(1)).reasons["fixed"]
    two = fetch([Short(*documents("a", "b"))], samples(1), "knowledge_sources.limit=1")
    assert "answered 0" in two.reasons["fixed"]


class Says(Judge):
    """Says what it is given."""

    name = "says"
    title = "Says"

    def __init__(self, *verdicts: object, lacks: str | None = None) -> None:
        self.verdicts = verdicts
        self.lacks = lacks

    def judge(self, pairs: Sequence[Pair], setup: Setup) -> Sequence[Verdict]:
        if self.verdicts and isinstance(self.verdicts[0], Exception):
            raise self.verdicts[0]
        return list(self.verdicts)  # type: ignore[arg-type]

    def missing(self, setup: Setup) -> str | None:
        return self.lacks


PAIRS = [Pair(*samples(2)), Pair(*samples(3)[1:])]


def test_a_verdict_below_the_least_confidence_is_unsure() -> None:
    judge = Says(Verdict(Choice.FIRST, 0.9, "Clear."), Verdict(Choice.SECOND, 0.5, "Hm."))
    judged = judge_pairs([judge], PAIRS, load_settings({}, ["judge.name=says"]))
    assert [verdict.choice for verdict in judged.verdicts] == [Choice.FIRST, Choice.UNSURE]
    assert judged.verdicts[1].reason == "Hm. Confidence in 'second' is below 0.6."
    assert (judged.ledger.judgements, judged.failure) == (2, None)


@pytest.mark.parametrize(
    ("verdicts", "reason"),
    [
        ([Verdict(Choice.FIRST, 0.9, "x")], "returned 1 verdicts, expected 2"),
        ([Verdict(Choice.FIRST, 1.1, "x")] * 2, "the confidence 1.1"),
        ([Verdict(Choice.FIRST, 0.9, "x\ny")] * 2, "expected one line"),
        (["first"] * 2, "expected a Verdict"),
        ([RuntimeError("oh")], "says failed: RuntimeError: oh"),
    ],
)
def test_a_judge_that_breaks_its_contract_is_unsure_of_everything(verdicts: list[object], reason: str) -> None:
    judged = judge_pairs([Says(*verdicts)], PAIRS, load_settings({}, ["judge.name=says"]))
    assert judged.failure is not None
    assert reason in judged.failure
    assert {verdict.choice for verdict in judged.verdicts} == {Choice.UNSURE}
    assert len(judged.verdicts) == 2


def test_the_default_judge_works_offline_and_an_unknown_one_is_an_error(tmp_path: Path) -> None:
    judges = load_plugins().judges
    judged = judge_pairs(judges, PAIRS, Settings(work_dir=tmp_path))
    assert (judged.judge, judged.ledger.judgements, judged.ledger.requests) == ("consensus", 2, 0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SettingsError, match=r"judge.name is 'oracle', which is not loaded; loaded are consensus, end"):
        judge_pairs(judges, PAIRS, load_settings({}, ["judge.name=oracle"]))
    with pytest.raises(SettingsError, match=r"which cannot be asked: judge.endpoint_url is not set"):
        judge_pairs(judges, PAIRS, load_settings({}, ["judge.name=endpoint"]))
    assert judge_pairs(judges, [], Settings()).verdicts == ()
