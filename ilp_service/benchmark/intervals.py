"""Medians over worlds, with bootstrap intervals in which the world is what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

LEVEL = 0.95
RESAMPLES = 9999

ONE_WORLD = "one world says nothing about how much worlds differ, so there is no interval"


@dataclass(frozen=True, slots=True)
class Summary:
    """A figure over worlds.

    Attributes:
        value: Median (or mean) of the worlds' figures.
        low: Lower end of its 95 % interval; ``None`` for fewer than two worlds.
        high: Upper end.
        worlds: Number of worlds.
        note: Why there is no interval; empty if there is one.
    """

    value: float
    low: float | None
    high: float | None
    worlds: int
    note: str = ""

    def public(self) -> dict[str, Any]:
        """Ready for JSON; the note only where there is something to say."""
        return {key: value for key, value in asdict(self).items() if key != "note" or value}


def summarise(
    figures: Sequence[float], *, seed: int = 0, statistic: Literal["median", "mean"] = "median"
) -> Summary | None:
    """Median or mean over worlds, with its percentile bootstrap interval.

    The interval tells how far the figure moves with the choice of worlds. With few worlds it is too short rather
    than too long: the smallest and largest world are all it can see.

    Args:
        figures: One figure a world; the order does not matter.
        seed: Of the resampling.
        statistic: What is taken over the worlds.

    Returns:
        ``None`` without any world.
    """
    from scipy.stats import bootstrap

    values = np.sort(np.asarray(figures, dtype=np.float64))
    if not len(values):
        return None
    take = np.median if statistic == "median" else np.mean
    value = float(take(values))
    if len(values) == 1:
        return Summary(value, None, None, 1, ONE_WORLD)
    found = bootstrap(
        (values,),
        take,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    low, high = (float(end) for end in found.confidence_interval)
    return Summary(value, low, high, len(values))
