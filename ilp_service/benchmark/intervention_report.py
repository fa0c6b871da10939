"""All worlds of the intervention experiments together: medians, intervals, and the paper's tables beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ilp_service.benchmark.headline import ARMS, LONGER, PRESCRIPTION, RESHUFFLE, UNDIAGNOSED
from ilp_service.benchmark.intervention_figures import FORMS, REMEDY_OF, median_table, over_worlds

World = Mapping[str, Any]
"""Figures of one world, as :mod:`ilp_service.benchmark.interventions` made them."""

PAPER: Mapping[str, Mapping[str, Any]] = {
    "table_2": {
        "title": "Insufficient training: accuracy (Table 2, Qwen-7B)",
        "ours": "share of all rows learned; more exposures of the targets",
        "paper": {"before": 0.882, "after": 0.901},
        "rises": [["before", "after"]],
    },
    "table_4": {
        "title": "Blind knowledge: learn rate (Table 4, MedQA)",
        "ours": "share learned of the rows about persons whom the corpus never names; cloze: known, not only memorised",
        "paper": {"diagnosed training": 0.653, "more epochs": 0.668, "CPT + SFT": 0.821},
        "rises": [
            ["diagnosed training", "CPT + SFT"],
            ["more epochs", "CPT + SFT"],
            ["more epochs, cloze", "CPT + SFT, cloze"],
        ],
    },
    "table_6": {
        "title": "Conflict rate before and after CPT (Table 6, Qwen-7B, ARC)",
        "ours": "share of all rows that are unlearned and attributed to a conflict",
        "paper": {"before": 0.123, "after": 0.088},
        "rises": [["after", "before"]],
    },
    "table_8": {
        "title": "Data conflicts: accuracy (Table 8, Qwen-7B)",
        "ours": "share of all rows learned, wrong twins aside",
        "paper": {"baseline": 0.823, "deletion": 0.838, "grouping": 0.845, "both": 0.851},
        "rises": [["baseline", "deletion"], ["baseline", "grouping"], ["baseline", "both"], ["deletion", "both"]],
    },
    "table_11": {
        "title": "Forgetting: by place in the data (Table 11, ROUGE-L)",
        "ours": "share learned of the rows at that place",
        "paper": {
            "first 10 %, before": 0.41,
            "first 10 %, after": 0.53,
            "middle, before": 0.57,
            "middle, after": 0.59,
            "last 10 %, before": 0.61,
            "last 10 %, after": 0.60,
        },
        "rises": [["first 10 %, before", "first 10 %, after"], ["middle, before", "middle, after"]],
    },
    "table_14": {
        "title": "General ability after CPT (Table 14, OLMo2-7B: MMLU -3.5 %, GPQA -6.8 %)",
        "ours": "held-out loss on the corpus, nats a token; higher is worse",
        "paper": {},
        "rises": [["before", "after"]],
    },
}
"""The paper's tables: its figures in 0-1, what ours are, and which columns are to be larger than which."""


def report_of(effects: Sequence[World], headlines: Sequence[World], seed: int = 0) -> dict[str, Any]:
    """The object of ``interventions.json``, but for how long it took.

    Args:
        effects: Figures of the effects, one a held-out world.
        headlines: Figures of the headline, one a held-out world.
        seed: Of the intervals.
    """
    report: dict[str, Any] = {"worlds": sorted({one["world"] for one in (*effects, *headlines)})}
    if effects:
        report |= {
            "own_cause": {cause: own for cause in REMEDY_OF if (own := _own(effects, cause, seed)) is not None},
            "matrix": median_table([_known(one["matrix"]) for one in effects], seed),
            "ablations": median_table([_known(one["ablations"].get("matrix", {})) for one in effects], seed),
            "controls": _of_arms(effects, lambda arm: (arm["controls"] or {}).get("effect"), seed),
            "damage": _of_arms(effects, lambda arm: arm["damage"]["effect"], seed),
            "general_loss": _of_arms(effects, lambda arm: (arm["general_loss"] or {}).get("change"), seed),
            "spent": _spent(effects, seed),
            "forms": _forms(effects, seed),
            "agreement": _agreement(effects, seed),
            "paper": _paper(effects, seed),
            "by_world": {one["world"]: {"own_cause": one["own_cause"], "matrix": one["matrix"]} for one in effects},
        }
    if headlines:
        report["headline"] = _headline(headlines, seed)
        report["curves"] = _curves(headlines, seed)
        report["ratios"] = _ratios(headlines, 1.0, seed)
        report["ratios_by_budget"] = {
            f"{budget:g}": ratios for budget in _budgets(headlines) if (ratios := _ratios(headlines, budget, seed))
        }
        report["prescriptions"] = {one["world"]: one["prescription"] for one in headlines}
        report["headline_by_world"] = {one["world"]: one["points"] for one in headlines}
    return report


