"""The samples behind the report, as data for its script: cut to size, and inert whatever they contain."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.report.figures import CauseFigure

if TYPE_CHECKING:
    from ilp_service.evidence.collection import Evidence
    from ilp_service.plugin import Cause, Sample

BUDGET = 4_200_000
"""Bytes of data at most, so that the whole file stays below 5 MB."""

_EVALUATION = ("subset", "p_correct", "sample_match_rate", "greedy_match", "logprob_per_token", "jsd", "unlearned_by")
_FORMS = ("p", "base_p", "few_shot_base_p", "cloze_base_p", "probe_base_p")


@dataclass(frozen=True, slots=True)
class Cuts:
    """How much of each sample is shown: characters of prompt, response and signal text, options, recorded steps."""

    prompt: int
    response: int
    text: int
    options: int
    steps: int


_LEVELS = (Cuts(1200, 800, 200, 10, 32), Cuts(500, 300, 160, 6, 20), Cuts(200, 160, 100, 4, 10))


@dataclass(frozen=True, slots=True)
class Payload:
    """``text`` is JSON for a script element; ``shown`` counts its samples; ``first`` are its first rows."""

    text: str
    shown: int
    first: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Sources:
    """The tables that the rows are made of."""

    evaluation: pa.Table
    evidence: Evidence
    attributions: pa.Table
    options: pa.Table
    samples: Sequence[Sample]
    causes: Sequence[Cause]
    trajectory: pa.Table | None


def clip(text: object, limit: int) -> str:
    """Text of at most so many characters that can be written as UTF-8."""
    whole = str(text)
    cut = whole if len(whole) <= limit else whole[: limit - 1] + "…"
    return cut.encode("utf-8", "replace").decode("utf-8")


def inert_json(value: object) -> str:
    """JSON without any character that could end a script element or start a comment in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def build_payload(sources: Sources, figures: Sequence[CauseFigure], first: int) -> Payload:
    """The rows in the order of the attributions, with as much of each as the budget allows.

    Texts, options and steps are cut before samples are left out; what is left out is the least severe.
    """
    head = _head(sources, figures)
    rows: list[dict[str, Any]] = []
    sizes: list[int] = []
    for cuts in _LEVELS:
        rows = list(_rows(sources, cuts))
        sizes = [len(inert_json(row).encode()) + 1 for row in rows]
        if sum(sizes) <= BUDGET:
            break
    kept = int(np.searchsorted(np.cumsum(sizes), BUDGET, side="right")) if sizes else 0
    return Payload(inert_json({**head, "rows": rows[:kept]}), kept, rows[:first])


def _head(sources: Sources, figures: Sequence[CauseFigure]) -> dict[str, Any]:
    return {
        "causes": [
            {"name": f.name, "label": f.label, "title": f.title, "colour": f.colour, "status": f.status}
            for f in figures
        ],
        "signals": [
            {
                "cause": cause.name,
                "name": signal.name,
                "unit": signal.unit,
                "direction": signal.direction,
                "meaning": signal.meaning,
                "text": signal.kind == "text",
            }
            for cause in sources.causes
            for signal in cause.signals
        ],
    }


def _rows(sources: Sources, cuts: Cuts) -> Iterable[dict[str, Any]]:
    attributions = sources.attributions.to_pylist()
    ids = [row["sample_id"] for row in attributions]
    wanted = set(ids)
    samples = {sample.sample_id: sample for sample in sources.samples if sample.sample_id in wanted}
    evaluation = {row["sample_id"]: row for row in _of(sources.evaluation, ids, _EVALUATION)}
    signals = [f"{cause.name}.{signal.name}" for cause in sources.causes for signal in cause.signals]
    evidence = {row["sample_id"]: row for row in _of(sources.evidence.table, ids, signals)}
    options = _grouped(_of(sources.options, ids, ("option", "text", "source", *_FORMS)))
    steps = _grouped(_of(sources.trajectory, ids, ("step", "loss", "p_correct")))
    for row in attributions:
        key = row["sample_id"]
        sample, measured, found = samples.get(key), evaluation.get(key, {}), evidence.get(key, {})
        yield {
            "id": clip(key, 80),
            "prompt": clip(sample.prompt, cuts.prompt) if sample else "",
            "response": clip(sample.response, cuts.response) if sample else "",
            "line": sample.line if sample else None,
            "turn": sample.turn if sample else None,
            "subset": clip(measured.get("subset") or "", 80),
            "view": measured.get("unlearned_by"),
            "p": _number(measured.get("p_correct")),
            "said": _number(measured.get("sample_match_rate")),
            "greedy": measured.get("greedy_match"),
            "logprob": _number(measured.get("logprob_per_token")),
            "jsd": _number(measured.get("jsd")),
            "cause": row["cause"],
            "confidence": _number(row["confidence"]),
            "probabilities": [
                *(_number(row.get(f"p_{cause.name}")) for cause in sources.causes),
                _number(row["p_unattributed"]),
            ],
            "runner_up": row["runner_up"],
            "rule": row["rule_cause"],
            "why": clip(row["explanation"], 600),
            "evidence": [_value(found.get(name), cuts.text) for name in signals],
            "options": _options(options.get(key, []), cuts),
            "more_options": max(0, len(options.get(key, [])) - cuts.options),
            "steps": _steps(steps.get(key, []), cuts.steps),
        }


def _of(table: pa.Table | None, ids: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the wanted samples, in the table's order, with the columns that exist."""
    if table is None or not table.num_rows:
        return []
    kept = table.filter(pc.is_in(table["sample_id"], value_set=pa.array(ids, pa.string())))
    rows: list[dict[str, Any]] = kept.select(
        ["sample_id", *(name for name in names if name in table.column_names)]
    ).to_pylist()
    return rows


def _grouped(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["sample_id"], []).append(row)
    return groups


def _options(rows: list[dict[str, Any]], cuts: Cuts) -> list[list[Any]]:
    """The right option first, then those that any model gave most in any form."""

    def weight(row: dict[str, Any]) -> tuple[bool, float]:
        return row.get("source") == "gold", max((row.get(form) or 0.0 for form in _FORMS), default=0.0)

    ranked = sorted(rows, key=weight, reverse=True)[: cuts.options]
    return [
        [clip(row["text"], cuts.text), row["source"], *(_number(row.get(form)) for form in _FORMS)] for row in ranked
    ]


def _steps(rows: list[dict[str, Any]], limit: int) -> list[list[float | None]]:
    """Step, loss and pass rate at so many points at most; first, last and lowest loss are always among them."""
    rows = sorted((row for row in rows if _number(row.get("loss")) is not None), key=lambda row: row["step"])
    if len(rows) > limit:
        places = set(np.linspace(0, len(rows) - 1, limit - 1).round().astype(int).tolist())
        places.add(min(range(len(rows)), key=lambda place: (rows[place]["loss"], place)))
        rows = [rows[place] for place in sorted(places)]
    return [[row["step"], _number(row["loss"]), _number(row.get("p_correct"))] for row in rows]


def _value(value: object, limit: int) -> float | str | None:
    return clip(value, limit) if isinstance(value, str) else _number(value)


def _number(value: object) -> float | None:
    """A number to four significant digits, or three decimals where that is finer; ``None`` for what is not finite."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{float(value):.4g}")
