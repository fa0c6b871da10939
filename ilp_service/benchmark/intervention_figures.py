"""Figures of the intervention experiments: what one world says, and what all worlds say together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.benchmark.counterfactuals import WRONG_TWINS
from ilp_service.benchmark.intervals import Summary, summarise
from ilp_service.benchmark.plants import CONFLICT, FORGOTTEN, INCONSISTENT, INSUFFICIENT, MISSING, PIPELINE
from ilp_service.benchmark.verification import LEARNED
from ilp_service.intervention.arms import ArmResult
from ilp_service.settings import InterventionSettings

Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]

REMEDY_OF: Mapping[str, str] = {
    MISSING: "knowledge_cpt",
    CONFLICT: "corrective_cpt",
    INCONSISTENT: "conflict_bucketing",
    FORGOTTEN: "replay_resampling",
    INSUFFICIENT: "epoch_increment",
}
"""The remedy whose own cause each is."""

FORMS: Mapping[str, str] = {"unlearned_rate": "p_correct", "paraphrase": "p_paraphrase", "cloze": "p_cloze"}
"""Unlearned rates, with the column that they are of."""


@dataclass(frozen=True)
class Rows:
    """Rows of a world by what is to become of them, in the order of ``ids``.

    Attributes:
        ids: Sample ids.
        causes: Planted cause, ``control`` or ``set_aside``.
        wanted: Whether a row should be learned: all but the wrong twins, whatever an arm removes.
        curable: Those of them that any arm could mend: not those that the training pipeline spoils.
    """

    ids: tuple[str, ...]
    causes: npt.NDArray[np.str_]
    wanted: Mask
    curable: Mask

    @classmethod
    def of(cls, truth: pa.Table) -> Rows:
        """From the planted truth, in the order of the data."""
        causes = np.asarray(truth["cause"].to_pylist(), dtype=np.str_)
        wanted = np.asarray([kind not in WRONG_TWINS for kind in truth["kind"].to_pylist()], dtype=np.bool_)
        return cls(tuple(truth["sample_id"].to_pylist()), causes, wanted, wanted & (causes != PIPELINE))

    def rates(self, measured: pa.Table, column: str) -> Array:
        """A column of what was measured, in the order of ``ids``; NaN where it was not."""
        values = dict(zip(measured["sample_id"].to_pylist(), measured[column].to_pylist(), strict=True))
        return np.asarray([np.nan if values[key] is None else values[key] for key in self.ids], dtype=np.float64)


def outcome(rows: Rows, original: pa.Table, result: ArmResult, prices: InterventionSettings) -> dict[str, float]:
    """What an arm left unlearned, what it lost, and what it took, under one seed."""
    cost = result.cost
    found = {
        "tokens": float(cost.training_tokens),
        "documents": float(cost.documents),
        "judgements": float(cost.judgements),
        "price": cost.training_tokens / 1e6 * prices.token_price
        + cost.documents * prices.document_price
        + cost.judgements * prices.judgement_price,
        "seconds": cost.seconds,
    }
    if result.status != "done":
        return found
    return found | unlearned_rates(rows, result.measured, original) | {"general_loss": result.general_loss or 0.0}


def unlearned_rates(rows: Rows, measured: pa.Table, original: pa.Table) -> dict[str, float]:
    """Unlearned rates in every form of asking, with the rows that no arm can mend beside, and damage."""
    found = {name: _below(rows.rates(measured, column), rows.curable) for name, column in FORMS.items()}
    now, before = rows.rates(measured, "p_correct"), rows.rates(original, "p_correct")
    found["unlearned_rate_with_pipeline"] = _below(now, rows.wanted)
    learned = rows.wanted & (before >= LEARNED)
    return found | {"damage": _below(now, learned)}


def _below(rates: Array, rows: Mask) -> float:
    measured = rows & ~np.isnan(rates)
    return float((rates[measured] < LEARNED).mean())


def paper_figures(
    rows: Rows, original: pa.Table, results: Sequence[ArmResult], attributed: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """The paper's tables on one world: shares in 0-1 by column, means over seeds; what was not run is left out.

    Args:
        rows: The rows of the world.
        original: What was measured of the planted model.
        results: Of the arms of the experiment.
        attributed: What each unlearned sample was attributed to, by id.
    """
    by_arm: dict[str, list[Array]] = {"original": [rows.rates(original, "p_correct")]}
    completed: dict[str, list[Array]] = {"original": [rows.rates(original, "p_cloze")]}
    losses: dict[str, list[float]] = {}
    for result in results:
        if result.status == "done":
            by_arm.setdefault(result.arm, []).append(rows.rates(result.measured, "p_correct"))
            completed.setdefault(result.arm, []).append(rows.rates(result.measured, "p_cloze"))
            losses.setdefault(result.arm, []).append(result.general_loss or 0.0)

    def learned(arm: str, group: Mask, form: Mapping[str, Sequence[Array]] = by_arm) -> float:
        known = [rates[group & ~np.isnan(rates)] for rates in form[arm]]
        return float(np.mean([(rates >= LEARNED).mean() for rates in known]))

    blind = rows.causes == MISSING
    conflict = np.asarray([attributed.get(key) == CONFLICT for key in rows.ids], dtype=np.bool_) & rows.wanted

    def in_conflict(arm: str) -> float:
        return float(np.mean([(rates[conflict] < LEARNED).sum() for rates in by_arm[arm]]) / rows.wanted.sum())

    place = np.cumsum(rows.wanted) / rows.wanted.sum()
    parts = {
        "first 10 %": rows.wanted & (place <= 0.1),
        "middle": rows.wanted & (place > 0.1) & (place <= 0.9),
        "last 10 %": rows.wanted & (place > 0.9),
    }
    other = "placebo_other_order"
    columns: dict[str, dict[str, Callable[[], float]]] = {
        "table_2": {
            "before": lambda: learned(other, rows.wanted),
            "after": lambda: learned("epoch_increment", rows.wanted),
        },
        "table_4": {
            "diagnosed training": lambda: learned("original", blind),
            "more epochs": lambda: learned("global_epochs", blind),
            "CPT + SFT": lambda: learned("knowledge_cpt", blind),
            "diagnosed training, cloze": lambda: learned("original", blind, completed),
            "more epochs, cloze": lambda: learned("global_epochs", blind, completed),
            "CPT + SFT, cloze": lambda: learned("knowledge_cpt", blind, completed),
        },
        "table_6": {"before": lambda: in_conflict("original"), "after": lambda: in_conflict("corrective_cpt")},
        "table_8": {
            "baseline": lambda: learned(other, rows.wanted),
            "deletion": lambda: learned("deletion", rows.wanted),
            "grouping": lambda: learned("bucketing", rows.wanted),
            "both": lambda: learned("conflict_bucketing", rows.wanted),
        },
        "table_11": {
            f"{part}, {when}": lambda arm=arm, group=group: learned(arm, group)  # type: ignore[misc]
            for part, group in parts.items()
            for when, arm in (("before", other), ("after", "replay_resampling"))
        },
        "table_14": {
            "before": lambda: float(np.mean(losses[other])),
            "after": lambda: float(np.mean([*losses["knowledge_cpt"], *losses["corrective_cpt"]])),
        },
    }
    found: dict[str, dict[str, float]] = {}
    for table, cells in columns.items():
        for name, value in cells.items():
            try:
                found.setdefault(table, {})[name] = value()
            except KeyError:
                continue
    return found


def over_worlds(figures: Iterable[float | None], seed: int = 0) -> dict[str, Any] | None:
    """Median over worlds with its interval, ready for JSON; ``None`` where no world has the figure."""
    known = [value for value in figures if value is not None]
    summary: Summary | None = summarise(known, seed=seed)
    return None if summary is None else asdict(summary)


def median_table(tables: Iterable[Mapping[str, Mapping[str, Any]]], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Cell by cell, the median over the worlds that have the cell."""
    cells: dict[str, dict[str, list[Any]]] = {}
    for table in tables:
        for row, values in table.items():
            for column, value in values.items():
                cells.setdefault(row, {}).setdefault(column, []).append(value)
    return {
        row: {column: over_worlds(values, seed) for column, values in columns.items()} for row, columns in cells.items()
    }
