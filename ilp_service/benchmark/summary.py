"""The one object that ``ilp benchmark --json`` prints, and the same for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.attribution.rules import UNATTRIBUTED
from ilp_service.benchmark.ablations import NO_BASE, NO_EXPOSURES, NO_ORDER_RARITY, NO_TRAJECTORY
from ilp_service.benchmark.crossing import (
    CARTOGRAPHY,
    CLASSIFIER,
    LABEL_ISSUES,
    PAPER_RULES,
    REPAIRED_RULES,
    SHIPPED,
    Crossed,
    Examined,
)
from ilp_service.benchmark.intervals import summarise
from ilp_service.benchmark.leaks import MarkedRows, leak_scores
from ilp_service.benchmark.metrics import per_cause
from ilp_service.benchmark.plants import CAUSES, INCONSISTENT
from ilp_service.benchmark.predictions import LABELLED, NATURAL, Score, left_in, score
from ilp_service.benchmark.recovery import beyond_placebo, median_of, recovered
from ilp_service.benchmark.world import CONTROL

MACRO_F1 = {
    CLASSIFIER: "macro_f1",
    NO_ORDER_RARITY: "macro_f1_no_order_rarity",
    NO_EXPOSURES: "macro_f1_no_order_rarity_exposures",
    NO_TRAJECTORY: "macro_f1_no_trajectory",
    NO_BASE: "macro_f1_no_base",
    SHIPPED: "shipped_macro_f1",
    PAPER_RULES: "rules_macro_f1",
    REPAIRED_RULES: "repaired_rules_macro_f1",
    CARTOGRAPHY: "cartography_macro_f1",
}
"""Under which name the macro-F1 of each method is told."""

_OF_CLASSIFIER = (
    "macro_f1_one_cause",
    "ece",
    "ece_equal_mass",
    "precision_at_80_coverage",
    "aurc",
    "named_share",
    "natural_agreement",
    "natural_agreement_named",
    "natural_named_share",
)


def scores_of(crossed: Crossed, held_out: Sequence[Examined], seed: int = 0) -> dict[str, Score]:
    """The score of every method; causes that an ablation cannot measure are left out of its score."""
    labels = pa.concat_tables([world.labels for world in held_out], promote_options="default")
    others = frozenset(
        (world.findings.built.name, key) for world in held_out for key in world.findings.truth["sample_id"].to_pylist()
    )
    return {
        method: score(table, labels, others=others, left_out=crossed.unmeasured.get(method, ()), seed=seed)
        for method, table in crossed.predictions.items()
    }


def report_of(
    crossed: Crossed,
    scores: Mapping[str, Score],
    training: Sequence[Examined],
    held_out: Sequence[Examined],
    seed: int = 0,
) -> dict[str, Any]:
    """Every figure, ready for JSON; a figure over worlds is their median, its interval under ``intervals``.

    Args:
        crossed: What every method said.
        scores: The score of each.
        training: Worlds that were trained on.
        held_out: Worlds that were scored.
        seed: Of the bootstrap.
    """
    labels = pa.concat_tables([world.labels for world in held_out], promote_options="default")
    ours = scores[CLASSIFIER]
    summaries = {name: scores[method].summary["macro_f1"] for method, name in MACRO_F1.items() if method in scores}
    for method in crossed.unmeasured:
        kept = left_in(crossed.predictions[method], labels, crossed.unmeasured[method], seed=seed)
        if kept is not None:
            summaries[f"{MACRO_F1[method]}_left_in"] = kept
    summaries |= {name: ours.summary[name] for name in _OF_CLASSIFIER if name in ours.summary}
    by_world = {world.findings.built.name: recovered(world.labels) for world in held_out}
    families = sorted({world.findings.built.family for world in held_out})
    return {
        **{name: summary.value for name, summary in summaries.items()},
        "verified": verified(held_out),
        "recovery": median_of(beyond_placebo(shares) for shares in by_world.values()),
        "recovery_raw": median_of(by_world.values()),
        "recovery_by_family": {
            family: median_of(
                beyond_placebo(by_world[world.findings.built.name])
                for world in held_out
                if world.findings.built.family == family
            )
            for family in families
        },
        "leaks": leak_scores([marked(world) for world in training], [marked(world) for world in held_out]),
        "verdicts": verdict_counts(labels),
        "learned_controls_attributed": learned_controls(crossed.predictions[CLASSIFIER], held_out),
        "misjudged_controls": misjudged_controls(crossed.predictions[CLASSIFIER], held_out),
        "natural_labelled": ours.natural,
        "natural_pooled": dict(ours.natural_pooled),
        "natural_agreement_by_chance": natural_chance(labels),
        INCONSISTENT: {
            method: asdict(per_cause(scores[method].verdicts, [INCONSISTENT])[INCONSISTENT])
            for method in (CLASSIFIER, LABEL_ISSUES)
            if method in scores
        },
        "intervals": {name: summary.public() for name, summary in summaries.items()},
        "per_cause": ours.public()["per_cause"],
        "confusion": ours.public()["confusion"],
        "methods": {method: found.public() for method, found in scores.items()},
        "not_measurable": {name: list(causes) for name, causes in crossed.unmeasured.items()},
        "unknown_causes": unknown_causes(crossed),
        "unknown_by_family": {family: fold.unknown for family, fold in crossed.folds.items()},
        "trained_on": {family: list(fold.trained_on) for family, fold in crossed.folds.items()},
        "worlds": [world.findings.built.name for world in held_out],
    }


def unknown_causes(crossed: Crossed) -> dict[str, dict[str, Any]]:
    """Share of a cause's samples that stay unattributed when nobody knows the cause: median of worlds."""
    shares: dict[str, list[float]] = {}
    for fold in crossed.folds.values():
        for cause, row in fold.unknown["causes"].items():
            shares.setdefault(cause, []).extend(row["by_world"].values())
    found = {cause: summarise(values) for cause, values in shares.items()}
    return {cause: summary.public() for cause, summary in found.items() if summary is not None}


