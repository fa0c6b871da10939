"""The zeroth cause: the sample never took part in the loss as meant, so no remedy for learning can help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_causes._columns import column, evidence_table, flag, ids_of, most, ratio
from ilp_causes._phrases import known, number, percent, text
from ilp_causes._record import Record, at_unlearned
from ilp_service.plugin import Array, Cause, Signal, Study

_CLEAN = 0.01
_FAULTS = (
    "truncated",
    "never_exposed",
    "unrecognised",
    "untrained",
    "unknown_tokens",
    "broken_text",
    "lost_in_scoring",
    "extra_bos",
)
_NATS = 1.0
"""A whole nat per token between training's loss and ours is no rounding: another template, or other weights."""


class TrainingPipeline(Cause):
    """Truncated, dropped, masked, rendered otherwise than meant, or scored with other weights than were trained."""

    name: ClassVar[str] = "training_pipeline"
    title: ClassVar[str] = "The sample did not take part in the loss as meant"
    signals: ClassVar[tuple[Signal, ...]] = (
        Signal("truncated", "0-1", "+", "Share of its response tokens that lie beyond the training length."),
        Signal("never_exposed", "0-1", "+", "1 if training finished without it in any batch."),
        Signal("unrecognised", "0-1", "+", "1 if what training was fed could not be recognised as it, but as others."),
        Signal(
            "untrained", "0-1", "+", "Share of its response tokens that did not enter the loss when it was in a batch."
        ),
        Signal("unknown_tokens", "0-1", "+", "Share of its tokens that the tokenizer does not know."),
        Signal("extra_bos", "tokens", "+", "Beginning-of-sequence tokens beyond the first."),
        Signal("broken_text", "0-1", "+", "1 if decoding its tokens does not give its text back."),
        Signal("no_end", "0-1", "+", "1 if nothing in its rendering teaches it to stop."),
        Signal("end_probability", "0-1", "-", "Tuned model's probability of the end token after the response."),
        Signal(
            "end_deficit",
            "nats",
            "+",
            "How far its log-probability lies below the median of the samples where it was scored.",
        ),
        Signal("loss_mismatch", "nats", "+", "Loss per token as scored now minus as recorded when training ended."),
        Signal(
            "lost_in_scoring", "0-1", "+", "1 if training recorded it as learned but scoring finds a far higher loss."
        ),
        Signal(
            "fault",
            "0-1",
            "+",
            "Share of the sample that its gravest fault touches, beyond what learned samples live with.",
        ),
        Signal("response_tokens", "text", "0", "Number of its response tokens.", "text"),
        Signal("truncated_tokens", "text", "0", "Number of them beyond the training length.", "text"),
        Signal("loss_recorded", "text", "0", "Last recorded loss, nats per response token.", "text"),
        Signal("loss_scored", "text", "0", "Loss as scored now, nats per response token.", "text"),
    )

    def collect(self, study: Study) -> pa.Table:
        """One row an unlearned sample; what only a training record shows is null without one."""
        ids = ids_of(study)

        def rendered(name: str) -> Array:
            return column(study.rendering, name, ids)

        tokens, cut = rendered("response_tokens"), rendered("truncated_tokens")
        ends = rendered("end_logprob")
        typical_end = float(np.median(ends[~np.isnan(ends)])) if (~np.isnan(ends)).any() else np.nan
        record = Record.of(study)
        last = record.ends
        exposures = record.spread(record.at(record.exposures, last))
        trained = record.spread(record.at(record.trained_tokens, last))
        recorded = record.spread(record.at(record.loss, last))
        was_learned = record.spread(flag(record.last(record.learned_rows(study)) == last))
        scored = -column(study.evaluation, "logprob_per_token", ids)
        mismatch = scored - recorded
        faults = {
            "truncated": ratio(cut, tokens).clip(0, 1),
            "never_exposed": flag(exposures == 0, exposures),
            "unrecognised": _unrecognised(record, exposures),
            "untrained": (1 - ratio(trained, exposures * tokens)).clip(0, 1),
            "unknown_tokens": ratio(rendered("unknown_tokens"), tokens + rendered("prompt_tokens")).clip(0, 1),
            "broken_text": 1 - rendered("round_trips"),
            "lost_in_scoring": flag((was_learned == 1) & (mismatch > _NATS), mismatch),
            "extra_bos": (rendered("bos_tokens") - 1).clip(0),
            "no_end": 1 - rendered("ends_with_eos"),
        }
        learned = column(study.evaluation, "unlearned", ids) == 0
        everywhere = {
            **faults,
            "fault": most([_beyond_learned(faults[name], learned) for name in _FAULTS]),
            "end_probability": np.exp(ends.clip(max=0)),
            "end_deficit": typical_end - ends,
            "loss_mismatch": mismatch,
        }
        quoted = {"response_tokens": tokens, "truncated_tokens": cut, "loss_recorded": recorded, "loss_scored": scored}
        return evidence_table(
            study,
            {name: at_unlearned(study, values) for name, values in everywhere.items()}
            | {name: _written(at_unlearned(study, values), name) for name, values in quoted.items()},
        )

    def rule(self, signals: Mapping[str, Array]) -> Array:
        """Not the paper's but ours: the verdict holds when a fault touches half of the response or more."""
        return np.nan_to_num(signals["fault"]).clip(0, 1)

    def excluded(self, signals: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """Nothing that was measured was lost that learned samples kept: in rendering, in exposure, in scoring."""
        clean: npt.NDArray[np.bool_] = np.nan_to_num(signals["fault"]) < _CLEAN
        return clean

    def explain(self, row: Mapping[str, Any]) -> str:
        """Name the faults that were found, gravest first."""
        found = []
        if number(row, "never_exposed"):
            found.append("training ended without it in any batch")
        if number(row, "unrecognised"):
            found.append("training was fed texts like it, but none that is rendered as it should be")
        if number(row, "broken_text"):
            found.append("decoding its tokens does not give its text back")
        if number(row, "truncated"):
            found.append(
                f"{text(row, 'truncated_tokens')} of its {text(row, 'response_tokens')} response tokens lie beyond the "
                "training length"
            )
        if number(row, "untrained") >= _CLEAN and not number(row, "never_exposed"):
            found.append(f"{percent(row, 'untrained')} of its response tokens never entered the loss")
        if number(row, "lost_in_scoring"):
            found.append(
                f"training ended with a loss of {text(row, 'loss_recorded')} nats per token but scoring finds "
                f"{text(row, 'loss_scored')}, as if other weights or another template had been trained"
            )
        if number(row, "unknown_tokens"):
            found.append(f"the tokenizer does not know {percent(row, 'unknown_tokens')} of its tokens")
        if number(row, "extra_bos"):
            found.append(f"it begins with {number(row, 'extra_bos') + 1:.0f} beginning-of-sequence tokens")
        if number(row, "no_end") and known(row, "no_end"):
            found.append("it has no end token")
        if not found:
            return "Nothing of it was lost on the way into the loss, as far as was measured."
        sentence = "; ".join(found)
        return f"{sentence[0].upper()}{sentence[1:]}."


def _unrecognised(record: Record, exposures: Array) -> Array:
    """1 where exposures of a recorded sample are unknown although others' are known, NaN if nobody's are known."""
    if np.isnan(exposures).all():
        return np.full(exposures.shape, np.nan)
    return record.spread(np.isnan(exposures[record.of_run]).astype(np.float64))


def _beyond_learned(fault: Array, learned: npt.NDArray[np.bool_]) -> Array:
    """A fault less its mean among learned samples: what they live with does not explain why another was not learned."""
    usual = fault[learned & ~np.isnan(fault)]
    return (fault - (usual.mean() if usual.size else 0.0)).clip(0, 1)


def _written(values: Array, name: str) -> list[str | None]:
    """Numbers that are quoted, never weighed."""
    form = "{:.2f}" if name.startswith("loss_") else "{:.0f}"
    return [None if np.isnan(value) else form.format(value) for value in values]
