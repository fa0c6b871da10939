"""Aggregate numbers of the report's summary, each computed in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import binomtest

from ilp_service.attribution.rules import UNATTRIBUTED

if TYPE_CHECKING:
    from ilp_service.evidence.collection import Evidence
    from ilp_service.plugin import Cause
    from ilp_service.settings import Settings

PAPER_SHARES: Mapping[str, float] = {
    "missing_knowledge": 0.187,
    "pretraining_conflict": 0.132,
    "data_inconsistency": 0.141,
    "left_side_forgetting": 0.174,
    "insufficient_optimization": 0.146,
    UNATTRIBUTED: 0.22,
}
"""Share of unlearned samples that the paper gives each cause (arXiv 2604.10079, section 4)."""

PALETTE = 8
"""Colours that causes take in turn; see the style sheet."""

_MOST_SUBSETS = 12
_FORMS = {
    "base_p_correct": "Same prompt, zero-shot",
    "few_shot_base_p_correct": "After solved examples",
    "cloze_base_p_correct": "As a statement (cloze)",
    "probe_base_p_correct": "The data's own probes",
}


@dataclass(frozen=True, slots=True)
class Interval:
    """A rate with its 95 % Wilson interval, all 0-1."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CauseFigure:
    """One bar of the chart.

    ``share`` is of the samples that went to attribution; ``paper_share`` is the paper's, where it knows the cause;
    ``by_rules`` counts the verdicts of the paper's tests, one after another.
    """

    name: str
    label: str
    title: str
    colour: str
    status: str
    reason: str
    count: int
    share: float
    by_rules: int
    paper_share: float | None


@dataclass(frozen=True, slots=True)
class FormFigure:
    """One way of asking the base: samples asked, and those it knows (pass rate above ``knowledge.exists``)."""

    label: str
    asked: int
    knows: int


@dataclass(frozen=True, slots=True)
class SubsetFigure:
    """Unlearned samples of one part of the data."""

    name: str
    samples: int
    unlearned: int
    interval: Interval


def wilson(count: int, total: int) -> Interval:
    """A rate and the interval in which it lies with 95 % confidence; ``total`` 0 gives 0 to 1."""
    if total == 0:
        return Interval(0.0, 0.0, 1.0)
    bounds = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return Interval(count / total, float(bounds.low), float(bounds.high))


def label_of(name: str) -> str:
    """A cause's name as words."""
    return name.replace("_", " ")


def colour_of(place: int) -> str:
    """Class of the style sheet for the cause at this place."""
    return f"c{place % PALETTE}"


def cause_figures(causes: list[Cause], evidence: Evidence, attributions: pa.Table) -> list[CauseFigure]:
    """The bars in plugin order, *unattributed* last."""
    counts = Counter(attributions["cause"].to_pylist())
    rules = Counter(attributions["rule_cause"].to_pylist())
    total = max(attributions.num_rows, 1)

    def figure(name: str, title: str, colour: str, status: str, reason: str) -> CauseFigure:
        share = counts[name] / total
        paper = PAPER_SHARES.get(name)
        return CauseFigure(name, label_of(name), title, colour, status, reason, counts[name], share, rules[name], paper)

    figures = [
        figure(
            cause.name,
            cause.title,
            colour_of(place),
            evidence.status.get(cause.name, "failed"),
            evidence.reasons.get(cause.name, ""),
        )
        for place, cause in enumerate(causes)
    ]
    return [*figures, figure(UNATTRIBUTED, "No cause is probable enough", "none", "measured", "")]


def form_figures(evaluation: pa.Table, settings: Settings) -> list[FormFigure]:
    """How the unlearned samples fare in every form in which the base was asked; forms never used are left out."""
    unlearned = evaluation.filter(pc.fill_null(evaluation["unlearned"], False))
    figures = []
    for column, label in _FORMS.items():
        if column in unlearned.column_names:
            values = unlearned[column].drop_null()
            if len(values):
                knows = pc.sum(pc.greater(values, settings.knowledge.exists)).as_py()
                figures.append(FormFigure(label, len(values), int(knows or 0)))
    return figures


def forms_disagree(evaluation: pa.Table) -> tuple[int, int]:
    """Unlearned samples on which the forms disagree about the base's knowledge, and those asked in two or more."""
    if "base_forms_disagree" not in evaluation.column_names:
        return 0, 0
    values = evaluation.filter(pc.fill_null(evaluation["unlearned"], False))["base_forms_disagree"].drop_null()
    return int(pc.sum(values).as_py() or 0), len(values)


def subset_figures(evaluation: pa.Table) -> tuple[list[SubsetFigure], int]:
    """The parts with most unlearned samples, and how many parts are not shown."""
    flags = pc.fill_null(evaluation["unlearned"], False).cast(pa.int64())
    names = pc.fill_null(evaluation["subset"].cast(pa.string()), "")
    grouped = pa.table({"subset": names, "unlearned": flags}).group_by("subset")
    rows: list[dict[str, Any]] = grouped.aggregate([("unlearned", "sum"), ("unlearned", "count")]).to_pylist()
    rows.sort(key=lambda row: (-row["unlearned_sum"], row["subset"]))
    figures = [
        SubsetFigure(
            row["subset"],
            row["unlearned_count"],
            row["unlearned_sum"],
            wilson(row["unlearned_sum"], row["unlearned_count"]),
        )
        for row in rows[:_MOST_SUBSETS]
    ]
    return figures, max(0, len(rows) - _MOST_SUBSETS)
