"""The same diagnosis with less to go by: signals left out of training, or a study without its record or base.

Order and rarity are the signals that come closest to how forgetting and rare nouns are planted, so that a
classifier could read the recipe from them instead of the cause. It is trained and applied without them. A missing
training record or base is another matter: there the classifier stays as it is, as it does for a user, and the
evidence is collected again from a study that lacks them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.attribution.augmentation import cause_of
from ilp_service.evidence.collection import Evidence, collect_evidence
from ilp_service.plugin import Cause
from ilp_service.study import Study

ORDER = (
    "left_side_forgetting.distance_from_end",
    "left_side_forgetting.late_advantage",
    "left_side_forgetting.after_last_exposure",
)
"""Signals that know where in the data, or when in training, a sample stood."""

RARITY = (
    "insufficient_optimization.rarity",
    "insufficient_optimization.rarest_word_ratio",
    "insufficient_optimization.template_rarity",
    "insufficient_optimization.answer_share",
    "insufficient_optimization.answer_rarity",
)
"""Signals that count how rare its words, template or answer are."""

EXPOSURES = ("insufficient_optimization.exposures_ratio",)
"""How often it was drawn, which is how insufficient optimisation is planted."""

NO_ORDER_RARITY = "no_order_rarity"
NO_EXPOSURES = "no_order_rarity_exposures"
NO_TRAJECTORY = "no_trajectory"
NO_BASE = "no_base"

FEWER_SIGNALS: Mapping[str, tuple[str, ...]] = {
    NO_ORDER_RARITY: ORDER + RARITY,
    NO_EXPOSURES: ORDER + RARITY + EXPOSURES,
}
"""Signals that a classifier is trained and applied without, by the name of the ablation."""

_BASE_COLUMNS = ("base_", "few_shot_base_", "cloze_base_", "probe_base_", "jsd")


def without_signals(table: pa.Table, names: Collection[str]) -> pa.Table:
    """A table of signals without these columns.

    Raises:
        ValueError: One of them is not there: it would be left out of nothing.
    """
    missing = sorted(set(names) - set(table.column_names))
    if missing:
        raise ValueError(f"the table of signals has no column {missing[0]!r} that could be left out")
    return table.drop_columns(list(names))


def evidence_unseen(evidence: Evidence, names: Collection[str], causes: Sequence[Cause]) -> Evidence:
    """The evidence as it is where these signals are not known: null, and no cause ruled out because of them.

    What a cause's plugin rules out is no part of the classifier, so that a signal which the classifier is not shown
    could decide there all the same.
    """
    table = evidence.table
    for name in names:
        place = table.column_names.index(name)
        table = table.set_column(
            place, table.schema.field(name), pa.nulls(table.num_rows, table.schema.field(name).type)
        )
    touched = {cause_of(name) for name in names}
    excluded = dict(evidence.excluded)
    for cause in causes:
        if cause.name in touched and excluded.get(cause.name) is not None:
            numbers = [signal.name for signal in cause.signals if signal.kind == "number"]
            values = {name: _floats(table[f"{cause.name}.{name}"]) for name in numbers}
            excluded[cause.name] = np.asarray(cause.excluded(values), dtype=np.bool_)
    return replace(evidence, table=table, excluded=excluded)


def without_trajectory(study: Study) -> Study:
    """The study as it is when nobody recorded the training."""
    return replace(study, trajectory=None)


def without_base(study: Study) -> Study:
    """The study as it is when the base model is not known.

    The options stay: some of them were proposed by the base, which a diagnosis without it could not have asked.
    """
    return replace(
        study, has_base=False, evaluation=_without_columns(study.evaluation), options=_without_columns(study.options)
    )


def evidence_without(study: Study, causes: Sequence[Cause]) -> Mapping[str, Evidence]:
    """The evidence of a study that lacks its training record or its base, by the name of the ablation."""
    return {
        NO_TRAJECTORY: collect_evidence(without_trajectory(study), causes),
        NO_BASE: collect_evidence(without_base(study), causes),
    }


def unmeasured(evidence: Evidence) -> tuple[str, ...]:
    """The causes that could not be measured."""
    return tuple(name for name, status in evidence.status.items() if status == "not_measurable")


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A signal, NaN where it is not known."""
    return np.array(column.combine_chunks().to_numpy(zero_copy_only=False), dtype=np.float64)


def _without_columns(table: pa.Table) -> pa.Table:
    """The base's columns null."""
    for place, field in enumerate(table.schema):
        if field.name.startswith(_BASE_COLUMNS):
            table = table.set_column(place, field.with_nullable(True), pa.nulls(table.num_rows, field.type))
    return table
