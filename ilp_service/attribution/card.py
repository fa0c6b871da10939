"""The classifier's card: what it was trained on, how well it does where that was measured, and its limits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ilp_service.attribution.augmentation import cause_of
from ilp_service.attribution.meta import KEYS
from ilp_service.errors import DataFormatError, DataNotFoundError

PROVENANCE = b"ilp.signals"
"""Key of the table's metadata under which it is said how it was made, as JSON."""

BEGIN = "<!-- made by: ilp classifier card --into FILE -->"
END = "<!-- end of the made part -->"

SCORES: Mapping[str, str] = {
    "macro_f1": "macro-F1 over the causes",
    "macro_f1_no_order_rarity": "macro-F1 without signals of order and rarity",
    "macro_f1_no_order_rarity_exposures": "the same, without the counts of exposures too",
    "macro_f1_no_trajectory": "macro-F1 without a training record",
    "macro_f1_no_base": "macro-F1 without the base model",
    "shipped_macro_f1": "macro-F1 of the built-in classifier",
    "rules_macro_f1": "macro-F1 of the paper's rules, literally",
    "repaired_rules_macro_f1": "macro-F1 of the rules, repaired",
    "cartography_macro_f1": "macro-F1 of training dynamics alone (dataset cartography)",
    "ece": "expected calibration error",
    "ece_equal_mass": "the same over bins of equal size",
    "precision_at_80_coverage": "precision on the most confident 80 %",
    "aurc": "area under the risk-coverage curve",
    "named_share": "share of the samples that are given a cause",
    "natural_agreement": "natural failures whose most probable cause a counterfactual training confirms",
    "natural_agreement_named": "the same of those of which a cause was named",
    "natural_named_share": "share of the natural failures of which a cause was named",
}
"""Scores that the benchmark reports, in the order of the card, and what they are; all 0-1."""

_LIMITS = """\
- It is trained and measured on planted worlds: tiny models, synthetic facts, short answers. Its calibration on large
  models and natural data is not known.
- Every world has one planted cause a sample. Two causes at once share the probability and end as *unattributed*.
- It cannot name a cause that has no rows above; a plugin's own rule stands in for such a cause.
- Without a training record forgetting is not measured, and without the base model two causes are not; what they would
  have had becomes *unattributed*.
- Samples unlike the worlds keep only part of their probabilities (`attribution.md`, "Samples unlike the worlds").
"""


def provenance(table: pa.Table) -> dict[str, Any]:
    """What the table's metadata say about how it was made; empty where they say nothing."""
    raw = (table.schema.metadata or {}).get(PROVENANCE)
    try:
        found = json.loads(raw) if raw else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def card(table: pa.Table, scores: Mapping[str, Any] | None = None, outcomes: Mapping[str, Any] | None = None) -> str:
    """The card as markdown.

    Args:
        table: The table of signals that the classifier is trained from, with its metadata.
        scores: What ``ilp benchmark --json`` printed; without it the card says that nothing was measured.
        outcomes: Facts of the outcomes of interventions that it is trained from besides.
    """
    learned = [_outcomes(outcomes)] if outcomes else []
    return "\n".join([facts(table), *learned, "### Scores\n", _scores(scores), "### Limits\n", _LIMITS])


