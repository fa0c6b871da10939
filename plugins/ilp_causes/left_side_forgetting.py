"""Cause IV: learned early in the sequence of training, lost later (arXiv 2604.10079, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_causes._columns import Indices, column, evidence_table, flag, ids_of
from ilp_causes._phrases import known, number, percent, text
from ilp_causes._record import Record, at_unlearned
from ilp_service.plugin import Array, Cause, Need, Signal, Study

_EARLY = 0.5
_LOST = 0.1
"""Probability per token: a sample may be half learned when the tide turns, and that half forgotten."""
_WORSE = 0.1
"""Nats per token, after the last exposure."""
_PARTS = 10
"""The paper's Table 11 compares the first, middle and last tenth of the data."""


class LeftSideForgetting(Cause):
    """What later training overwrote: the record shows it learned, and the end shows it gone."""

    name: ClassVar[str] = "left_side_forgetting"
    title: ClassVar[str] = "Learned early in training, forgotten later"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TRAJECTORY})
    signals: ClassVar[tuple[Signal, ...]] = (
        Signal(
            "ever_learned", "0-1", "+", "1 if at some step it stood as learned (pass rate, or loss of learned samples)."
        ),
        Signal("peak_likelihood", "0-1", "+", "Highest probability per response token over training, exp(-loss)."),
        Signal("peak_drop", "0-1", "+", "Peak minus final probability per response token."),
        Signal("peak_drop_p", "0-1", "+", "Peak minus final pass rate, where the record has one."),
        Signal("learned_at", "0-1", "-", "Share of training over when it was first learned."),
        Signal("last_learned_at", "0-1", "-", "Share of training over when it was last learned."),
        Signal("after_last_exposure", "0-1", "+", "Share of training that came after its last exposure."),
        Signal("gain_until_last_exposure", "-1-1", "+", "Rise of its probability per token up to its last exposure."),
        Signal("loss_after_last_exposure", "-1-1", "+", "Fall of its probability per token after its last exposure."),
        Signal(
            "rise_after_last_exposure", "nats", "+", "Rise of its loss after its last exposure, per response token."
        ),
        Signal("distance_from_end", "0-1", "+", "Share of the data that stood after it in the file."),
        Signal(
            "late_advantage", "-1-1", "+", "Pass rate of the data's last tenth minus that of the sample's own tenth."
        ),
        Signal(
            "subset_decline", "0-1", "+", "How far the other samples of its subset fell from their best to the end."
        ),
        Signal("last_learned_step", "text", "0", "Optimizer step at which it was last learned.", "text"),
        Signal("last_step", "text", "0", "Last recorded step.", "text"),
        Signal("loss_then", "text", "0", "Its loss at that step, nats per response token.", "text"),
        Signal("loss_now", "text", "0", "Its loss at the last recorded step, nats per response token.", "text"),
    )

    def collect(self, study: Study) -> pa.Table:
        """One row an unlearned sample; all but the position is null for a sample that was not recorded."""
        record = Record.of(study)
        learned = record.learned_rows(study)
        likelihood = record.likelihood
        first, last = record.first(learned), record.last(learned)
        starts, ends, exposed = record.starts, record.ends, record.last_exposure()
        peak = record.largest(likelihood)
        final = record.at(likelihood, ends)
        trained = record.at(likelihood, exposed)
        runs: dict[str, Array] = {
            "ever_learned": flag(first >= 0),
            "peak_likelihood": peak,
            "peak_drop": peak - final,
            "peak_drop_p": record.largest(record.p) - record.at(record.p, ends),
            "learned_at": record.at(record.when, first),
            "last_learned_at": record.at(record.when, last),
            "after_last_exposure": 1 - record.at(record.when, exposed),
            "gain_until_last_exposure": trained - record.at(likelihood, starts),
            "loss_after_last_exposure": trained - final,
            "rise_after_last_exposure": record.at(record.loss, ends) - record.at(record.loss, exposed),
        }
        columns: dict[str, Array | list[str | None]] = {
            name: at_unlearned(study, record.spread(values)) for name, values in runs.items()
        }
        place = _place(study)
        columns |= {
            "distance_from_end": at_unlearned(study, 1 - _place(study, study.file_rows)),
            "late_advantage": at_unlearned(study, _late_advantage(study, place)),
            "subset_decline": at_unlearned(study, record.subset_decline(study)),
            "last_learned_step": _texts(study, record, record.step, last, "{:.0f}"),
            "last_step": _texts(study, record, record.step, ends, "{:.0f}"),
            "loss_then": _texts(study, record, record.loss, last, "{:.2f}"),
            "loss_now": _texts(study, record, record.loss, ends, "{:.2f}"),
        }
        return evidence_table(study, columns)

    def rule(self, signals: Mapping[str, Array]) -> Array:
        """The paper's test: learned in the first half, lost later, where the data does worse than at its end."""
        lost = signals["last_learned_at"] < 1
        return flag((signals["learned_at"] <= _EARLY) & lost & (signals["late_advantage"] > 0))

    def excluded(self, signals: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """Never learned at a recorded step, little lost of what it had gained, and no worse since its last exposure."""
        worse = np.nan_to_num(signals["rise_after_last_exposure"]) > _WORSE
        never: npt.NDArray[np.bool_] = (signals["ever_learned"] == 0) & (signals["peak_drop"] < _LOST) & ~worse
        return never

    def explain(self, row: Mapping[str, Any]) -> str:
        """Say when it was last learned, and its loss then and now."""
        if not known(row, "ever_learned"):
            return "The training record does not have this sample, so nothing is known about forgetting."
        if not number(row, "ever_learned"):
            return (
                "It was never quite learned: its probability per token "
                f"rose to {percent(row, 'peak_likelihood')} at best "
                f"and fell by {percent(row, 'peak_drop')} from there to the end of training."
            )
        if number(row, "last_learned_at") == 1:
            return (
                f"By its loss of {text(row, 'loss_now')} nats per token it still stood as learned at the last recorded "
                f"step; its probability per token had peaked {percent(row, 'peak_drop')} higher."
            )
        idle = (
            f", with {percent(row, 'after_last_exposure')} of training still to come after its last exposure"
            if known(row, "after_last_exposure")
            else ""
        )
        return (
            f"It was last learned at step {text(row, 'last_learned_step')} of {text(row, 'last_step')} "
            f"({percent(row, 'last_learned_at')} of training) with a loss of {text(row, 'loss_then')} nats per token, "
            f"which has risen to {text(row, 'loss_now')} since{idle}."
        )


def _place(study: Study, rows: int | None = None) -> Array:
    """Place of every sample among those diagnosed, or in a file of so many rows: 0 for the first, 1 for the last."""
    position = np.array([sample.position for sample in study.samples], dtype=np.float64)
    if not position.size:
        return position
    low, high = (position.min(), position.max()) if rows is None else (0.0, max(position.max(), rows - 1.0))
    return (position - low) / (high - low) if high > low else np.ones_like(position)


def _late_advantage(study: Study, place: Array) -> Array:
    """Mean pass rate of the last tenth of the data minus that of each sample's own tenth; shape ``(samples,)``."""
    p = column(study.evaluation, "p_correct", ids_of(study))
    part = np.minimum((place * _PARTS).astype(np.int64), _PARTS - 1)
    asked = ~np.isnan(p)
    total = np.bincount(part[asked], weights=p[asked], minlength=_PARTS)
    count = np.bincount(part[asked], minlength=_PARTS)
    mean = np.divide(total, count, out=np.full(_PARTS, np.nan), where=count > 0)
    return np.asarray((mean[-1] - mean[part]).clip(-1, 1), dtype=np.float64)


def _texts(study: Study, record: Record, values: Array, rows: Indices, form: str) -> list[str | None]:
    """A number at one row a run, written out; it is quoted, never weighed (steps do not compare between runs)."""
    found = at_unlearned(study, record.spread(record.at(values, rows)))
    return [None if np.isnan(value) else form.format(value) for value in found]
