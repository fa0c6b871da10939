"""What a worker has in hand: no two rounds of a job at once."""

from __future__ import annotations

from ilp_service.service.hands import Hands


def test_rounds_of_one_job_come_one_after_the_other() -> None:
    hands = Hands()
    assert all(hands.take(("j", turn)) for turn in (0, 1, 2))
    assert not hands.take(("j", 0))
    assert hands.take(("other", 1))
    assert [hands.may_begin(("j", turn)) for turn in (0, 1, 2)] == [True, False, False]
    assert hands.may_begin(("other", 1))
    hands.leave(("j", 0))
    assert [hands.may_begin(("j", turn)) for turn in (1, 2)] == [True, False]
    hands.leave(("j", 1))
    assert hands.may_begin(("j", 2))
    assert (len(hands), ("j", 2) in hands, ("j", 1) in hands) == (2, True, False)