def marked(world: Examined) -> MarkedRows:
    """The rows of a world's data file, with the cause of each whose label holds alone."""
    samples = world.findings.study.samples
    blocks = dict(zip(*(world.findings.truth[name].to_pylist() for name in ("sample_id", "block")), strict=True))
    columns = (world.labels[name].to_pylist() for name in ("sample_id", "causes", "verdict"))
    held = {key: causes[0] for key, causes, verdict in zip(*columns, strict=True) if verdict == "verified"}
    return MarkedRows(
        [sample.prompt for sample in samples],
        [sample.response for sample in samples],
        [blocks[sample.sample_id] for sample in samples],
        [held.get(sample.sample_id) for sample in samples],
    )


def verified(held_out: Sequence[Examined]) -> dict[str, int]:
    """Planted samples of each cause whose label holds alone, in the world that has fewest of them."""
    counts = []
    for world in held_out:
        rows = world.labels.filter(pc.equal(world.labels["origin"], "planted"))
        columns = zip(rows["planted"].to_pylist(), rows["verdict"].to_pylist(), strict=True)
        counts.append(Counter(cause for cause, verdict in columns if verdict == "verified"))
    return {cause: min((count[cause] for count in counts), default=0) for cause in CAUSES}


def verdict_counts(labels: pa.Table) -> dict[str, dict[str, int]]:
    """How many labels hold, and why the others do not, by planted cause (``natural`` for natural failures)."""
    found: dict[str, Counter[str]] = {}
    names = ("origin", "planted", "verdict", "reason")
    for origin, planted, verdict, reason in zip(*(labels[name].to_pylist() for name in names), strict=True):
        row = found.setdefault(planted if origin == "planted" else "natural", Counter())
        row[verdict if not reason or verdict != "unverified" else f"unverified: {reason}"] += 1
    return {name: dict(sorted(row.items())) for name, row in sorted(found.items())}


def learned_controls(predictions: pa.Table, held_out: Sequence[Examined]) -> int:
    """Controls that the diagnosed model has learned and that were given a cause all the same."""
    learned = set()
    for world in held_out:
        findings = world.findings
        evaluation = findings.evaluation
        flags = zip(evaluation["sample_id"].to_pylist(), evaluation["unlearned"].to_pylist(), strict=True)
        fine = {key for key, unlearned in flags if not unlearned}
        planted = zip(findings.truth["sample_id"].to_pylist(), findings.truth["cause"].to_pylist(), strict=True)
        learned |= {(findings.built.name, key) for key, cause in planted if cause == CONTROL and key in fine}
    columns = (predictions[name].to_pylist() for name in ("world", "sample_id", "cause"))
    return sum(cause != UNATTRIBUTED and (world, key) in learned for world, key, cause in zip(*columns, strict=True))


