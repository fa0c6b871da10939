"""Whether a cause's own evidence is as strong as in the cases where it is known to be the reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.attribution.augmentation import Array, Labels, cause_of

LEVEL = 0.97
"""Share of the known cases, in worlds left out, whose evidence is taken to be strong enough."""

_POINTS = 100
_SIDES = {b"+": 1.0, b"-": -1.0}


def sides_of(schema: pa.Schema, features: Sequence[str]) -> Array:
    """Which way each signal speaks for its own cause, as its plugin declares (``direction`` of the field's metadata).

    Returns:
        +1 where higher values do, -1 where lower ones do, 0 where neither or not known; shape ``(features,)``.
    """
    told = [(schema.field(feature).metadata or {}).get(b"direction", b"") for feature in features]
    return np.array([_SIDES.get(direction, 0.0) for direction in told], dtype=np.float64)


def known_values(rows: Array, labels: Labels, features: Sequence[str]) -> Array:
    """Quantiles of every signal among the samples of its own cause; shape ``(features, points)``, NaN if none."""
    grid = np.linspace(0, 1, _POINTS)
    known = np.full((len(features), _POINTS), np.nan)
    for column, feature in enumerate(features):
        values = rows[labels == cause_of(feature), column]
        values = values[~np.isnan(values)]
        if len(values):
            known[column] = np.quantile(values, grid, method="inverted_cdf")
    return known


def weakness(rows: Array, known: Array, sides: Array) -> Array:
    """How much weaker a cause's evidence is than in its known cases, never negative.

    For each signal that points anywhere, the share ``t`` of the known cases with a value at most as favourable; the
    mean over the measured signals of ``log(t)^2``. Evidence stronger than any known counts as no weakness.

    Args:
        rows: Signals of one cause, shape ``(rows, features)``.
        known: Their values in known cases, shape ``(features, points)``.
        sides: Which way they point, shape ``(features,)``.
    """
    total, measured = np.zeros(len(rows)), np.zeros(len(rows))
    for column in range(rows.shape[1]):
        if sides[column] == 0 or np.isnan(known[column]).any():
            continue
        here = ~np.isnan(rows[:, column])
        # In single precision, in which tables of signals are kept: a value that ties with known ones is to tie still.
        reference = np.sort((sides[column] * known[column]).astype(np.float32))
        at_most = np.searchsorted(reference, (sides[column] * rows[here, column]).astype(np.float32), side="right")
        total[here] += np.log((at_most + 0.5) / (len(reference) + 1)) ** 2
        measured[here] += 1
    return np.asarray(total / np.maximum(measured, 1), dtype=np.float64)


def limits(
    rows: Array, labels: Labels, worlds: Labels, features: Sequence[str], causes: Sequence[str], sides: Array
) -> Array:
    """The weakness that :data:`LEVEL` of each cause's known cases stay below, judged by the other worlds.

    Returns:
        Shape ``(causes,)``; infinite for a cause that is known from one world only.
    """
    found = np.full(len(causes), np.inf)
    for place, cause in enumerate(causes):
        block = _block(features, cause)
        own = labels == cause
        weak: list[Array] = []
        for world in np.unique(worlds[own]):
            inside = worlds == world
            if (own & ~inside).any():
                known = known_values(rows[~inside], labels[~inside], features)
                weak.append(weakness(rows[np.ix_(own & inside, block)], known[block], sides[block]))
        if weak:
            found[place] = np.quantile(np.concatenate(weak), LEVEL)
    return found


def plausible(
    rows: Array, features: Sequence[str], causes: Sequence[str], known: Array, sides: Array, most: Array
) -> npt.NDArray[np.bool_]:
    """Where each cause's own evidence is as strong as in its known cases; shape ``(rows, causes)``."""
    found = np.ones((len(rows), len(causes)), dtype=np.bool_)
    for place, cause in enumerate(causes):
        block = _block(features, cause)
        found[:, place] = weakness(rows[:, block], known[block], sides[block]) <= most[place]
    return found


def _block(features: Sequence[str], cause: str) -> npt.NDArray[np.int64]:
    return np.flatnonzero([cause_of(feature) == cause for feature in features])
