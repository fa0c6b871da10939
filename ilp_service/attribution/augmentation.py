"""Copies of the training rows as they would look with less known, and rows that no cause explains."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ilp_service.attribution.rules import UNATTRIBUTED

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.str_]

BASE_CAUSES = ("missing_knowledge", "pretraining_conflict")
"""Built-in causes without a signal that does not need the base model."""

FORMS = ("zero_shot_", "few_shot_", "cloze_")
"""How the signals of those causes begin that belong to one form of asking; the others pool all forms."""

UNUSUAL_FORM = "cloze_"
"""The form in which long questions cannot be asked."""

TRAJECTORY_CAUSES = ("left_side_forgetting",)
"""Built-in causes that are not measured at all without a training record."""

TRAJECTORY_SIGNALS = (
    "insufficient_optimization.exposures_ratio",
    "insufficient_optimization.late_gain",
    "insufficient_optimization.late_gain_excess",
    "insufficient_optimization.late_fall",
    "insufficient_optimization.second_half_fall",
    "insufficient_optimization.improving",
    "insufficient_optimization.shortfall",
    "training_pipeline.never_exposed",
    "training_pipeline.untrained",
    "training_pipeline.loss_mismatch",
    "training_pipeline.lost_in_scoring",
    "training_pipeline.unrecognised",
)
"""Signals of the other built-in causes that need one."""

_NEAR_MISS_SHARE = 0.125
"""Near misses for every row of the table, at most."""
_TRIES = 3
_TAIL = 0.05
_TRUE_SHARE = 0.95

_RANDOM_SHARE = 0.3
_ROWS = 12_000
_UNEXPLAINED_SHARE = 6
"""One row that nothing explains for every six of the table: nearly as many as of each of five causes."""


def cause_of(feature: str) -> str:
    """The cause that a column ``<cause>.<signal>`` belongs to."""
    return feature.partition(".")[0]


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """What the classifier is fitted on.

    Attributes:
        rows: Signals, shape ``(rows, features)``; NaN where missing.
        labels: A cause or ``unattributed``.
        worlds: Where each row is from.
        calibrating: 1 for rows that the temperature is fitted to, 0 for others.
    """

    rows: Array
    labels: Labels
    worlds: Labels
    calibrating: Array


class Augmenter:
    """Makes training rows from those of the table.

    Args:
        features: Names of the columns, ``<cause>.<signal>``.
        rng: Source of every random draw.
    """

    def __init__(self, features: Sequence[str], rng: np.random.Generator) -> None:
        self._rng = rng
        names = [cause_of(feature) for feature in features]
        self._blocks: Mapping[str, npt.NDArray[np.int64]] = {
            cause: np.flatnonzero([name == cause for name in names]) for cause in dict.fromkeys(names)
        }
        self._base = np.array([name in BASE_CAUSES for name in names], dtype=np.bool_)
        signals = [feature.partition(".")[2] for feature in features]
        self._unusual = self._base & np.array([name.startswith(UNUSUAL_FORM) for name in signals], dtype=np.bool_)
        self._pooled = self._base & np.array([not name.startswith(FORMS) for name in signals], dtype=np.bool_)
        self._trajectory = np.array(
            [
                name in TRAJECTORY_CAUSES or feature in TRAJECTORY_SIGNALS
                for name, feature in zip(names, features, strict=True)
            ],
            dtype=np.bool_,
        )

    def masked(self, rows: Array) -> Array:
        """A copy in which every row has lost something.

        Each row loses, with equal chance: what needs the base model; what needs a training record; both; the
        whole evidence of one cause; each signal with a chance of 0.3; or the base's answers to statements, every
        second time with all that pools the forms of asking. So a probability stays calibrated where a real
        diagnosis could not measure everything.
        """
        copy = rows.copy()
        kinds = self._rng.integers(6, size=len(copy))
        copy[np.ix_((kinds == 0) | (kinds == 2), self._base)] = np.nan
        copy[np.ix_((kinds == 1) | (kinds == 2), self._trajectory)] = np.nan
        blocks = list(self._blocks.values())
        chosen = self._rng.integers(len(blocks), size=len(copy))
        for number, block in enumerate(blocks):
            copy[np.ix_((kinds == 3) & (chosen == number), block)] = np.nan
        lost = self._rng.random(copy.shape) < _RANDOM_SHARE
        copy[lost & (kinds == 4)[:, None]] = np.nan
        copy[np.ix_(kinds == 5, self._unusual)] = np.nan
        copy[np.ix_((kinds == 5) & (self._rng.random(len(copy)) < 0.5), self._pooled)] = np.nan
        return copy

    def unexplained(self, rows: Array, labels: Labels, worlds: Labels) -> tuple[Array, Labels]:
        """Rows that no cause explains: each cause's evidence is that of a sample which had *another* cause.

        Without them the classifier would have seen only samples of which one of its causes is true, and
        would name the least unlikely one for whatever is foreign to it.

        Returns:
            The rows, and the world that each was put together from.
        """
        made, origins = [], []
        for world in np.unique(worlds):
            here = np.flatnonzero(worlds == world)
            count = max(1, len(here) // _UNEXPLAINED_SHARE)
            mixed = np.full((count, rows.shape[1]), np.nan)
            for cause, block in self._blocks.items():
                donors = here[labels[here] != cause]
                if len(donors):
                    mixed[:, block] = rows[np.ix_(self._rng.choice(donors, size=count), block)]
            made.append(mixed)
            origins.append(np.full(count, world))
        return np.concatenate(made), np.concatenate(origins)

    def near_misses(self, rows: Array, labels: Labels, worlds: Labels) -> tuple[Array, Labels]:
        """Rows that are like those of a cause in all but a part of that cause's evidence.

        A sample of each cause gets one of its cause's signals, and all signals that move with it (rank correlation
        above a level that is drawn anew each time), from a sample of another cause in the same world. What still
        looks like the cause is left out: as many of its signals as in nineteen of twenty true samples lie within the
        middle nine tenths of the cause. So the classifier learns where each cause ends, not only where the next begins.

        Returns:
            The rows, and the world that each was put together from.
        """
        together = _rank_correlation(rows)
        made, origins = [rows[:0]], [worlds[:0]]
        for cause, block in self._blocks.items():
            own = rows[labels == cause][:, block]
            if not len(own):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of a signal that no sample of the cause has
                low, high = np.nanquantile(own, [_TAIL, 1 - _TAIL], axis=0)
            most = np.quantile(_outside(own, low, high), _TRUE_SHARE)
            for world in np.unique(worlds[labels == cause]):
                here = worlds == world
                others = np.flatnonzero(here & (labels != cause))
                if not len(others):
                    continue
                count = max(1, round(_NEAR_MISS_SHARE * here.sum() / len(self._blocks)))
                tries = _TRIES * count
                first = rows[self._rng.choice(np.flatnonzero(here & (labels == cause)), size=tries)]
                second = rows[self._rng.choice(others, size=tries)]
                levels = self._rng.random(tries)[:, None]
                swapped = together[self._rng.choice(block, size=tries)] >= levels
                mixed = np.where(swapped, second, first)
                differ = (first != second) & ~(np.isnan(first) & np.isnan(second))
                # Else it would be one of the two samples, whose cause is known.
                between = (differ & swapped).any(axis=1) & (differ & ~swapped).any(axis=1)
                missed = mixed[between & (_outside(mixed[:, block], low, high) > most)][:count]
                made.append(missed)
                origins.append(np.full(len(missed), world))
        return np.concatenate(made), np.concatenate(origins)

    def apply(self, rows: Array, labels: Labels, worlds: Labels) -> TrainingRows:
        """The table's rows and rows that nothing explains, masked copies of each, and near misses.

        A small table gets more copies, up to four, so that every kind of loss is seen often enough. Near misses are
        not masked, for what was missed might be what is lost; and they teach but do not calibrate, for how often a
        sample is one, nobody knows.
        """
        strange, origins = self.unexplained(rows, labels, worlds)
        misses, missed_in = self.near_misses(rows, labels, worlds)
        whole = np.concatenate([rows, strange])
        named = np.concatenate([labels, np.full(len(strange), UNATTRIBUTED)])
        groups = np.concatenate([worlds, origins])
        copies = int(np.clip(_ROWS // len(whole) - 1, 1, 4))
        return TrainingRows(
            np.concatenate([whole, *(self.masked(whole) for _ in range(copies)), misses]),
            np.concatenate([np.tile(named, 1 + copies), np.full(len(misses), UNATTRIBUTED)]),
            np.concatenate([np.tile(groups, 1 + copies), missed_in]),
            np.repeat([1.0, 0.0], [len(whole) * (1 + copies), len(misses)]),
        )


def _rank_correlation(rows: Array) -> Array:
    """Absolute rank correlation of the columns, missing values in the middle; 1 on the diagonal."""
    from scipy.stats import rankdata

    ranks = np.zeros_like(rows)
    for column, values in enumerate(rows.T):
        known = ~np.isnan(values)
        if known.any():
            ranks[known, column] = rankdata(values[known]) / known.sum()
            ranks[known, column] -= ranks[known, column].mean()
    spread = np.sqrt((ranks**2).sum(axis=0))
    scaled = np.divide(ranks, spread, out=np.zeros_like(ranks), where=spread > 0)
    found = np.abs(scaled.T @ scaled)
    np.fill_diagonal(found, 1.0)
    return np.asarray(found, dtype=np.float64)


def _outside(rows: Array, low: Array, high: Array) -> npt.NDArray[np.int64]:
    """How many signals of each row lie outside the range; a missing one does not."""
    return np.asarray(((rows < low) | (rows > high)).sum(axis=1), dtype=np.int64)