def misjudged_controls(predictions: pa.Table, held_out: Sequence[Examined]) -> dict[str, int]:
    """Controls that the world's own questions show as learned and the diagnosis calls unlearned.

    The labels have every control that failed the world's questions, so a control without one was learned. Only what
    the diagnosis calls unlearned is ever given a cause, so that these are the learned controls that can get one.

    Returns:
        ``unlearned``: how many there are; ``attributed``: how many of them were given a cause.
    """
    misjudged = set()
    for world in held_out:
        findings = world.findings
        failed = set(world.labels["sample_id"].to_pylist())
        unlearned = set(findings.study.unlearned)
        planted = zip(findings.truth["sample_id"].to_pylist(), findings.truth["cause"].to_pylist(), strict=True)
        controls = {key for key, cause in planted if cause == CONTROL}
        misjudged |= {(findings.built.name, key) for key in (controls & unlearned) - failed}
    columns = zip(*(predictions[name].to_pylist() for name in ("world", "sample_id", "cause")), strict=True)
    named = {(world, key) for world, key, cause in columns if cause != UNATTRIBUTED}
    return {"unlearned": len(misjudged), "attributed": len(misjudged & named)}


def natural_chance(labels: pa.Table) -> float | None:
    """Share of the labelled natural failures that naming one of the causes at random would get right, 0-1."""
    columns = zip(*(labels[name].to_pylist() for name in ("origin", "causes", "verdict")), strict=True)
    counts = [len(causes) for origin, causes, verdict in columns if origin == NATURAL and verdict in LABELLED]
    return sum(counts) / (len(counts) * len(CAUSES)) if counts else None


def readable(report: Mapping[str, Any]) -> str:
    """The report as lines for people."""
    lines = [f"{'figure':<42}{'median':>9}   95 % interval over worlds"]
    lines += [_line(name, row) for name, row in report["intervals"].items()]
    lines += ["", *_cause_lines(report["per_cause"])]
    counts = ", ".join(f"{cause} {count}" for cause, count in report["verified"].items())
    lines += ["", f"verified samples in the world that has fewest: {counts}"]
    if report["recovery"]:
        width = max(len(arm) for arm in report["recovery"]) + 2
        lines += ["", "recovered beyond the placebo, share of the planted and unlearned samples"]
        lines.append(" " * width + "".join(f"{cause[:12]:>14}" for cause in CAUSES))
        for arm, row in report["recovery"].items():
            cells = "".join(f"{row[cause]:>14.2f}" if cause in row else f"{'-':>14}" for cause in CAUSES)
            lines.append(f"{arm:<{width}}{cells}")
    if report["unknown_causes"]:
        lines += ["", "share of a cause's samples that stay unattributed when nobody knows the cause"]
        lines += [_line(cause, row) for cause, row in report["unknown_causes"].items()]
    leaks = ", ".join(f"{kind} {value:.2f}" for kind, value in report["leaks"].items())
    lines += ["", f"macro-F1 of a classifier that sees one kind of mark of the data file alone: {leaks}"]
    named = report["learned_controls_attributed"]
    lines += ["", f"{report['natural_labelled']} natural failures have a label; {named} learned controls were named."]
    return "\n".join(lines)


def readable_score(found: Score) -> str:
    """The score of one method as lines for people."""
    lines = [f"{found.samples} planted samples of {len(found.worlds)} worlds", ""]
    lines += [_line(name, summary.public()) for name, summary in found.summary.items()]
    lines += ["", *_cause_lines({name: asdict(row) for name, row in found.per_cause.items()})]
    if found.natural:
        share = found.natural_pooled["natural_agreement"]
        lines += ["", f"The most probable cause of {share:.2f} of {found.natural} natural failures is one they have."]
    lines += ["", f"{found.unlabelled_named} samples without a label were given a cause."]
    return "\n".join(lines)


def _line(name: str, row: Mapping[str, Any]) -> str:
    interval = row["note"] if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
    return f"{name:<42}{row['value']:>9.3f}   {interval}"


def _cause_lines(causes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [f"{'cause':<28}{'precision':>10}{'recall':>8}{'F1':>7}{'samples':>9}"]
    for name, row in causes.items():
        lines.append(f"{name:<28}{row['precision']:>10.3f}{row['recall']:>8.3f}{row['f1']:>7.3f}{row['true']:>9}")
    return lines
