from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState, TrainingArguments

from ilp_service.changes import EpochIncrement
from ilp_service.training import increments as module
from ilp_service.training.glance import Glance
from ilp_service.training.increments import HELD_OUT_MOST, EpochIncrementCallback, held_out
from ilp_service.training.rows import TrainingRow

ROWS = [TrainingRow("s", (1, 2, 3), 2), TrainingRow("t", (1, 2, 3), 1)]


@given(st.sets(st.text(min_size=1, max_size=3), max_size=40), st.integers(0, 20_000), st.integers(0, 9))
def test_two_percent_are_held_out_one_at_least_and_200_at_most(keys: set[str], samples: int, seed: int) -> None:
    chosen = held_out(sorted(keys), samples, seed)
    assert set(chosen) <= keys
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == min(len(keys), HELD_OUT_MOST, max(1, round(0.02 * samples)))
    assert chosen == held_out(sorted(keys, reverse=True), samples, seed)


def run(losses: Sequence[float], monkeypatch: pytest.MonkeyPatch, tolerance: float = 0.1) -> tuple[int, list[str]]:
    """Steps of a training of two passes and five further ones, five steps each."""
    callback = EpochIncrementCallback(EpochIncrement(5, tolerance), ROWS, [5, 10, 15, 20, 25, 30, 35], 4)
    left = iter(losses)

    def look(_model: object, _rows: object, _at_once: int) -> list[Glance]:
        loss = next(left)
        return [Glance(loss, 1, 0.0), Glance(2 * loss, 2, 0.0)]

    monkeypatch.setattr(module, "glance", look)
    control = TrainerControl()
    for step in range(1, 36):
        callback.on_step_end(TrainingArguments(), TrainerState(global_step=step), control, model=torch.nn.Linear(1, 1))
        if control.should_training_stop:
            return step, callback.notes
    assert next(left, None) is None
    return 35, callback.notes


@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        ([2.0, 1.5, 1.2, 1.4], 25),
        ([2.0, 2.2], 15),
        ([2.0, 2.05, 2.1, 2.15, 2.2, 2.25], 35),
        ([2.0, 1.8, 1.6, 1.4, 1.2, 9.0], 35),
    ],
)
def test_it_ends_at_the_first_pass_that_is_worse_than_the_one_before(
    losses: list[float], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, notes = run(losses, monkeypatch)
    assert done == steps
    assert len(notes) == len(losses)
    assert notes[0] == "Held-out loss after pass 2: 2.0000 nats a token over 2 samples."
    if steps < 35:
        assert notes[-1].endswith("more than 0.1 above the pass before: training ended.")


def test_without_held_out_samples_all_passes_are_made() -> None:
    callback, control = EpochIncrementCallback(EpochIncrement(2, 0.0), [], [5, 10, 15], 4), TrainerControl()
    for step in (5, 10, 15):
        callback.on_step_end(TrainingArguments(), TrainerState(global_step=step), control)
    assert not control.should_training_stop
    assert callback.notes == ["No sample could be held out, so no further pass was spared."]
