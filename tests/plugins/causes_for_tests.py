"""How the tests of a cause ask it about a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ilp_service.evidence.collection import collect_evidence, signals_of
from ilp_service.plugin import Array, Cause
from ilp_service.study import Study


@dataclass(frozen=True)
class Asked:
    """What a cause says about the unlearned samples of a study, in their order."""

    rows: list[dict[str, Any]]
    rule: Array
    excluded: Any
    sentences: list[str]

    def column(self, name: str) -> Array:
        return np.array([np.nan if row[name] is None else row[name] for row in self.rows], dtype=np.float64)


def ask(cause: Cause, study: Study) -> Asked:
    evidence = collect_evidence(study, (cause,))
    assert evidence.status[cause.name] == "measured", evidence.reasons
    rows = signals_of(evidence.table, cause)
    rule, excluded = evidence.rules[cause.name], evidence.excluded[cause.name]
    assert rule is not None
    return Asked(rows, rule, excluded, [cause.explain(row) for row in rows])
