"""What came of an experiment, for people: a few lines for a terminal, and one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ilp_service.attribution.rules import UNATTRIBUTED
from ilp_service.intervention.effects import ArmEffect, Cell, Effects
from ilp_service.intervention.estimates import Estimate
from ilp_service.report.figures import colour_of, label_of
from ilp_service.report.html import render_page

_NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Proofs:
    """Verdicts in numbers.

    Attributes:
        failures: Attributed samples that were unlearned.
        one: Those with exactly one proved cause.
        several: Those with more.
        confirmed: Those of both kinds whose attributed cause is proved.
        named: Those of both kinds that had been attributed to a cause at all.
        rest: Why nothing is proved of the others, with their number.
    """

    failures: int
    one: int
    several: int
    confirmed: int
    named: int
    rest: Mapping[str, int]


def proofs_of(effects: Effects) -> Proofs:
    """Count the verdicts."""
    counts = Counter(one.verdict for one in effects.verdicts)
    proved = [one for one in effects.verdicts if one.proved]
    silent = ("learned", "proved", "several")
    return Proofs(
        len(effects.verdicts) - counts["learned"],
        counts["proved"],
        counts["several"],
        sum(one.confirmed is True for one in proved),
        sum(one.attributed != UNATTRIBUTED for one in proved),
        {name: count for name, count in sorted(counts.items()) if name not in silent},
    )


def effects_text(effects: Effects) -> str:
    """A short table of remedies with what they did, and what a reader has to know about it."""
    head = ("remedy", "samples of", "n", "learned", "beyond placebo", "q", "damage", "tokens", "a sample")
    rows = [row for arm in effects.arms if arm.kind == "remedy" and arm.seeds for row in _arm_rows(effects, arm)]
    proofs = proofs_of(effects)
    lines = [*_aligned([head, *rows]), ""] if rows else ["No remedy could be compared with anything.", ""]
    lines += [
        f"{arm.arm} diverged under {_seeds(arm.diverged)}: {next(iter(arm.diverged.values()))}"
        for arm in effects.arms
        if arm.diverged
    ]
    lines.append(
        f"Proved: the cause of {proofs.one} of {proofs.failures} samples, and several causes of {proofs.several}. "
        f"{proofs.confirmed} of {proofs.named} that had been attributed were attributed to a proved cause."
    )
    if proofs.rest:
        lines.append("Not proved: " + ", ".join(f"{name} {count}" for name, count in proofs.rest.items()) + ".")
    notes = sorted(
        {cell.recovery.note for cell in effects.cells if cell.own and cell.recovery.effect is not None} - {""}
    )
    lines += [f"Note: {note}." for note in notes]
    lines.append(
        "beyond placebo: share learned minus that of the placebo, 95 % interval; damage: share of learned samples lost "
        "beyond the placebo; a sample: price of one training by samples recovered."
    )
    return "\n".join("".join(c if c.isprintable() else " " for c in line).rstrip() for line in lines)


def render_interventions(effects: Effects, facts: Mapping[str, str]) -> str:
    """One HTML document without scripts: the matrix, every remedy in detail, every arm with its price.

    Args:
        effects: What came of the experiment.
        facts: Lines of the page's head by their name; ``Model`` is its title.
    """
    remedies = [arm for arm in effects.arms if arm.kind == "remedy"]
    causes = list(dict.fromkeys(cell.cause for cell in effects.cells if cell.cause != UNATTRIBUTED))
    if any(cell.cause == UNATTRIBUTED for cell in effects.cells):
        causes.append(UNATTRIBUTED)
    colours = {name: "none" if name == UNATTRIBUTED else colour_of(place) for place, name in enumerate(causes)}
    return render_page(
        "interventions.html.j2",
        title=facts.get("Model", "Interventions"),
        facts={name: value for name, value in facts.items() if name != "Model"},
        proofs=proofs_of(effects),
        causes=causes,
        colours=colours,
        label_of=label_of,
        rows=[(arm, [effects.cell(arm.arm, cause) for cause in causes]) for arm in remedies],
        own=[cell for cell in effects.cells if cell.own],
        arms=effects.arms,
        diverged=[arm for arm in effects.arms if arm.diverged],
        shade=_shade,
        signed=_signed,
        bounds=_bounds,
        seeds_of=_seeds,
    )


def _arm_rows(effects: Effects, arm: ArmEffect) -> list[Sequence[str]]:
    """Its own causes first, then all others together, then those without a cause."""
    cells = [cell for cell in effects.cells if cell.arm == arm.arm]
    spent = arm.spent
    shared = [
        _interval(arm.damage, percent=True),
        f"{spent.training_tokens:,.0f}" if spent else _NOTHING,
        f"{spent.price_per_recovered:.3g}" if spent and spent.price_per_recovered is not None else _NOTHING,
    ]
    found: list[Sequence[str]] = [
        (arm.arm, label_of(cell.cause), *_figures(cell.recovery, cell.q_value), *shared) for cell in cells if cell.own
    ]
    if arm.controls and arm.controls.samples:
        found.append(("", "other causes", *_figures(arm.controls, None), "", "", ""))
    found += [
        ("", UNATTRIBUTED, *_figures(cell.recovery, cell.q_value), "", "", "")
        for cell in cells
        if cell.cause == UNATTRIBUTED
    ]
    return found


def _figures(found: Estimate, q_value: float | None) -> tuple[str, str, str, str]:
    share = _NOTHING if found.share is None else f"{100 * found.share:.0f} %"
    return str(found.samples), share, _interval(found), _NOTHING if q_value is None else _chance(q_value)


def _chance(value: float) -> str:
    return "<.0001" if value < 0.0001 else f"{value:.4f}".lstrip("0") if value < 1 else "1"


def _interval(found: Estimate, *, percent: bool = False) -> str:
    if found.effect is None:
        return _NOTHING
    scale, digits, unit = (100, 1, " %") if percent else (1, 2, "")
    middle = f"{scale * found.effect:+.{digits}f}{unit}"
    if found.low is None or found.high is None:
        return f"{middle} [no interval]"
    return f"{middle} [{scale * found.low:+.{digits}f}, {scale * found.high:+.{digits}f}]"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    texts = (0, 1, 4, 6)
    return [
        "  ".join(
            cell.ljust(width) if column in texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _seeds(seeds: Iterable[int]) -> str:
    found = list(seeds)
    return f"{'seed' if len(found) == 1 else 'seeds'} {', '.join(map(str, found))}"


def _shade(cell: Cell | None) -> str:
    """Background of a matrix cell: stronger for a larger effect, none where 0 is within the interval."""
    found = cell.recovery if cell else None
    if found is None or found.effect is None or found.low is None or found.high is None or found.low <= 0 <= found.high:
        return ""
    colour = "--accent" if found.effect > 0 else "--bad"
    share = round(10 + 40 * min(1.0, abs(found.effect)))
    return f"background:color-mix(in srgb, var({colour}) {share}%, var(--card))"


def _signed(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def _bounds(found: Estimate, digits: int = 2) -> str:
    if found.low is None or found.high is None:
        return found.note or "no interval"
    return f"{_signed(found.low, digits)} to {_signed(found.high, digits)}"
