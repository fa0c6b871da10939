"""The page of the docs that tells the benchmark's figures, made from what the benchmark left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ilp_service.attribution.card import SCORES
from ilp_service.benchmark.plants import CAUSES

BEGIN = "<!-- made by: ilp benchmark page --into FILE -->"
END = "<!-- end of the made part -->"

FIGURES: Mapping[str, str] = {
    **SCORES,
    "macro_f1_one_cause": "macro-F1 on the samples with one cause only",
    "macro_f1_no_trajectory_left_in": "macro-F1 without a training record, forgotten samples left in",
    "macro_f1_no_base_left_in": "macro-F1 without the base model, samples of both causes left in",
}

_LOWER_IS_BETTER = frozenset({"ece", "ece_equal_mass", "aurc"})


def page(report: Mapping[str, Any]) -> str:
    """The made part of the page, as markdown.

    Args:
        report: The object of ``scores.json``.
    """
    training = "; ".join(f"{family}: {', '.join(worlds)}" for family, worlds in report["trained_on"].items())
    parts = [
        f"Scored worlds: {', '.join(report['worlds'])}. Trained on, by the family that was left out: {training}.",
        _figures(report["intervals"]),
        "### By cause, all worlds at once\n\n" + _by_cause(report["per_cause"]),
        "### What was named for what\n\nSamples; rows are the planted cause, columns what was named.\n\n"
        + _confusion(report["confusion"]),
        "### Recovery minus placebo\n\nShare of the planted and unlearned samples that a counterfactual makes learned, "
        "minus that of the placebo with the same compute; median over worlds.\n\n"
        + "\n\n".join(
            f"{family}\n\n{_matrix(rows)}"
            for family, rows in {"all families": report["recovery"], **report["recovery_by_family"]}.items()
        ),
        "### Which labels hold\n\n" + _verdicts(report["verdicts"], report["verified"]),
        "### Causes that nobody knows\n\nShare of a cause's verified samples that stay unattributed, or below the "
        "confidence threshold, when the cause is left out of training and its plugin is switched off.\n\n"
        + _unknown(report["unknown_causes"]),
        _groups(report["unknown_by_family"]),
        "### Inconsistency against cleanlab\n\n" + _inconsistency(report["data_inconsistency"]),
        _rest(report),
    ]
    return "\n\n".join(parts)


def _figures(intervals: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            f"{FIGURES.get(name, name)}{' (lower is better)' if name in _LOWER_IS_BETTER else ''}",
            f"{row['value']:.3f}",
            _interval(row),
            row["worlds"],
        ]
        for name, row in intervals.items()
    ]
    return _table(["figure (0-1)", "median over worlds", "95 % interval", "worlds"], rows)


def _by_cause(causes: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [name, *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1")), row["true"]]
        for name, row in causes.items()
    ]
    return _table(["cause", "precision", "recall", "F1", "samples"], rows)


def _confusion(confusion: Mapping[str, Mapping[str, int]]) -> str:
    columns = list(dict.fromkeys(name for row in confusion.values() for name in row))
    columns.sort(key=lambda name: CAUSES.index(name) if name in CAUSES else len(CAUSES))
    return _table(
        ["", *columns], [[name, *(row.get(column, 0) for column in columns)] for name, row in confusion.items()]
    )


def _matrix(rows: Mapping[str, Mapping[str, float]]) -> str:
    return _table(
        ["run", *CAUSES],
        [[arm, *(f"{row[cause]:.2f}" if cause in row else "-" for cause in CAUSES)] for arm, row in rows.items()],
    )


def _verdicts(verdicts: Mapping[str, Mapping[str, int]], verified: Mapping[str, int]) -> str:
    columns = sorted({name for row in verdicts.values() for name in row})
    rows = [
        [name, *(row.get(column, 0) for column in columns), verified.get(name, "")] for name, row in verdicts.items()
    ]
    return _table(["planted", *columns, "verified in the world that has fewest"], rows)


def _unknown(causes: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [[name, f"{row['value']:.2f}", _interval(row)] for name, row in causes.items()]
    return _table(["left out", "median over worlds", "95 % interval"], rows)


def _groups(families: Mapping[str, Mapping[str, Any]]) -> str:
    """What the group finder makes of the left-out samples, and of worlds in which nothing is left out."""
    rows = [
        [
            family,
            cause,
            *("-" if row[key] is None else f"{row[key]:.2f}" for key in ("grouped", "purity")),
            ", ".join(
                f"{name} {count}" for name, count in sorted(row["blamed"].items(), key=lambda item: -item[1])[:2]
            ),
        ]
        for family, found in families.items()
        for cause, row in found["causes"].items()
    ]
    alarms = sum(found["nothing_left_out"]["groups"] for found in families.values())
    worlds = sum(found["nothing_left_out"]["worlds"] for found in families.values())
    table = _table(["family", "left out", "unattributed in a group of theirs", "purity of it", "blamed most"], rows)
    return f"{table}\n\nWith nothing left out the group finder raised {alarms} groups in {worlds} worlds."


def _inconsistency(methods: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [[name, *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))] for name, row in methods.items()]
    return _table(["method", "precision", "recall", "F1"], rows)


def _rest(report: Mapping[str, Any]) -> str:
    leaks = ", ".join(f"{kind} {value:.2f}" for kind, value in report["leaks"].items())
    natural = f"Natural failures with a label: {report['natural_labelled']}"
    if pooled := report["natural_pooled"]:
        natural += (
            f"; their most probable cause is one that they have: {pooled['natural_agreement']:.2f} (a cause named at "
            f"random: {report['natural_agreement_by_chance']:.2f}); a cause was named: "
            f"{pooled['natural_named_share']:.2f}"
        )
        if "natural_agreement_named" in pooled:
            natural += f"; of these, one that they have: {pooled['natural_agreement_named']:.2f}"
    misjudged = report.get("misjudged_controls")
    controls = f"Learned controls that were given a cause: {report['learned_controls_attributed']}."
    if misjudged:
        controls += (
            f" Controls that the world's own questions show as learned and the diagnosis calls unlearned: "
            f"{misjudged['unlearned']}; given a cause: {misjudged['attributed']}."
        )
    return (
        f"Shortcuts: macro-F1 of a classifier that sees one kind of mark of the data file alone: {leaks}.\n\n"
        f"{natural}. {controls}"
    )


def _interval(row: Mapping[str, Any]) -> str:
    return str(row["note"]) if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    written = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *written])