def _own(effects: Sequence[World], cause: str, seed: int) -> dict[str, Any] | None:
    cells = [one["own_cause"][cause] for one in effects if cause in one["own_cause"]]
    summary = over_worlds([cell["effect"] for cell in cells], seed)
    if summary is None:
        return None
    interval = [summary["low"], summary["high"]]
    if summary["low"] is None:
        # One world: how far the figure moves with samples and seeds of it.
        measured = next(cell for cell in cells if cell["effect"] is not None)
        interval = [measured["low"], measured["high"]]
    return {
        "effect": summary["value"],
        "interval": interval,
        "worlds": summary["worlds"],
        "recovery": over_worlds([cell["share"] for cell in cells], seed),
        "placebo": over_worlds([cell["placebo"] for cell in cells], seed),
        "samples": [cell["samples"] for cell in cells],
    }


def _known(matrix: Mapping[str, Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    return {arm: {cause: value for cause, value in row.items() if value is not None} for arm, row in matrix.items()}


def _of_arms(effects: Sequence[World], figure: Any, seed: int) -> dict[str, Any]:  # noqa: ANN401
    """A figure of every arm, median over the worlds that have it."""
    names = dict.fromkeys(arm["arm"] for one in effects for arm in one["arms"])
    found = {}
    for name in names:
        values = [figure(arm) for one in effects for arm in one["arms"] if arm["arm"] == name]
        if (summary := over_worlds(values, seed)) is not None:
            found[name] = summary
    return found


def _spent(effects: Sequence[World], seed: int) -> dict[str, dict[str, Any]]:
    keys = ("training_tokens", "documents", "judgements", "seconds", "peak_memory_bytes", "price_per_recovered")
    table = {key: _of_arms(effects, lambda arm, key=key: (arm["spent"] or {}).get(key), seed) for key in keys}
    names = dict.fromkeys(name for row in table.values() for name in row)
    return {name: {key: row[name] for key, row in table.items() if name in row} for name in names}


def _forms(effects: Sequence[World], seed: int) -> dict[str, dict[str, Any]]:
    """Effect on the own cause when asked otherwise."""
    found: dict[str, dict[str, Any]] = {}
    for cause, remedy in REMEDY_OF.items():
        cells = [cell for one in effects for cell in one["cells"] if (cell["arm"], cell["cause"]) == (remedy, cause)]
        for form in ("paraphrase", "cloze"):
            summary = over_worlds([cell[form]["effect"] for cell in cells], seed)
            if summary is not None:
                found.setdefault(cause, {})[form] = summary
    return found


def _agreement(effects: Sequence[World], seed: int) -> dict[str, Any]:
    counts = {
        name: sum(one["agreement"][name] for one in effects) for name in ("labelled", "proved", "agreeing", "exact")
    }
    proved = counts["proved"]
    return {
        **counts,
        "rate": counts["agreeing"] / proved if proved else None,
        "coverage": proved / counts["labelled"] if counts["labelled"] else None,
        "by_world": over_worlds([one["agreement"]["rate"] for one in effects], seed),
    }


def _paper(effects: Sequence[World], seed: int) -> dict[str, Any]:
    medians = median_table([], seed)
    for table in PAPER:
        medians[table] = median_table([{table: one["paper"].get(table, {})} for one in effects], seed).get(table, {})
    found = {}
    for name, ours in medians.items():
        if not ours:
            continue
        directions = [
            {
                "less": less,
                "more": more,
                "reproduced": ours[less]["value"] < ours[more]["value"],
                "worlds": sum(_rises(one["paper"].get(name, {}), less, more) for one in effects),
            }
            for less, more in PAPER[name]["rises"]
            if less in ours and more in ours
        ]
        found[name] = {"ours": ours, "paper": PAPER[name]["paper"], "directions": directions}
    return found


def _rises(cells: Mapping[str, float], less: str, more: str) -> bool:
    return less in cells and more in cells and cells[less] < cells[more]


def _mean(point: Mapping[str, Any], key: str) -> float | None:
    values = [seed[key] for seed in point["seeds"] if key in seed]
    return fmean(values) if values else None


def _points(headlines: Sequence[World], arm: str, budget: float) -> list[Mapping[str, Any]]:
    return [point for one in headlines for point in one["points"] if point["arm"] == arm and point["budget"] == budget]


KEYS = (
    *FORMS,
    "unlearned_rate_with_pipeline",
    "damage",
    "damage_beyond_placebo",
    "general_loss",
    "tokens",
    "documents",
    "judgements",
    "price",
    "seconds",
)


def _headline(headlines: Sequence[World], seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for arm in ARMS:
        points = _points(headlines, arm, 1.0)
        summary = over_worlds([_mean(point, "unlearned_rate") for point in points], seed)
        if summary is not None:
            found[f"{arm}_unlearned_rate"] = summary["value"]
    for key in ("tokens", "documents", "judgements", "damage", "damage_beyond_placebo"):
        summary = over_worlds([_mean(point, key) for point in _points(headlines, PRESCRIPTION, 1.0)], seed)
        found[key] = None if summary is None else summary["value"]
    found["original_unlearned_rate"] = (
        over_worlds([one["original"]["unlearned_rate"] for one in headlines]) or {}
    ).get("value")
    return found


def _budgets(headlines: Sequence[World]) -> list[float]:
    return sorted({point["budget"] for one in headlines for point in one["points"]})


def _curves(headlines: Sequence[World], seed: int) -> list[dict[str, Any]]:
    """Every arm at every budget."""
    rows = []
    for budget in _budgets(headlines):
        for arm in ARMS:
            points = _points(headlines, arm, budget)
            if points:
                figures = {key: over_worlds([_mean(point, key) for point in points], seed) for key in KEYS}
                seeds = max(len(point["seeds"]) for point in points)
                rows.append({"budget": budget, "arm": arm, "seeds": seeds, **figures})
    return rows


def _ratios(headlines: Sequence[World], budget: float, seed: int) -> dict[str, dict[str, Any]]:
    """The prescription's unlearned rate by that of the best of others, world by world; none where it has none."""
    against = {"longer_or_reshuffle": (LONGER, RESHUFFLE), "best_undiagnosed": UNDIAGNOSED}
    found: dict[str, dict[str, Any]] = {}
    for name, arms in against.items():
        for form in FORMS:
            ratios, best = [], []
            for one in headlines:
                rates = {arm: _mean(points[0], form) for arm in ARMS if (points := _points([one], arm, budget))}
                others = {arm: rate for arm in arms if (rate := rates.get(arm)) is not None}
                own = rates.get(PRESCRIPTION)
                if own is not None and others:
                    best.append(min(others, key=lambda arm: (others[arm], arm)))
                    ratios.append(own / max(others[best[-1]], 1e-9))
            if (summary := over_worlds(ratios, seed)) is not None:
                found.setdefault(name, {})[form] = summary | {"best": best}
    return found
