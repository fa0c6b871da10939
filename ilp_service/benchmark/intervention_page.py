"""The page of the docs about the intervention experiments, made from ``interventions.json``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ilp_service.benchmark.headline import PRESCRIPTION, UNDIAGNOSED
from ilp_service.benchmark.intervention_figures import FORMS, REMEDY_OF
from ilp_service.benchmark.intervention_report import PAPER
from ilp_service.benchmark.plants import CAUSES

BEGIN = "<!-- made by: ilp benchmark interventions --into FILE -->"
END = "<!-- end of the made part -->"

Report = Mapping[str, Any]

_FORM = {"unlearned_rate": "trained prompt", "paraphrase": "paraphrase", "cloze": "cloze"}
_AGAINST = {
    "longer_or_reshuffle": "the better of longer and re-shuffle",
    "best_undiagnosed": "the best without diagnosis",
}
_WANTED = {"longer_or_reshuffle": 1 / 3, "best_undiagnosed": 1 / 2}
_NAMES = {
    "placebo_other_order": "other order",
    "placebo_general_text": "general text alone",
    "placebo_others_more_often": "others more often",
    "again": "other order",
}


def page(report: Report) -> str:
    """The made part of the page, as markdown."""
    parts = [_worlds(report)]
    if "own_cause" in report:
        parts += _effects(report)
    if "headline" in report:
        parts += _headline(report)
    if "paper" in report:
        parts += ["### The paper's tables, redone", *_paper(report["paper"])]
    parts.append(f"Expected effects behind the prescription: {report['effectiveness']['provenance']}")
    return "\n\n".join(parts)


def _worlds(report: Report) -> str:
    everything = report["worlds"]
    effects, headline = (report.get(name) or everything for name in ("effects_worlds", "headline_worlds"))
    told = [f"Worlds: {', '.join(everything)}"]
    if effects != headline and "own_cause" in report and "headline" in report:
        told = [f"Worlds of the effects: {', '.join(effects)}", f"of the headline: {', '.join(headline)}"]
    told.append(f"fine-tuning seeds: {report['seeds']}")
    if report.get("headline_seeds", report["seeds"]) != report["seeds"]:
        told.append(f"of the headline: {report['headline_seeds']}")
    return f"{'; '.join(told)}."


def _effects(report: Report) -> list[str]:
    own = [
        [
            cause,
            REMEDY_OF[cause],
            f"{row['effect']:.2f}",
            _interval(row["interval"]),
            _value(row["recovery"]),
            _value(row["placebo"]),
            *(_value(report["forms"].get(cause, {}).get(form)) for form in ("paraphrase", "cloze")),
            ", ".join(map(str, row["samples"])),
        ]
        for cause, row in report["own_cause"].items()
    ]
    arms = [
        [
            _NAMES.get(arm, arm),
            *(_value(report[name].get(arm)) for name in ("controls",)),
            *(_value(report[name].get(arm), 3) for name in ("damage", "general_loss")),
            *(_whole(spent.get(key)) for key in ("training_tokens", "documents", "judgements", "seconds")),
        ]
        for arm, spent in report["spent"].items()
    ]
    agreed = report["agreement"]
    rate = "-" if agreed["rate"] is None else f"{agreed['rate']:.2f}"
    return [
        "### Recovery on the own cause\n\nShare of the treated samples that are learned, minus that under the placebo "
        "of equal compute; targets by attribution. Median over worlds, 95 % interval in which worlds are drawn (one "
        "world: its samples and seeds).\n\n"
        + _table(
            ["cause", "remedy", "effect", "interval", "remedy's share", "placebo's", "paraphrase", "cloze", "samples"],
            own,
        ),
        "### Every remedy on every cause\n\nEffect on the unlearned samples that were attributed to the cause.\n\n"
        + _matrix(report["matrix"]),
        "### Ablations\n\n" + _matrix(report["ablations"]),
        "### Controls, damage and price of each arm\n\nControls: effect on the samples attributed to other causes. "
        "Damage: share of the learned samples lost beyond the placebo (placebos: in all). Loss: held-out, against the "
        "diagnosed model, nats a token.\n\n"
        + _table(["arm", "controls", "damage", "loss", "tokens", "documents", "judgements", "seconds"], arms),
        f"### Verdicts\n\nOf {agreed['labelled']} samples with a verified label a cause was proved for "
        f"{agreed['proved']}; it agrees for {agreed['agreeing']} of them ({rate}); exactly the causes of the label "
        f"were proved for {agreed['exact']}.",
    ]


def _headline(report: Report) -> Iterator[str]:
    yield (
        "### The headline\n\nShare of the rows left unlearned, of all rows but the wrong twins and those that the "
        "training pipeline spoils (no arm mends a pipeline; in brackets with them). Every arm may spend what the "
        f"prescription does; before treatment: {report['headline']['original_unlearned_rate']:.3f}. Budgets beside 1 "
        "are under one seed."
    )
    for budget in sorted({row["budget"] for row in report["curves"]}):
        rows = [row for row in report["curves"] if row["budget"] == budget]
        yield f"Budget {budget:g}\n\n" + _table(
            [
                "arm",
                *_FORM.values(),
                "damage",
                "beyond another order",
                "general loss",
                "tokens",
                "documents",
                "judgements",
                "price",
            ],
            [
                [
                    _NAMES.get(row["arm"], row["arm"]),
                    f"{_spread(row['unlearned_rate'])} ({_value(row['unlearned_rate_with_pipeline'], 3)})",
                    *(_spread(row[form]) for form in list(FORMS)[1:]),
                    _spread(row["damage"]),
                    _spread(row["damage_beyond_placebo"]),
                    _value(row["general_loss"], 3),
                    *(_whole(row[key]) for key in ("tokens", "documents", "judgements")),
                    _value(row["price"]),
                ]
                for row in rows
            ],
        )
    ratios = [
        [
            budget,
            _AGAINST[name],
            _FORM[form],
            _spread(row, 2),
            f"{_WANTED[name]:.2f}",
            "yes" if row["value"] <= _WANTED[name] else "no",
            ", ".join(row["best"]),
        ]
        for budget, against in report["ratios_by_budget"].items()
        for name, forms in against.items()
        for form, row in forms.items()
    ]
    yield "The prescription's unlearned rate by that of others, world by world.\n\n" + _table(
        ["budget", "against", "asked", "ratio", "wanted at most", "reached", "the best one, by world"], ratios
    )
    yield _where_not(report["curves"])


def _where_not(curves: Sequence[Report]) -> str:
    """Where an arm without a diagnosis is as good."""
    found = []
    for budget in sorted({row["budget"] for row in curves}):
        rows = {row["arm"]: row for row in curves if row["budget"] == budget}
        own = rows.get(PRESCRIPTION) or next(row for row in curves if row["arm"] == PRESCRIPTION and row["budget"] == 1)
        for arm in UNDIAGNOSED:
            for form, name in _FORM.items():
                other = rows.get(arm, {}).get(form)
                if other and own[form] and other["value"] <= own[form]["value"]:
                    found.append(
                        f"- budget {budget:g}, {name}: {arm} leaves {other['value']:.3f}, the prescription "
                        f"{own[form]['value']:.3f}"
                    )
    if not found:
        return "At no budget and in no form does an arm without a diagnosis leave as little unlearned."
    return "Where diagnosis does not pay:\n\n" + "\n".join(found)


def _paper(tables: Mapping[str, Report]) -> Iterator[str]:
    for name, table in tables.items():
        said = PAPER[name]
        rows = [
            [column, f"{said['paper'][column]:.3f}" if column in said["paper"] else "-", _spread(value)]
            for column, value in table["ours"].items()
        ]
        directions = "; ".join(
            f"{one['more']} above {one['less']}: {'reproduced' if one['reproduced'] else 'not reproduced'} "
            f"({one['worlds']} worlds)"
            for one in table["directions"]
        )
        yield (
            f"{said['title']}. Ours: {said['ours']}.\n\n"
            + _table(["", "paper", "worlds, median"], rows)
            + f"\n\nDirections: {directions}."
        )


def _matrix(matrix: Mapping[str, Report]) -> str:
    columns = [cause for cause in (*CAUSES, "unattributed") if any(cause in row for row in matrix.values())]
    return _table(
        ["arm", *columns], [[arm, *(_value(row.get(cause)) for cause in columns)] for arm, row in matrix.items()]
    )


def _value(summary: Report | None, digits: int = 2) -> str:
    return "-" if summary is None else f"{summary['value']:.{digits}f}"


def _whole(summary: Report | None) -> str:
    return "-" if summary is None else f"{summary['value']:,.0f}"


def _spread(summary: Report | None, digits: int = 3) -> str:
    if summary is None:
        return "-"
    if summary["low"] is None:
        return f"{summary['value']:.{digits}f}"
    return f"{summary['value']:.{digits}f} [{summary['low']:.{digits}f}, {summary['high']:.{digits}f}]"


def _interval(ends: Sequence[float | None]) -> str:
    return "-" if ends[0] is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    written = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *written])
