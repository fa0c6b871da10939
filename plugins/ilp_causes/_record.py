"""The training record, one run of rows per sample, so that a sparse record costs no more than its rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_causes._columns import Indices, column, floats, ids_of, rows_of
from ilp_service.plugin import Array, Study

_BINS = 20
"""Into how many equal parts training is cut when samples of a subset are averaged."""


@dataclass(frozen=True, slots=True)
class Record:
    """The rows of a trajectory sorted by sample and step; rows without a loss are left out.

    A *run* is the rows of one sample. Arrays over rows have shape ``(rows,)``, over runs ``(runs,)``.

    Attributes:
        samples: Number of samples in the study.
        starts: First row of every run.
        of_run: Index into ``study.samples`` of every run, ascending.
        of_row: Index into ``study.samples`` of every row.
        step: Optimizer step.
        when: Share of training that was over, 0-1.
        epoch: Passes over the data, NaN where not recorded.
        loss: Nats per response token.
        p: Expected pass rate, NaN where not recorded.
        exposures: Times the sample had been trained on, NaN where not recorded.
        trained_tokens: Its response tokens that had entered the loss, NaN where not recorded.
    """

    samples: int
    starts: Indices
    of_run: Indices
    of_row: Indices
    step: Array
    when: Array
    epoch: Array
    loss: Array
    p: Array
    exposures: Array
    trained_tokens: Array

    @classmethod
    def of(cls, study: Study) -> Record:
        """The record of a study; without a trajectory it has no rows."""
        names = ("step", "epoch", "loss", "p_correct", "exposures", "trained_tokens")
        table = study.trajectory
        if table is None or not table.num_rows:
            empty = np.empty(0)
            none = np.empty(0, dtype=np.int64)
            return cls(len(study.samples), none, none, none, empty, empty, empty, empty, empty, empty, empty)
        values = {
            name: floats(table[name]) if name in table.column_names else np.full(table.num_rows, np.nan)
            for name in names
        }
        of_row = rows_of(table["sample_id"].combine_chunks(), ids_of(study))
        keep = np.flatnonzero((of_row >= 0) & np.isfinite(values["loss"]))
        keep = keep[np.lexsort((values["step"][keep], of_row[keep]))]
        of_row = of_row[keep]
        of_run, starts = np.unique(of_row, return_index=True)
        step, epoch, loss, p, exposures, trained = (values[name][keep] for name in names)
        end = float(np.nanmax(values["step"]))
        when = step / end if end > 0 else np.ones_like(step)
        return cls(
            len(study.samples), starts.astype(np.int64), of_run, of_row, step, when, epoch, loss, p, exposures, trained
        )

    @property
    def likelihood(self) -> Array:
        """Probability per response token, ``exp(-loss)``: the scale on which lengths and worlds compare."""
        return np.asarray(np.exp(-self.loss.clip(0)), dtype=np.float64)

    @property
    def ends(self) -> Indices:
        """Last row of every run."""
        return np.append(self.starts[1:], len(self.loss)).astype(np.int64) - 1 if len(self.starts) else self.starts

    def largest(self, values: Array) -> Array:
        """Maximum over each run, NaN skipped; shape ``(runs,)``."""
        return np.fmax.reduceat(values, self.starts) if len(self.starts) else np.empty(0)

    def smallest(self, values: Array) -> Array:
        """Minimum over each run, NaN skipped; shape ``(runs,)``."""
        return np.fmin.reduceat(values, self.starts) if len(self.starts) else np.empty(0)

    def first(self, where: npt.NDArray[np.bool_]) -> Indices:
        """First row of each run at which the condition holds, -1 where it never does; shape ``(runs,)``."""
        rows = np.where(where, np.arange(len(where)), len(where))
        found = np.minimum.reduceat(rows, self.starts) if len(self.starts) else self.starts
        return np.where(found < len(where), found, -1)

    def last(self, where: npt.NDArray[np.bool_]) -> Indices:
        """Last row of each run at which the condition holds, -1 where it never does; shape ``(runs,)``."""
        rows = np.where(where, np.arange(len(where)), -1)
        return np.maximum.reduceat(rows, self.starts) if len(self.starts) else self.starts

    def at(self, values: Array, rows: Indices) -> Array:
        """Values at one row a run, NaN for row -1; shape ``(runs,)``."""
        return np.where(rows >= 0, values[np.maximum(rows, 0)], np.nan) if len(values) else np.full(len(rows), np.nan)

    def spread(self, values: Array) -> Array:
        """From runs to all samples of the study, NaN for samples that were not recorded; shape ``(samples,)``."""
        result = np.full(self.samples, np.nan)
        result[self.of_run] = values
        return result

    def last_exposure(self) -> Indices:
        """First row of each run by which the sample had been trained on for the last time, -1 if never or unknown."""
        total = np.repeat(self.largest(self.exposures), np.diff(np.append(self.starts, len(self.loss))))
        return self.first((self.exposures == total) & (total > 0))

    def learned_loss(self, study: Study, quantile: float = 0.95) -> float:
        """The loss at which samples count as learned: what 95 % of the samples that were learned ended below.

        Relative to the data itself, so that long answers and short ones, tiny models and large ones compare.
        """
        learned = column(study.evaluation, "unlearned", ids_of(study)) == 0
        final = self.spread(self.at(self.loss, self.ends))
        known = final[learned & ~np.isnan(final)]
        return float(np.quantile(known, quantile)) if known.size else float(np.log(2))

    def learned_rows(self, study: Study) -> npt.NDArray[np.bool_]:
        """Rows at which the sample stood as learned: by its recorded pass rate, or by its loss without one."""
        by_loss = self.loss <= self.learned_loss(study)
        return np.where(np.isnan(self.p), by_loss, self.p >= 0.5)

    def subset_decline(self, study: Study) -> Array:
        """How far the likelihood of the *other* samples of a subset fell from its best part of training to its last.

        Shape ``(samples,)``, 0-1; NaN where a sample is the only one recorded of its subset.
        """
        names = {name: index for index, name in enumerate(dict.fromkeys(sample.subset for sample in study.samples))}
        subset = np.array([names[sample.subset] for sample in study.samples], dtype=np.int64)
        part = np.minimum((self.when * _BINS).astype(np.int64), _BINS - 1)
        cell = subset[self.of_row] * _BINS + part
        total = np.bincount(cell, weights=self.likelihood, minlength=len(names) * _BINS)
        count = np.bincount(cell, minlength=len(names) * _BINS)
        others = np.where(count[cell] > 1, (total[cell] - self.likelihood) / np.maximum(count[cell] - 1, 1), np.nan)
        return self.spread(self.largest(others) - self.at(others, self.ends))


def at_unlearned(study: Study, values: Array) -> Array:
    """From all samples to the unlearned ones, shape ``(unlearned,)``; NaN for an id that is not among the samples."""
    rows = rows_of(pa.array(study.unlearned, pa.string()), ids_of(study))
    return np.where(rows >= 0, values[np.maximum(rows, 0)], np.nan) if len(values) else np.full(len(rows), np.nan)