def facts(table: pa.Table) -> str:
    """The part of the card that follows from the table alone: worlds, families, rows, signals."""
    made = provenance(table)
    labelled = table.filter(table["cause"].is_valid())
    causes = labelled["cause"].to_pylist()
    counts = Counter(causes)
    places = [*zip(labelled["family"].to_pylist(), labelled["world"].to_pylist(), strict=True)]
    worlds = Counter(places)
    families = Counter(family for family, _ in worlds)
    signals = Counter(cause_of(name) for name in table.column_names if name not in KEYS)
    cells = Counter(zip(places, causes, strict=True))
    order = [*(name for name in signals if counts[name]), *sorted(set(counts) - set(signals))]
    how = ", ".join(f"{name} {made[key]}" for key, name in (("recipe", "world recipe"), ("ilp_service", "ilp_service"))
                    if key in made)  # fmt: skip
    lines = [
        "### Training",
        "",
        f"{labelled.num_rows:,} samples of {len(worlds)} planted worlds of {len(families)} families "
        f"({', '.join(f'{name}: {count}' for name, count in sorted(families.items()))})"
        + (f", made with {how}." if how else "."),
        "",
        *_table(["cause", "rows", "signals"], ([name, counts[name], signals[name]] for name in order)),
        "",
        *_table(
            ["world", "family", "facts its base completes", "rows", *order],
            (
                [world, family, _percent(made, world), worlds[family, world],
                 *(cells[(family, world), name] for name in order)]
                for family, world in sorted(worlds, key=lambda place: (place[1], place[0]))
            ),
        ),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _outcomes(facts: Mapping[str, Any]) -> str:
    """What is told about rows that come from a user's own interventions."""
    causes = ", ".join(f"{name} {count}" for name, count in facts["causes"].items()) or "none"
    models = ", ".join(facts["models"]) or "no model"
    left = f" ({facts['left_out']} more could not be used)" if facts["left_out"] else ""
    return (
        "### Outcomes of interventions\n\n"
        f"{facts['rows']:,} samples of {models} whose cause a remedy proved ({causes}), each "
        f"counted as {facts['weight']:g} of the rows above{left}. They have no part in the calibration, and the "
        "scores below were measured without them unless they say otherwise.\n"
    )


def read_scores(path: Path) -> dict[str, Any]:
    """Scores as ``ilp benchmark --json`` printed them.

    Raises:
        DataNotFoundError: There is no such file.
        DataFormatError: It is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataNotFoundError(f"The scores {path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise DataFormatError(f"The scores {path} are no JSON ({error}); expected one object.") from error
    if not isinstance(found, dict):
        raise DataFormatError(f"The scores {path} hold a JSON {type(found).__name__}; expected one object.")
    return found


def score_values(scores: Mapping[str, Any] | None) -> dict[str, float]:
    """The known scores that are numbers, by name."""
    found = {name: _value((scores or {}).get(name)) for name in SCORES}
    return {name: value for name, value in found.items() if value is not None}


def put_into(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with the part between the markers made anew.

    Raises:
        DataFormatError: The page does not have both markers, in their order.
    """
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise DataFormatError(f"The page has no part to be made anew; expected the lines {begin} and {end}.")
    return f"{before}{begin}\n{text.strip()}\n{end}{after}"


def _scores(scores: Mapping[str, Any] | None) -> str:
    values = score_values(scores)
    if not values or scores is None:
        return "No scores were given with this card.\n"
    intervals = _mapping(scores, "intervals")
    rows = [
        [what, f"{values[name]:.3f}", _interval(intervals.get(name, scores[name]))]
        for name, what in SCORES.items()
        if name in values
    ]
    lines = [_measured_on(scores), "", *_table(["score (0-1)", "median over worlds", "95 % interval"], rows), ""]
    causes = [
        [name, *(f"{_value(row.get(key)) or 0.0:.3f}" for key in ("precision", "recall", "f1")), row.get("true", "")]
        for name, row in _mapping(scores, "per_cause").items()
        if isinstance(row, Mapping)
    ]
    if causes:
        lines += [*_table(["cause", "precision", "recall", "F1", "samples"], causes), ""]
    verified = ", ".join(f"{name} {count}" for name, count in _mapping(scores, "verified").items())
    if verified:
        said = "Samples whose planted cause a counterfactual training verified, in the world with fewest"
        lines += [f"{said}: {verified}.", ""]
    return "\n".join(lines)


def _measured_on(scores: Mapping[str, Any]) -> str:
    worlds = scores.get("worlds")
    which = f" ({', '.join(map(str, worlds))})" if isinstance(worlds, list) and worlds else ""
    if _mapping(scores, "trained_on"):
        return (
            f"Of classifiers that were trained in the same way with one family and its seeds left out, each family in "
            f"turn, on worlds of that family{which}:"
        )
    return f"On worlds that it was not trained on{which}:"


def _mapping(scores: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = scores.get(name)
    return found if isinstance(found, Mapping) else {}


def _value(score: object) -> float | None:
    """A score that is a number, or the value of one that comes with its interval."""
    if isinstance(score, Mapping):
        score = next((score[name] for name in ("median", "value", "mean") if name in score), None)
    return float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None


def _interval(score: object) -> str:
    if isinstance(score, Mapping):
        bounds = score.get("interval", [score.get("low"), score.get("high")])
        if isinstance(bounds, Sequence) and len(bounds) == 2 and all(isinstance(x, int | float) for x in bounds):
            return f"{bounds[0]:.3f} to {bounds[1]:.3f}"
    return "not given"


def _percent(made: Mapping[str, Any], world: str) -> str:
    share = made.get("worlds", {}).get(world, {}).get("cloze_accuracy")
    return f"{100 * share:.1f} %" if isinstance(share, int | float) else "not known"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    written = [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *written]
