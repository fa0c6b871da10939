"""The conformance checks of sources and judges catch what they are there to catch."""
# ruff: noqa: ARG002 - the methods of a fake have the arguments of a real one

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ilp_service.plugin import Choice, Document, Judge, KnowledgeSource, Pair, Query, Setup, Verdict
from ilp_service.testing import check_judge, check_source


class Good(KnowledgeSource):
    """Passes."""

    name = "good"
    title = "A good source"

    def documents(self, queries: Sequence[Query], limit: int, setup: Setup) -> Sequence[Sequence[Document]]:
        return [self.one(query, limit) for query in queries]

    def one(self, query: Query, limit: int) -> list[Document]:
        return [Document(f"{query.prompt} {place}", "test", -place) for place in range(min(limit, 2))]


class Counting(Good):
    """Says something else every time."""

    def __init__(self) -> None:
        self.count = 0

    def one(self, query: Query, limit: int) -> list[Document]:
        self.count += 1
        return [Document(str(self.count), "test", 1.0)]


class ByCrowd(Good):
    """Looks at how many are asked."""

    def documents(self, queries: Sequence[Query], limit: int, setup: Setup) -> Sequence[Sequence[Document]]:
        return [[Document(str(len(queries)), "test", 1.0)] for _ in queries]


class ByPlace(Good):
    """Looks at the place in the list."""

    def documents(self, queries: Sequence[Query], limit: int, setup: Setup) -> Sequence[Sequence[Document]]:
        return [[Document(str(place), "test", 1.0)] for place, _ in enumerate(queries)]


class Generous(Good):
    """Gives more than was asked for."""

    def one(self, query: Query, limit: int) -> list[Document]:
        return [Document(f"{place}", "test", 1.0) for place in range(limit + 1)]


class Ascending(Good):
    """Has the best last."""

    def one(self, query: Query, limit: int) -> list[Document]:
        return [Document(f"{place}", "test", place) for place in range(limit)]


class Untitled(Good):
    """Has no title."""

    title = ""


class Raising(Good):
    """Cannot read an empty prompt."""

    def one(self, query: Query, limit: int) -> list[Document]:
        return [Document(query.prompt.split()[0], "test", 1.0)]


class Shut(Good):
    """Is not set up."""

    def missing(self, setup: Setup) -> str | None:
        return "shut.door is not set."


class Rambling(Good):
    """Says on two lines what it lacks."""

    def missing(self, setup: Setup) -> str | None:
        return "shut\nshut"


def test_a_good_source_passes_and_one_that_is_not_set_up_is_not_asked() -> None:
    check_source(Good())
    check_source(Shut())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Counting(), "asked twice"),
        (ByCrowd(), "one by one"),
        (ByPlace(), "another order"),
        (Generous(), "On limit 1: good returned 2 documents for a query, expected at most 1"),
        (Ascending(), "out of order"),
        (Untitled(), "Untitled.title"),
        (Raising(), "good failed: IndexError"),
        (Rambling(), "expected None or one sentence"),
    ],
)
def test_each_breach_of_a_source_is_named(source: KnowledgeSource, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_source(source)


def test_a_source_that_should_be_set_up_has_to_be(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"good cannot be asked under the given setup: shut\.door"):
        check_source(Shut(), Setup({}, tmp_path))


class Fair(Judge):
    """Passes: the longer answer is right."""

    name = "fair"
    title = "A fair judge"

    def judge(self, pairs: Sequence[Pair], setup: Setup) -> Sequence[Verdict]:
        return [Verdict(self.choice(pair), 0.9, "So it is.") for pair in pairs]

    def choice(self, pair: Pair) -> Choice:
        first, second = len(pair.first.response), len(pair.second.response)
        return Choice.UNSURE if first == second else Choice.FIRST if first > second else Choice.SECOND


class FirstComes(Fair):
    """Likes whoever comes first."""

    def choice(self, pair: Pair) -> Choice:
        return Choice.FIRST


class TooSure(Fair):
    """Is surer than sure."""

    def judge(self, pairs: Sequence[Pair], setup: Setup) -> Sequence[Verdict]:
        return [Verdict(Choice.UNSURE, 2.0, "So it is.") for _ in pairs]


class Silent(Fair):
    """Gives no reason."""

    def judge(self, pairs: Sequence[Pair], setup: Setup) -> Sequence[Verdict]:
        return [Verdict(Choice.UNSURE, 0.0, "") for _ in pairs]


class Forgetful(Fair):
    """Forgets a pair."""

    def judge(self, pairs: Sequence[Pair], setup: Setup) -> Sequence[Verdict]:
        return super().judge(pairs[1:], setup)


class NeedsStudy(Fair):
    """Cannot do without a study."""

    def judge(self, pairs: Sequence[Pair], setup: Setup) -> Sequence[Verdict]:
        assert setup.study is not None
        return super().judge(pairs, setup)


def test_a_fair_judge_passes() -> None:
    check_judge(Fair())


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (FirstComes(), "the other way round"),
        (TooSure(), "the confidence 2.0"),
        (Silent(), "expected one line"),
        (Forgetful(), "verdicts, expected"),
        (NeedsStudy(), "On no study: fair failed: AssertionError"),
    ],
)
def test_each_breach_of_a_judge_is_named(judge: Judge, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_judge(judge)
