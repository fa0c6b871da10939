"""Scores of predictions against verified labels: ours, a baseline's, or anybody's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ilp_service.attribution.rules import UNATTRIBUTED
from ilp_service.benchmark.handed_in import read_labels, read_predictions, read_samples_of
from ilp_service.benchmark.intervals import Summary, summarise
from ilp_service.benchmark.metrics import CauseScore, Verdicts, confusion, figures, macro_f1, per_cause
from ilp_service.errors import DataEmptyError

PLANTED, NATURAL = "planted", "natural"
LABELLED = ("verified", "two_causes")
"""Verdicts whose samples are scored."""


@dataclass(frozen=True, slots=True)
class Score:
    """All figures of one method.

    Attributes:
        worlds: Figures of :func:`~ilp_service.benchmark.metrics.figures` of every world, planted samples only, and
            of :func:`natural_figures`, where it has natural failures with a label.
        summary: Median over worlds of each of those figures, with its interval.
        pooled: The same figures of all samples at once.
        per_cause: Precision, recall, F1 and counts of every cause, all samples at once.
        confusion: How often each cause was named, by true cause.
        samples: Planted samples that were scored.
        natural: Natural failures with a label.
        natural_pooled: :func:`natural_figures` of them all at once; empty without any.
        unlabelled_named: Samples without a label of which a cause was named; learned ones should have none.
        verdicts: The planted samples behind the figures.
    """

    worlds: Mapping[str, Mapping[str, float]]
    summary: Mapping[str, Summary]
    pooled: Mapping[str, float]
    per_cause: Mapping[str, CauseScore]
    confusion: Mapping[str, Mapping[str, int]]
    samples: int
    natural: int
    natural_pooled: Mapping[str, float]
    unlabelled_named: int
    verdicts: Verdicts

    def value(self, name: str) -> float | None:
        """Median over worlds of one figure."""
        found = self.summary.get(name)
        return None if found is None else found.value

    def public(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {
            **{name: summary.value for name, summary in self.summary.items()},
            "intervals": {name: summary.public() for name, summary in self.summary.items()},
            "pooled": dict(self.pooled),
            "per_cause": {name: asdict(score) for name, score in self.per_cause.items()},
            "confusion": {name: dict(row) for name, row in self.confusion.items()},
            "worlds": {name: dict(row) for name, row in self.worlds.items()},
            "samples": self.samples,
            "natural": self.natural,
            "natural_pooled": dict(self.natural_pooled),
            "unlabelled_named": self.unlabelled_named,
        }


def score(
    predictions: Path | pa.Table,
    labels: Path | pa.Table,
    *,
    others: frozenset[tuple[str, str]] = frozenset(),
    left_out: Collection[str] = (),
    seed: int = 0,
) -> Score:
    """Score a method.

    Planted samples whose label holds are scored; a sample with two causes is right with either. A labelled sample
    without a prediction counts as unattributed with confidence 0. Natural failures with a label are told apart.

    Args:
        predictions: Columns ``world, sample_id, cause, confidence`` and, where known, ``p_<cause>``.
        labels: The labels, or a folder of worlds.
        others: World and id of samples without a label that may be named all the same; those of the worlds in a
            folder of worlds may be.
        left_out: Causes that could not be measured: no sample is asked for them, and one that has no other is
            not scored.
        seed: Of the bootstrap.

    Raises:
        DataNotFoundError: A file is not there.
        DataFormatError: The predictions or labels are not as they should be.
        DataEmptyError: No label holds.
    """
    held = read_labels(labels)
    if isinstance(labels, Path) and labels.is_dir():
        others |= read_samples_of(labels, held["world"].to_pylist())
    said = read_predictions(predictions, held, others)
    planted = _without(verdicts(held, said, PLANTED), left_out)
    natural = _without(verdicts(held, said, NATURAL), left_out)
    if not len(planted):
        raise DataEmptyError(
            "No label of a planted sample holds, so nothing can be scored; build more or larger worlds."
        )
    worlds = {world: _world(world, planted, natural) for world in sorted({world for world, _ in planted.keys})}
    names = dict.fromkeys(name for row in worlds.values() for name in row)
    summary = {}
    for name in names:
        found = summarise([row[name] for row in worlds.values() if name in row], seed=seed)
        if found is not None:
            summary[name] = found
    return Score(
        worlds,
        summary,
        figures(planted),
        per_cause(planted),
        confusion(planted),
        len(planted),
        len(natural),
        natural_figures(natural),
        _unlabelled(said, held),
        planted,
    )


def left_in(predictions: pa.Table, labels: pa.Table, unmeasured: Collection[str], *, seed: int = 0) -> Summary | None:
    """Macro-F1 over the causes that were measured, with the samples of the others left in as possible false alarms."""
    all_samples = verdicts(read_labels(labels), predictions, PLANTED)
    causes = {causes[0] for causes in all_samples.truth} - set(unmeasured)
    worlds = sorted({world for world, _ in all_samples.keys})
    return summarise([macro_f1(_of_world(all_samples, world), sorted(causes)) for world in worlds], seed=seed)


def verdicts(labels: pa.Table, predictions: pa.Table, origin: str) -> Verdicts:
    """The labelled samples of one origin with what was said of them, ordered by world and id."""
    said = {(row["world"], row["sample_id"]): row for row in predictions.to_pylist()}
    rows = [
        row
        for row in labels.select(["world", "sample_id", "origin", "causes", "verdict"]).to_pylist()
        if row["origin"] == origin and row["verdict"] in LABELLED and row["causes"]
    ]
    rows.sort(key=lambda row: (row["world"], row["sample_id"]))
    nothing = {"cause": UNATTRIBUTED, "confidence": 0.0}
    found = [said.get((row["world"], row["sample_id"]), nothing) for row in rows]
    return Verdicts(
        tuple((row["world"], row["sample_id"]) for row in rows),
        tuple(tuple(row["causes"]) for row in rows),
        tuple(row["cause"] for row in found),
        tuple(_likeliest(row) for row in found),
        np.array([row["confidence"] for row in found], dtype=np.float64),
    )


def _likeliest(row: Mapping[str, Any]) -> str | None:
    """The named cause; else the one with the highest ``p_<cause>``, the first of the columns winning ties."""
    if row["cause"] != UNATTRIBUTED:
        return str(row["cause"])
    chances = {
        name.removeprefix("p_"): value
        for name, value in row.items()
        if name.startswith("p_") and value is not None and name != f"p_{UNATTRIBUTED}"
    }
    best = max(chances, key=lambda name: chances[name], default=None)
    return best if best is not None and chances[best] > 0 else None


def _without(found: Verdicts, left_out: Collection[str]) -> Verdicts:
    if not left_out:
        return found
    truth = tuple(tuple(cause for cause in causes if cause not in left_out) for causes in found.truth)
    reduced = Verdicts(found.keys, truth, found.named, found.likeliest, found.confidence)
    return reduced.where([bool(causes) for causes in truth])


def _of_world(found: Verdicts, world: str) -> Verdicts:
    return found.where([key[0] == world for key in found.keys])


def _world(world: str, planted: Verdicts, natural: Verdicts) -> Mapping[str, float]:
    row = dict(figures(_of_world(planted, world)))
    failures = _of_world(natural, world)
    return row | natural_figures(failures)


def natural_figures(failures: Verdicts) -> dict[str, float]:
    """How what is said of natural failures agrees with their labels.

    Returns:
        ``natural_agreement``: share whose most probable cause is one that they have, whether or not it was named;
        ``natural_named_share``: share of which a cause was named; ``natural_agreement_named``: share of those whose
        named cause is one that they have, absent where none was named. All 0-1; empty without failures.
    """
    if not len(failures):
        return {}
    pairs = zip(failures.likeliest, failures.truth, strict=True)
    named = [name != UNATTRIBUTED for name in failures.named]
    found = {
        "natural_agreement": float(np.mean([cause in causes for cause, causes in pairs])),
        "natural_named_share": float(np.mean(named)),
    }
    if any(named):
        found["natural_agreement_named"] = float(failures.right[np.array(named)].mean())
    return found


def _unlabelled(predictions: pa.Table, labels: pa.Table) -> int:
    held = set(zip(labels["world"].to_pylist(), labels["sample_id"].to_pylist(), strict=True))
    columns = (predictions[name].to_pylist() for name in ("world", "sample_id", "cause"))
    return sum(cause != UNATTRIBUTED and (world, key) not in held for world, key, cause in zip(*columns, strict=True))
