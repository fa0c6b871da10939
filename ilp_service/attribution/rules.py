"""The paper's tests, taken literally and one after another (arXiv 2604.10079, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ilp_service.evidence.collection import Evidence
    from ilp_service.plugin import Cause

UNATTRIBUTED = "unattributed"

PAPER_ORDER = (
    "training_pipeline",
    "missing_knowledge",
    "pretraining_conflict",
    "data_inconsistency",
    "left_side_forgetting",
    "insufficient_optimization",
)
"""The first is ours and is ruled out before the paper's five; causes that are not named here come last."""


def sequential_causes(evidence: Evidence, causes: Sequence[Cause]) -> list[str]:
    """The first cause, in the paper's order, whose test holds; ``unattributed`` where none does.

    A cause that was not measured cannot hold. Returns one name for each row of the evidence.
    """
    rank = {name: place for place, name in enumerate(PAPER_ORDER)}
    ordered = sorted(causes, key=lambda cause: rank.get(cause.name, len(rank)))
    verdicts = np.full(evidence.table.num_rows, UNATTRIBUTED, dtype=object)
    open_rows: npt.NDArray[np.bool_] = np.ones(len(verdicts), dtype=np.bool_)
    for cause in ordered:
        scores = evidence.rules.get(cause.name)
        if scores is None:
            continue
        holds = open_rows & (scores >= cause.threshold)
        verdicts[holds] = cause.name
        open_rows &= ~holds
    return [str(verdict) for verdict in verdicts]
