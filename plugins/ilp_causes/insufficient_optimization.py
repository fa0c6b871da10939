"""Cause V: rare or long-tail, and still improving when training stopped (arXiv 2604.10079, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ilp_causes._columns import Indices, column, evidence_table, flag, ids_of, ratio, share_below
from ilp_causes._phrases import known, number, percent, quote, text
from ilp_causes._record import Record, at_unlearned
from ilp_causes._words import Words
from ilp_service.plugin import Array, Cause, Signal, Study

_LATE = 0.75
_STOPPING = 0.01
"""Nats: the paper stops adding epochs when the loss no longer falls by its tolerance."""
_LONG_TAIL = 0.8


class InsufficientOptimization(Cause):
    """Training stopped, or showed the sample too seldom, before it was learned."""

    name: ClassVar[str] = "insufficient_optimization"
    title: ClassVar[str] = "Too rare and trained too little"
    signals: ClassVar[tuple[Signal, ...]] = (
        Signal("exposures_ratio", "ratio", "-", "Times trained on, relative to the median sample."),
        Signal("late_gain", "-1-1", "+", "Rise of its probability per token in the last quarter of training."),
        Signal("late_gain_excess", "-1-1", "+", "That rise minus the median sample's."),
        Signal("late_fall", "-inf-1", "+", "Share of its loss that the last quarter of training took away."),
        Signal("second_half_fall", "-inf-1", "+", "Share of its loss that the second half of its exposures took away."),
        Signal("improving", "0-1", "+", "1 if its loss fell by more than 0.01 nats per token in the last quarter."),
        Signal("loss_rank", "0-1", "+", "Share of all samples with a lower final loss per token."),
        Signal("shortfall", "0-1", "+", "How far its best probability per token stayed below that of learned samples."),
        Signal("rarity", "0-1", "+", "Share of all samples whose rarest prompt word is more common than its own."),
        Signal(
            "rarest_word_ratio", "ratio", "-", "Prompts that contain its rarest word, relative to the median sample's."
        ),
        Signal("template_rarity", "0-1", "+", "Share of all samples whose prompt template is more common."),
        Signal("answer_share", "0-1", "-", "Share of the samples of its template that have its answer."),
        Signal("answer_rarity", "0-1", "+", "Share of all samples whose answer is more common within their template."),
        Signal("rarest_word", "text", "0", "Its rarest prompt word.", "text"),
        Signal("rarest_word_count", "text", "0", "Number of prompts that contain it.", "text"),
        Signal("exposures", "text", "0", "Times it was trained on.", "text"),
        Signal("median_exposures", "text", "0", "Times the median sample was trained on.", "text"),
    )

    def collect(self, study: Study) -> pa.Table:
        """One row an unlearned sample; without a trajectory the rarity signals and the loss rank remain."""
        final_loss = -column(study.evaluation, "logprob_per_token", ids_of(study))
        columns: dict[str, Array | list[str | None]] = {
            "loss_rank": at_unlearned(study, share_below(final_loss, final_loss))
        }
        columns |= _progress(study) | _rarity(study)
        return evidence_table(study, columns)

    def rule(self, signals: Mapping[str, Array]) -> Array:
        """The paper's test: in the long tail, and still improving when training stopped.

        Long tail: rarer by word or by answer than four of five samples. Without a training record nothing shows
        that it was still improving, and the test does not hold.
        """
        tail = (signals["rarity"] >= _LONG_TAIL) | (signals["answer_rarity"] >= _LONG_TAIL)
        return flag(tail & (signals["improving"] == 1))

    def excluded(self, signals: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """It was not trained on at all: that is not too little training, but training that left it out."""
        left_out: npt.NDArray[np.bool_] = signals["exposures_ratio"] == 0
        return left_out

    def explain(self, row: Mapping[str, Any]) -> str:
        """Quote how rare it is, how often it was trained on, and whether it was still improving."""
        shown = (
            f"it was trained on {text(row, 'exposures')} times (the median sample {text(row, 'median_exposures')})"
            if known(row, "exposures")
            else "how often it was trained on is not recorded"
        )
        falling = (
            f"the last quarter of training still took {percent(row, 'late_fall')} off its loss"
            if number(row, "improving") and known(row, "late_fall")
            else f"{percent(row, 'loss_rank')} of all samples have a lower loss"
        )
        return (
            f"Its rarest word {quote(row, 'rarest_word')} stands in {text(row, 'rarest_word_count')} prompts, "
            f"{shown}, and {falling}."
        )


def _progress(study: Study) -> dict[str, Array | list[str | None]]:
    """Signals of the training record, shape ``(unlearned,)``; all NaN without one."""
    record = Record.of(study)
    ends = record.ends
    exposures = record.spread(record.at(record.exposures, ends))
    known_exposures = exposures[~np.isnan(exposures)]
    median = float(np.median(known_exposures)) if known_exposures.size else np.nan
    loss_end = record.at(record.loss, ends)
    # The last row of the first three quarters: a sparse record has none exactly at the mark.
    before = record.last(record.when <= _LATE)
    loss_before = record.at(record.loss, before)
    gain = record.at(record.likelihood, ends) - record.at(record.likelihood, before)
    gains = record.spread(gain)
    typical = float(np.median(gain[~np.isnan(gain)])) if (~np.isnan(gain)).any() else np.nan
    half = _half_exposed(record)
    loss_half = record.at(record.loss, half)
    loss_trained = record.at(record.loss, record.last_exposure())
    reference = float(np.exp(-record.learned_loss(study)))
    runs = {
        "late_fall": ratio(loss_before - loss_end, loss_before),
        "second_half_fall": ratio(loss_half - loss_trained, loss_half),
        "improving": flag(loss_before - loss_end > _STOPPING, loss_before),
        "shortfall": (reference - record.largest(record.likelihood)).clip(0, 1),
    }
    own = at_unlearned(study, exposures)
    columns: dict[str, Array | list[str | None]] = {
        name: at_unlearned(study, record.spread(values)) for name, values in runs.items()
    }
    return columns | {
        "exposures_ratio": ratio(own, np.full(own.shape, median)),
        "late_gain": at_unlearned(study, gains),
        "late_gain_excess": at_unlearned(study, gains - typical),
        "exposures": [None if np.isnan(value) else f"{value:.0f}" for value in own],
        "median_exposures": [None if np.isnan(median) else f"{median:g}"] * len(own),
    }


def _half_exposed(record: Record) -> Indices:
    """First row of each run by which half of its exposures had happened, -1 where they are unknown."""
    lengths = np.diff(np.append(record.starts, len(record.loss)))
    total = np.repeat(record.largest(record.exposures), lengths)
    return record.first((record.exposures >= total / 2) & (total > 0))


def _rarity(study: Study) -> dict[str, Array | list[str | None]]:
    """How rare the sample's words, template and answer are, shape ``(unlearned,)``."""
    words = Words.of(study)
    rarest = words.rarest()
    count = np.where(rarest >= 0, words.frequency[np.maximum(rarest, 0)] if words.vocabulary else 0.0, np.nan)
    templates = words.templates()
    in_template = np.bincount(templates, minlength=1)[templates].astype(np.float64)
    answer_share = ratio(_same_answer(study, templates), in_template)
    typical = float(np.nanmedian(count)) if (~np.isnan(count)).any() else np.nan
    place = at_unlearned(study, np.arange(words.prompts, dtype=np.float64))
    own = [int(rarest[int(index)]) if not np.isnan(index) else -1 for index in place]
    return {
        "rarity": at_unlearned(study, 1 - share_below(count, count)),
        # A share of all prompts would be smaller in a larger data set, whatever the sample.
        "rarest_word_ratio": at_unlearned(study, ratio(count, np.full(count.shape, typical))),
        "template_rarity": at_unlearned(study, 1 - share_below(in_template, in_template)),
        "answer_share": at_unlearned(study, answer_share),
        "answer_rarity": at_unlearned(study, 1 - share_below(answer_share, answer_share)),
        "rarest_word": [words.vocabulary[word] if word >= 0 else None for word in own],
        "rarest_word_count": [f"{words.frequency[word]:.0f}" if word >= 0 else None for word in own],
    }


def _same_answer(study: Study, templates: Indices) -> Array:
    """Number of samples that share both template and answer with each sample, itself included."""
    answers = pc.utf8_lower(
        pc.utf8_trim_whitespace(pa.array([sample.response for sample in study.samples], pa.string()))
    )
    codes = answers.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    pair = templates * (codes.max(initial=0) + 1) + codes
    _, which, counts = np.unique(pair, return_inverse=True, return_counts=True)
    return counts[which].astype(np.float64)
