"""Retention adds exposures of what is not treated, within a budget, and only where something is taught."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ilp_service.changes import Change, EpochIncrement, TeachingDocument
from ilp_service.intervention.retention import retained, retaining

IDS = ("a", "b", "c", "d")
TAUGHT = Change(exposures={"a": 8.0}, removed={"d": "Wrong."})


def exposures_below(most: float) -> Callable[[Change], bool]:
    return lambda change: sum(change.exposures.get(key, 1.0) - 1 for key in "bc") <= most


def test_the_rest_is_shown_so_many_times_as_often_and_the_treated_as_they_were() -> None:
    change = retaining(TAUGHT, IDS, 2.0, lambda _: True)
    assert dict(change.exposures) == {"a": 8.0, "b": 2.0, "c": 2.0}
    assert retained(TAUGHT, change) == (2, 2.0)
    assert retaining(change, IDS, 2.0, lambda _: True) == change


def test_documents_alone_are_reason_enough() -> None:
    told = Change(documents=(TeachingDocument("A fact.", ("a",), ("missing_knowledge",), ("corpus",)),))
    assert set(retaining(told, IDS, 2.0, lambda _: True).exposures) == set(IDS)


@pytest.mark.parametrize(
    "change",
    [
        Change(),
        Change(shuffled=True, removed={"a": "Wrong."}),
        Change(exposures={"a": 8.0}, epochs=EpochIncrement(2, 0.01)),
    ],
)
def test_where_nothing_is_taught_or_everything_is_shown_again_nothing_is_added(change: Change) -> None:
    assert retaining(change, IDS, 2.0, lambda _: True) == change
    assert retained(change, change) == (0, 1.0)


def test_a_factor_of_one_and_a_budget_that_does_not_reach_leave_the_change_as_it_is() -> None:
    assert retaining(TAUGHT, IDS, 1.0, lambda _: True) == TAUGHT
    assert retaining(TAUGHT, IDS, 2.0, lambda _: False) == TAUGHT
    assert retaining(TAUGHT, ("a", "d"), 2.0, lambda _: True) == TAUGHT


@pytest.mark.parametrize(("room", "times"), [(2.0, 2.0), (1.0, 1.5), (0.13, 1.0625), (0.1, 1.0)])
def test_the_largest_part_that_fits(room: float, times: float) -> None:
    change = retaining(TAUGHT, IDS, 2.0, exposures_below(room))
    assert change.exposures.get("b", 1.0) == change.exposures.get("c", 1.0) == times
