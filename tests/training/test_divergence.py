from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilp_service.training.divergence import PATIENCE, WINDOW, LossWatch


def first_problem(losses: list[float]) -> tuple[int, str] | None:
    watch = LossWatch(len(losses))
    for step, loss in enumerate(losses):
        problem = watch.see(loss)
        if problem is not None:
            return step, problem
    end = watch.end()
    return None if end is None else (len(losses), end)


@given(st.lists(st.floats(0.01, 3), min_size=1, max_size=80))
def test_a_loss_within_three_nats_of_nothing_is_no_divergence(losses: list[float]) -> None:
    assert first_problem(losses) is None


@given(st.lists(st.floats(0.5, 1.5), min_size=1, max_size=60), st.floats(10, 1e9))
def test_a_loss_that_rises_and_stays_ends_the_training_in_time(usual: list[float], high: float) -> None:
    found = first_problem([*usual, *[high] * 60])
    assert found is not None
    assert len(usual) + PATIENCE - 1 <= found[0] <= len(usual) + WINDOW + PATIENCE
    assert "the loss rose from" in found[1]


def test_a_jump_that_passes_is_no_divergence() -> None:
    assert first_problem([1.0] * 30 + [9.0] * 8 + [3.0] * 30 + [0.5] * 20) is None
    assert first_problem([1.0] * 1000 + [9.0] * 80 + [3.0] * 1000) is None
    assert first_problem([1.0] * 1000 + [9.0] * 1080) is not None


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_training_at_once(loss: float) -> None:
    assert first_problem([1.0, 1.0, loss, 1.0]) == (2, f"the loss is {loss}")


def test_an_explosion_at_the_very_start_is_seen() -> None:
    found = first_problem([5.0, *[500.0] * 60])
    assert found is not None
    assert found[0] == PATIENCE


def test_a_short_training_that_ends_high_has_diverged() -> None:
    assert first_problem([2.0, 2.0, 80.0, 90.0]) == (4, "the loss rose from 2 to 43.5 nats a token")
