"""A made-up table of signals in which every cause leaves its mark, and evidence in the same form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.evidence.collection import Evidence
from ilp_service.plugin import Array, Cause, Signal, Study

CAUSES = (
    "missing_knowledge",
    "pretraining_conflict",
    "data_inconsistency",
    "left_side_forgetting",
    "insufficient_optimization",
)
SIGNALS = {
    "missing_knowledge": ("cloze_entropy", "best_right", "blind_share", "forms_knowing"),
    "pretraining_conflict": ("strongest_wrong", "strongest_margin", "confident_share", "tuned_agrees"),
    "data_inconsistency": ("contradicting_share", "same_question", "votes_against", "twin_p"),
    "left_side_forgetting": ("peak_drop", "peak_likelihood", "loss_after_last_exposure", "ever_learned"),
    "insufficient_optimization": ("late_gain", "late_fall", "shortfall", "exposures_ratio", "rarity", "loss_rank"),
}
COLUMNS = tuple(f"{cause}.{signal}" for cause in CAUSES for signal in SIGNALS[cause])


def values(labels: Sequence[str], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Signals of rows with these causes: a cause's own are high, some are shared with a neighbour, all are noisy."""
    rows = rng.normal(0.3, 0.16, size=(len(labels), len(COLUMNS)))
    for row, label in enumerate(labels):
        strength = rng.uniform(0.3, 0.7)
        for column, name in enumerate(COLUMNS):
            cause, _, signal = name.partition(".")
            if cause == label:
                rows[row, column] += strength
            elif signal == SIGNALS[cause][0]:
                rows[row, column] += strength / 2
    return rows.clip(0, 1)


def signals_table(worlds: int = 3, per_cause: int = 40, seed: int = 0) -> pa.Table:
    """The training table."""
    rng = np.random.default_rng(seed)
    labels = [cause for cause in CAUSES for _ in range(per_cause)] * worlds
    rows = values(labels, rng)
    size = len(labels) // worlds
    keys: dict[str, Any] = {
        "world": [str(index // size) for index in range(len(labels))],
        "family": ["qwen2" if index // size % 2 else "llama" for index in range(len(labels))],
        "sample_id": [f"s{index:05d}" for index in range(len(labels))],
        "cause": labels,
    }
    return pa.table(keys | {name: rows[:, column] for column, name in enumerate(COLUMNS)})


def evidence_rows(labels: Sequence[str], seed: int = 1) -> pa.Table:
    """Evidence of new samples with these causes."""
    rows = values(labels, np.random.default_rng(seed))
    ids = {"sample_id": [f"n{index}" for index in range(len(labels))]}
    return pa.table(ids | {name: rows[:, column] for column, name in enumerate(COLUMNS)})


def without(table: pa.Table, prefixes: Sequence[str]) -> pa.Table:
    """The table with the columns that begin so set to null."""
    for column, name in enumerate(table.column_names):
        if name.startswith(tuple(prefixes)):
            table = table.set_column(column, name, pa.nulls(table.num_rows, pa.float64()))
    return table


class FakeCause(Cause):
    """A cause whose rule is set by the test."""

    name: ClassVar[str]
    title: ClassVar[str] = "A cause"
    signals: ClassVar[tuple[Signal, ...]] = ()

    def __init__(self, name: str, threshold: float = 0.5) -> None:
        self.__dict__["name"] = name
        self.__dict__["threshold"] = threshold
        own = SIGNALS.get(name, ("score",))
        self.__dict__["signals"] = tuple(Signal(signal, "0-1", "+", "Made up.") for signal in own)

    def collect(self, study: Study) -> pa.Table:
        raise NotImplementedError

    def rule(self, signals: Mapping[str, Array]) -> Array:
        raise NotImplementedError

    def explain(self, row: Mapping[str, Any]) -> str:
        return f"{self.name} because of {sorted(row)[0]}."


class BrokenCause(FakeCause):
    """Its explanation raises."""

    def explain(self, row: Mapping[str, Any]) -> str:
        raise RuntimeError(f"no words for {len(row)} signals")


BUILT_IN = tuple(FakeCause(name) for name in CAUSES)


def evidence(
    table: pa.Table,
    causes: Sequence[Cause] = BUILT_IN,
    *,
    unmeasured: Sequence[str] = (),
    rules: Mapping[str, Sequence[float]] | None = None,
    excluded: Mapping[str, Sequence[bool]] | None = None,
) -> Evidence:
    """Evidence around a table; rules hold nowhere and nothing is ruled out unless the test says so."""
    count = table.num_rows
    for cause in causes:
        for signal in cause.signals:
            name = f"{cause.name}.{signal.name}"
            if name not in table.column_names:
                table = table.append_column(name, pa.array(np.zeros(count)))
    table = without(table, [f"{name}." for name in unmeasured])
    names = [cause.name for cause in causes]
    gone = set(unmeasured)
    return Evidence(
        table,
        {name: "not_measurable" if name in gone else "measured" for name in names},
        {name: f"{name} cannot be measured." for name in gone},
        {name: None if name in gone else np.array((rules or {}).get(name, np.zeros(count)), float) for name in names},
        {name: None if name in gone else np.array((excluded or {}).get(name, [False] * count), bool) for name in names},
    )
