"""An interval is of worlds, holds its median, and is not made up where there is one world."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ilp_service.benchmark.intervals import ONE_WORLD, summarise


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_the_interval_holds_the_value_and_stays_within_the_worlds(statistic: str) -> None:
    figures = list(np.random.default_rng(0).random(7))
    found = summarise(figures, statistic=statistic)  # type: ignore[arg-type]
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert min(figures) <= found.low <= found.value <= found.high <= max(figures)
    assert found.value == pytest.approx(getattr(np, statistic)(figures))


def test_one_world_has_no_interval_and_says_so() -> None:
    found = summarise([0.9])
    assert found is not None
    assert (found.value, found.low, found.high, found.note) == (0.9, None, None, ONE_WORLD)
    assert json.loads(json.dumps(found.public()))["note"] == ONE_WORLD
    assert summarise([]) is None


def test_a_seed_repeats_the_interval_and_order_does_not_matter() -> None:
    figures = [0.7, 0.9, 0.8, 0.95, 0.6]
    assert summarise(figures, seed=3) == summarise(figures[::-1], seed=3)


def test_worlds_that_agree_leave_nothing_open() -> None:
    found = summarise([0.5] * 5)
    assert found is not None
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)
    assert "note" not in found.public()


def test_more_worlds_make_a_shorter_interval() -> None:
    draw = np.random.default_rng(0).normal(size=200)
    few, many = summarise(list(draw[:8])), summarise(list(draw))
    assert few is not None
    assert many is not None
    assert many.high - many.low < few.high - few.low  # type: ignore[operator]
