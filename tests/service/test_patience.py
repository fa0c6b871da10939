"""How long a job waits for a store that is down: from the begin of this outage, not of the first one that it met."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ilp_service.service.configuration import ServiceSettings
from ilp_service.service.endings import Ending
from ilp_service.service.work import Surroundings, Work

DOWN = {"event": "end", "status": "failed", "reason": "The tracking server does not answer.", "down": True}
RESOLVED = {"run_id": "r"}


class Script:
    """What attempts say, one list an attempt, and the seconds that go by before each of its words."""

    def __init__(self, attempts: list[list[tuple[float, dict[str, Any]]]]) -> None:
        self.attempts, self.time = attempts, 1.0

    def start(self, _resolved: object) -> SimpleNamespace:
        words = iter(self.attempts.pop(0))

        def heard(_seconds: float) -> dict[str, Any] | None:
            seconds, said = next(words, (0.0, None))
            self.time += seconds
            return said

        return SimpleNamespace(
            next=heard, pause=0.0, over=False, check=lambda: None, close=lambda: 0, stop=lambda: None, killed_for=None
        )


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Work, Script]:
    """A job's work with patience for 100 seconds, and what its attempts will say."""
    row = {"job_id": "j", "round": 0, "model": "m", "version": "1", "run_id": None, "status": "running", "worker": "w"}
    ledger = SimpleNamespace(change=lambda *_, **__: True, row=lambda *_: row)
    around = SimpleNamespace(
        settings=ServiceSettings(patience=100),
        ledger=ledger,
        work_dir=tmp_path,
        worker="w",
        stopping=SimpleNamespace(is_set=lambda: False),
    )
    one, script = Work(cast("Surroundings", around), cast("Any", row)), Script([])
    monkeypatch.setattr(one, "_start", script.start)
    monkeypatch.setattr(one, "_pause", lambda *_: None)
    monkeypatch.setattr("ilp_service.service.work.time", SimpleNamespace(monotonic=lambda: script.time))
    return one, script


def step(name: str) -> dict[str, Any]:
    return {"event": "step", "step": name, "facts": {"of": name}}


def test_an_outage_that_was_over_does_not_count_in_the_next(work: tuple[Work, Script]) -> None:
    one, script = work
    part = {"event": "progress", "part": 0.5}
    script.attempts = [
        [(1, DOWN)],
        [(1, step("stage")), (500, DOWN)],
        [(1, step("stage")), (500, part), (1, DOWN)],
        [(1, step("stage")), (1, part), (500, step("evaluate")), (1, DOWN)],
        [(1, step("stage")), (1, step("evaluate")), (1, step("attribute"))],
    ]
    for name in ("stage", "evaluate", "attribute"):
        assert one.step(name, RESOLVED) == {"of": name}
    assert script.attempts == []


def test_a_job_that_gets_no_further_does_not_wait_for_ever(work: tuple[Work, Script]) -> None:
    one, script = work
    # The store answers questions, and takes no report.
    again = [(1.0, step("stage")), (30.0, {"event": "progress", "part": 0.9}), (1.0, step("evaluate")), (1.0, DOWN)]
    script.attempts = [list(again) for _ in range(9)]
    assert one.step("evaluate", RESOLVED) == {"of": "evaluate"}
    assert one.step("attribute", RESOLVED) == {"status": "failed", "reason": DOWN["reason"]}
    assert len(script.attempts) == 4


def test_a_store_that_answered_while_the_job_was_resolved_is_not_away(
    work: tuple[Work, Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, script = work
    down = Ending("failed", str(DOWN["reason"]), again=True, down=True)
    assert one._again(down) is None
    script.time += 500
    monkeypatch.setattr(one, "_resolved", lambda: RESOLVED)
    assert one.resolve() == RESOLVED
    assert one._again(down) is None
