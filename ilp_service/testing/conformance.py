"""The conformance check: what every cause has to keep to, whatever it measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from ilp_service.evidence.collection import Evidence, collect_evidence, signals_of
from ilp_service.plugin import Cause
from ilp_service.plugin_declarations import faults
from ilp_service.study import Study
from ilp_service.testing.studies import ready_studies

_LONGEST_SENTENCE = 600


def check_cause(cause: Cause, study: Study | None = None) -> None:
    """Hold a cause to its contract on one study, or on all ready-made ones.

    Checked: its declarations; that it returns what it declared (``collect_evidence`` refuses anything else); that
    asking twice, or asking in another order, changes no number; that nulls are survived by ``rule``, ``excluded`` and
    ``explain``; and that every explanation is one line.

    Example:
        >>> from ilp_causes import TrainingPipeline
        >>> check_cause(TrainingPipeline())

    Raises:
        AssertionError: The cause breaks the contract; the message says where.
    """
    wrong = faults(cause)
    if wrong:
        raise AssertionError(wrong[0])
    studies = {"the given study": study} if study is not None else ready_studies()
    for name, one in studies.items():
        evidence = collect_evidence(one, (cause,))
        if evidence.status[cause.name] == "not_measurable":
            continue
        _demand(evidence.status[cause.name] == "measured", name, evidence.reasons.get(cause.name, ""))
        _repeatable(cause, one, evidence, name)
        _explains(cause, evidence, name)
    _survives_nulls(cause)


def _demand(holds: bool, study: str, message: str) -> None:
    if not holds:
        raise AssertionError(f"On the study {study!r}: {message}")


def _repeatable(cause: Cause, study: Study, first: Evidence, name: str) -> None:
    again = collect_evidence(study, (cause,))
    _demand(again.table.equals(first.table), name, f"{cause.name} returned other evidence when it was asked twice.")
    turned = collect_evidence(replace(study, unlearned=study.unlearned[::-1]), (cause,))
    back = turned.table.take(pa.array(range(len(study.unlearned) - 1, -1, -1), pa.int64()))
    _demand(
        back.equals(first.table), name, f"{cause.name} returned other evidence when the samples came in another order."
    )


def _explains(cause: Cause, evidence: Evidence, name: str) -> None:
    for row in signals_of(evidence.table, cause):
        _one_line(cause, row, name)


def _one_line(cause: Cause, row: Mapping[str, Any], name: str) -> None:
    sentence = cause.explain(row)
    _demand(
        isinstance(sentence, str) and 0 < len(sentence.strip()) <= _LONGEST_SENTENCE and "\n" not in sentence,
        name,
        f"{cause.name}.explain() returned {sentence!r:.99}; expected one line, at most {_LONGEST_SENTENCE} characters.",
    )


def _survives_nulls(cause: Cause) -> None:
    """Every signal may be null; a cause that knows nothing still gives a score, and never a verdict."""
    unknown = {signal.name: np.full(3, np.nan) for signal in cause.signals if signal.kind == "number"}
    where = "with every signal null"
    if unknown:
        scores = np.asarray(cause.rule(unknown), dtype=np.float64)
        _demand(
            scores.shape == (3,) and bool(((scores >= 0) & (scores <= 1)).all()),
            where,
            f"{cause.name}.rule() returned {scores}, expected scores from 0 to 1.",
        )
        _demand(
            not (scores >= cause.threshold).any(), where, f"{cause.name}.rule() holds although nothing was measured."
        )
        mask = np.asarray(cause.excluded(unknown))
        _demand(
            mask.shape == (3,) and mask.dtype == np.bool_,
            where,
            f"{cause.name}.excluded() returned {mask!r}, expected three bools.",
        )
    _one_line(cause, {signal.name: None for signal in cause.signals}, where)
