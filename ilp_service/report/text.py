"""The result in a few lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ilp_service.report.figures import PAPER_SHARES, label_of, wilson

_UNATTRIBUTED = "unattributed"


def summary_text(summary: Mapping[str, Any]) -> str:
    """A short table of causes with counts, and what a reader has to know about them.

    Args:
        summary: What ``ilp diagnose --json`` prints, with ``details`` or without.
    """
    details: Mapping[str, Any] = summary.get("details", {})
    rate = wilson(int(summary["unlearned"]), int(summary["samples"]))
    lines = [
        f"{summary['unlearned']} of {summary['samples']} samples are unlearned: {100 * rate.rate:.1f} % "
        f"(95 % interval {100 * rate.low:.1f} to {100 * rate.high:.1f} %).",
        "",
        *_cause_lines(summary, details),
    ]
    attributed = details.get("attributed", summary["unlearned"])
    if attributed < summary["unlearned"]:
        lines.append(f"Only the {attributed} most severe went to attribution (detection.max_attributed).")
    groups = details.get("candidate_causes", [])
    if groups:
        sizes = ", ".join(str(group["size"]) for group in groups[:5]) + (", ..." if len(groups) > 5 else "")
        lines.append(
            f"{len(groups)} {'group' if len(groups) == 1 else 'groups'} of unattributed samples may be causes of "
            f"their own ({sizes} samples); candidate_causes.parquet and the report describe them."
        )
    reasons: Mapping[str, str] = details.get("reasons", {})
    lines += [
        reasons.get(name, f"{label_of(name)} could not be measured.") for name in summary.get("not_measurable", [])
    ]
    lines += list(details.get("failed", {}).values())
    lines += [f"Plugin {origin} was left out: {why}" for origin, why in details.get("plugin_failures", {}).items()]
    if summary.get("quarantined"):
        lines.append(f"{summary['quarantined']} rows were refused; quarantine.parquet says why.")
    report = summary.get("artifacts", {}).get("report")
    if report:
        lines.append(f"Report: {report}")
    return "\n".join(_plain(line) for line in lines)


def _cause_lines(summary: Mapping[str, Any], details: Mapping[str, Any]) -> list[str]:
    silent = {*summary.get("not_measurable", ()), *details.get("failed", {})}
    counts = {**summary["causes"], _UNATTRIBUTED: summary["unattributed"]}
    total = max(sum(counts.values()), 1)
    width = max(len(label_of(name)) for name in counts)
    lines = [f"  {'cause':<{width}}  samples   share   paper"]
    for name, count in counts.items():
        if name in silent:
            state = "failed" if name in details.get("failed", {}) else "not measurable"
            lines.append(f"  {label_of(name):<{width}}  {state}")
            continue
        paper = f"{100 * PAPER_SHARES[name]:5.1f} %" if name in PAPER_SHARES else "      -"
        lines.append(f"  {label_of(name):<{width}}  {count:>7}  {100 * count / total:4.0f} %  {paper}")
    return [*lines, ""]


def _plain(line: str) -> str:
    """Without control characters: reasons may quote what somebody else's code or data said."""
    return "".join(character if character.isprintable() else " " for character in line)
