"""From the classifier's probabilities to those of a diagnosis: what was not measured, ruled out, or never trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ilp_service.attribution.meta import MetaClassifier
    from ilp_service.evidence.collection import Evidence
    from ilp_service.plugin import Cause

Array = npt.NDArray[np.float64]

_MOST = 0.95
"""What a full-strength rule may take from causes that the classifier believes in."""


def strength(scores: Array, threshold: float) -> Array:
    """How strongly a rule's verdict holds: 0 below its threshold, 0.5 at it, 1 for a score of 1."""
    above = np.clip((scores - threshold) / (1 - threshold), 0, 1) if threshold < 1 else np.ones_like(scores)
    return np.where(scores >= threshold, 0.5 + 0.5 * above, 0.0)


def probabilities(evidence: Evidence, causes: Sequence[Cause], meta: MetaClassifier) -> Array:
    """Probability of every cause for every sample, NaN in the column of a cause that was not measured.

    1. The classifier's probability, for a cause that it was trained on and that was measured.
    2. Where the evidence rules a cause out, its probability is 0. Nothing is shared out again: what a cause
       loses becomes *unattributed*.
    3. A cause without training takes from the others by the strength ``s`` of its rule: the share ``s`` of what
       is unattributed and ``0.95 (2s - 1)`` of what the classifier gave to others. A verdict at its threshold so
       explains what nothing else explains; a full one wins; none changes nothing.

    Returns:
        Array of shape ``(unlearned, causes)``; what a row lacks to 1 is *unattributed*.
    """
    rows = evidence.table.num_rows
    result = np.zeros((rows, len(causes)))
    trained = meta.predict_proba(evidence.table)
    for column, cause in enumerate(causes):
        if cause.name in meta.causes and evidence.status.get(cause.name) == "measured":
            result[:, column] = trained[:, meta.causes.index(cause.name)]
        result[_excluded(evidence, cause), column] = 0.0
    _let_rules_stand_in(result, evidence, causes, meta)
    for column, cause in enumerate(causes):
        if evidence.status.get(cause.name) != "measured":
            result[:, column] = np.nan
    return result


def _excluded(evidence: Evidence, cause: Cause) -> npt.NDArray[np.bool_]:
    mask = evidence.excluded.get(cause.name)
    return np.zeros(evidence.table.num_rows, dtype=np.bool_) if mask is None else mask


def _let_rules_stand_in(result: Array, evidence: Evidence, causes: Sequence[Cause], meta: MetaClassifier) -> None:
    """Step 3, for all causes without training at once, so that their order does not matter; in place."""
    columns, claims = [], []
    for column, cause in enumerate(causes):
        scores = evidence.rules.get(cause.name)
        if cause.name not in meta.causes and scores is not None:
            columns.append(column)
            claims.append(np.where(_excluded(evidence, cause), 0.0, strength(scores, cause.threshold)))
    if not columns:
        return
    claim = np.stack(claims, axis=1)
    from_open = 1 - np.prod(1 - claim, axis=1)
    from_others = 1 - np.prod(1 - _MOST * np.clip(2 * claim - 1, 0, 1), axis=1)
    believed = result.sum(axis=1)
    taken = from_open * (1 - believed) + from_others * believed
    # A stronger verdict gets the larger part where several hold.
    total = claim.sum(axis=1)
    parts = np.divide(claim, total[:, None], out=np.zeros_like(claim), where=total[:, None] > 0)
    result *= (1 - from_others)[:, None]
    result[:, columns] = parts * taken[:, None]
