"""An experiment before it is run, in a few lines for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ilp_service.intervention.refusals import grouped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ilp_service.intervention.intervene import Experiment

_REASONS = 5
"""Reasons of a remedy that are shown."""


def preview(experiment: Experiment) -> str:
    """What would be tried, on whom, at what price, and what not and why."""
    seeds = len(experiment.seeds)
    head = ("arm", "causes", "treats", "placebo", "price", "seconds")
    rows = [head]
    for arm in experiment.arms:
        seconds = experiment.seconds(arm)
        rows.append(
            (
                arm.name,
                ", ".join(arm.treats) or "-",
                str(sum(map(len, arm.treats.values()))) if arm.treats else "-",
                arm.placebo or "-",
                f"{experiment.price(arm):.4g}",
                "?" if seconds is None else f"{seconds:.0f}",
            )
        )
    prices = experiment.diagnosed.settings.intervention
    total = sum(experiment.price(arm) for arm in experiment.arms)
    times = [experiment.seconds(arm) for arm in experiment.arms]
    known = [value for value in times if value is not None]
    lines = [*_aligned(rows), ""] if len(rows) > 1 else []
    lines.append(
        f"{len(experiment.arms)} arms under {seeds} {'seed' if seeds == 1 else 'seeds'} cost at most {total:.4g} "
        f"({prices.token_price:g} a million training tokens, {prices.document_price:g} a document, "
        f"{prices.judgement_price:g} a judgement)"
        + (f", and train for about {_time(sum(known))}." if known else "; how long they train is not known.")
    )
    if done := sum(experiment.kept(arm) for arm in experiment.arms):
        lines.append(f"{done} of {seeds * len(experiment.arms)} trainings are done already and are not done again.")
    for plan in experiment.planned.plans:
        lines.append(f"{plan.mitigation}: {plan.summary}")
        told = grouped(plan.refused)
        lines += [f"  refused, {one.count}: {one.text}" for one in told[:_REASONS]]
        if rest := told[_REASONS:]:
            lines.append(f"  refused, {sum(one.count for one in rest)}: for {len(rest)} other reasons")
    lines += [f"not tried: {reason}" for reason in experiment.left_out.values()]
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    texts = (0, 1, 3)
    return [
        "  ".join(
            cell.ljust(width) if column in texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
