"""The attributions table: one row an unlearned sample, with the most probable cause or an abstention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.attribution.meta import MetaClassifier
from ilp_service.attribution.rules import UNATTRIBUTED, sequential_causes
from ilp_service.attribution.weighing import Array, probabilities
from ilp_service.evidence.collection import explanation, signals_of

if TYPE_CHECKING:
    from ilp_service.evidence.collection import Evidence
    from ilp_service.plugin import Cause
    from ilp_service.settings import AttributionSettings


def attributions_schema(causes: Sequence[str]) -> pa.Schema:
    """Columns of the attributions table for these causes."""

    def field(name: str, kind: pa.DataType, unit: str, meaning: str, *, nullable: bool = True) -> pa.Field:
        return pa.field(name, kind, nullable, metadata={"unit": unit, "meaning": meaning})

    return pa.schema(
        [
            field("sample_id", pa.string(), "", "the unlearned sample", nullable=False),
            field("cause", pa.string(), "", "most probable cause, or unattributed", nullable=False),
            field("confidence", pa.float64(), "0-1", "probability of the most probable cause, named or not"),
            *(
                field(f"p_{name}", pa.float64(), "0-1", f"probability of {name}; null if it was not measured")
                for name in causes
            ),
            field(f"p_{UNATTRIBUTED}", pa.float64(), "0-1", "what the causes leave of 1"),
            field("runner_up", pa.string(), "", "next cause; the most probable one where unattributed; null if none"),
            field("rule_cause", pa.string(), "", "verdict of the paper's tests, one after another", nullable=False),
            field("explanation", pa.string(), "", "one sentence that quotes the evidence", nullable=False),
        ]
    )


def attribute(
    evidence: Evidence, causes: Sequence[Cause], meta: MetaClassifier, settings: AttributionSettings
) -> pa.Table:
    """Name the cause of every unlearned sample, or abstain.

    A sample is *unattributed* when its most probable cause stays below ``settings.min_confidence``, or below the
    probability that none of the causes is the reason. Ties go to the cause that was declared first.

    Returns:
        The attributions table, rows in the order of the evidence.
    """
    found = probabilities(evidence, causes, meta)
    unattributed = np.clip(1 - np.nansum(found, axis=1), 0, 1)
    names = [cause.name for cause in causes]
    schema = attributions_schema(names)
    if not names:
        found = np.zeros((evidence.table.num_rows, 1))
        names = [UNATTRIBUTED]
    ranked = np.argsort(-np.nan_to_num(found, nan=-1.0), axis=1, kind="stable")
    every = np.arange(len(found))
    top = ranked[:, 0]
    confidence = np.nan_to_num(found[every, top])
    named = (confidence >= settings.min_confidence) & (confidence >= unattributed) & (confidence > 0)
    chosen = [names[column] if sure else UNATTRIBUTED for column, sure in zip(top, named, strict=True)]
    columns = {
        "sample_id": evidence.table["sample_id"].combine_chunks(),
        "cause": chosen,
        "confidence": confidence,
        **{f"p_{cause.name}": pa.array(found[:, i], from_pandas=True) for i, cause in enumerate(causes)},
        f"p_{UNATTRIBUTED}": unattributed,
        "runner_up": _runners_up(found, ranked, named, names),
        "rule_cause": sequential_causes(evidence, causes),
        "explanation": _explanations(evidence, causes, chosen, _abstentions(found, top, names, settings)),
    }
    return pa.table(columns, schema=schema)


def _runners_up(
    found: Array, ranked: npt.NDArray[np.int64], named: npt.NDArray[np.bool_], names: Sequence[str]
) -> list[str | None]:
    """The next cause with any probability at all."""
    result: list[str | None] = []
    for row, sure in enumerate(named):
        place = 1 if sure else 0
        column = ranked[row, place] if place < ranked.shape[1] else None
        result.append(None if column is None or not found[row, column] > 0 else names[column])
    return result


def _abstentions(
    found: Array, top: npt.NDArray[np.int64], names: Sequence[str], settings: AttributionSettings
) -> list[str]:
    """Why no cause is named, for every row, whether it is or not."""
    sentences = []
    for row, column in enumerate(top):
        best = float(np.nan_to_num(found[row, column]))
        if best == 0:
            sentences.append("Nothing that was measured speaks for any of the causes.")
            continue
        nearest = f"No cause is probable enough: {names[column]} comes nearest with {best:.2f}"
        sentences.append(
            f"{nearest}, and {settings.min_confidence:.2f} is asked for."
            if best < settings.min_confidence
            else f"{nearest}, but it is more probable that none of the causes is the reason."
        )
    return sentences


def _explanations(
    evidence: Evidence, causes: Sequence[Cause], chosen: Sequence[str], abstentions: Sequence[str]
) -> list[str]:
    by_name = {cause.name: cause for cause in causes}
    rows = {name: signals_of(evidence.table, by_name[name]) for name in set(chosen) & set(by_name)}
    return [
        explanation(by_name[name], rows[name][index]) if name in rows else abstentions[index]
        for index, name in enumerate(chosen)
    ]
