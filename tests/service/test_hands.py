"""What a worker has in hand: no two rounds of a job at once, and no copy of a checkpoint gone from under a job."""

from __future__ import annotations

import pytest

from ilp_service.service.hands import Hands


@pytest.fixture
def gone() -> list[str]:
    return []


@pytest.fixture
def hands(gone: list[str]) -> Hands:
    return Hands(gone.append)


def begun(hands: Hands, job_id: str, turn: int = 0) -> bool:
    return hands.take((job_id, turn)) and hands.begin((job_id, turn))


def test_rounds_of_one_job_come_one_after_the_other(hands: Hands) -> None:
    assert begun(hands, "j")
    assert not hands.take(("j", 0))
    assert hands.take(("j", 1))
    assert hands.take(("j", 2))
    assert not hands.begin(("j", 1))
    hands.leave(("j", 0))
    assert not hands.begin(("j", 2))
    assert hands.begin(("j", 1))
    assert begun(hands, "other")
    hands.leave(("j", 1))
    assert hands.begin(("j", 2))
    assert (len(hands), ("j", 2) in hands, ("j", 1) in hands) == (2, True, False)


def test_copies_stay_as_long_as_any_job_runs(hands: Hands, gone: list[str]) -> None:
    assert begun(hands, "base")
    assert begun(hands, "tuned")
    hands.spent("models:/base/1")
    hands.leave(("base", 0))
    assert begun(hands, "late")
    hands.leave(("tuned", 0))
    assert gone == []
    # One that only waits uses nothing.
    assert hands.take(("next", 0))
    hands.leave(("late", 0))
    assert gone == ["models:/base/1"]


def test_a_long_queue_does_not_fill_the_disk(hands: Hands, gone: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ilp_service.service.hands._MOST_SPENT", 3)
    assert begun(hands, "slow")
    for number in range(3):
        assert begun(hands, str(number))
        hands.spent(f"models:/m/{number}")
        hands.leave((str(number), 0))
    assert not begun(hands, "next")
    assert gone == []
    hands.leave(("slow", 0))
    assert sorted(gone) == ["models:/m/0", "models:/m/1", "models:/m/2"]
    assert hands.begin(("next", 0))


def test_one_that_waits_for_copies_to_go_can_leave(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ilp_service.service.hands._MOST_SPENT", 1)
    assert begun(hands, "a")
    hands.spent("models:/m/1")
    assert not begun(hands, "b")
    hands.leave(("b", 0))
    hands.leave(("a", 0))
    assert len(hands) == 0
    assert begun(hands, "b")
