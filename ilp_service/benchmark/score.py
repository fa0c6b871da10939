"""How well a diagnosis finds what was planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ilp_service.benchmark.plants import CAUSES
from ilp_service.benchmark.signals import Findings
from ilp_service.benchmark.world import CONTROL


@dataclass(frozen=True, slots=True)
class WorldScore:
    """Figures of one world.

    Attributes:
        world: Its name.
        cloze_accuracy: Share of the corpus's facts that the base completes, 0-1.
        unlearned: Share of the samples that the diagnosis calls unlearned, by planted cause, 0-1.
        attributed: How often each cause was named, by planted cause; unlearned samples only.
        by_rule: The same for the paper's tests, one after another.
        recall: Share of the planted and unlearned samples whose planted cause was named, 0-1.
        rule_recall: The same for the paper's tests.
        macro_f1: Mean over the causes of the harmonic mean of precision and recall, planted samples only, 0-1.
        rule_macro_f1: The same for the paper's tests.
    """

    world: str
    cloze_accuracy: float
    unlearned: Mapping[str, float]
    attributed: Mapping[str, Mapping[str, int]]
    by_rule: Mapping[str, Mapping[str, int]]
    recall: Mapping[str, float]
    rule_recall: Mapping[str, float]
    macro_f1: float
    rule_macro_f1: float

    def public(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return asdict(self)


def score_world(findings: Findings, attributions: pa.Table) -> WorldScore:
    """Compare attributions with what was planted.

    Args:
        findings: What the diagnosis found in the world.
        attributions: The attributions table that was made of it.
    """
    planted = truth_of(findings)
    pairs: dict[str, list[tuple[str, str]]] = {}
    for column in ("cause", "rule_cause"):
        named = zip(attributions["sample_id"].to_pylist(), attributions[column].to_pylist(), strict=True)
        pairs[column] = [(planted[key], str(name)) for key, name in named]
    return WorldScore(
        findings.built.name,
        float(findings.built.facts["cloze_accuracy"]),
        _unlearned(findings, planted),
        _confusion(pairs["cause"]),
        _confusion(pairs["rule_cause"]),
        _recall(pairs["cause"]),
        _recall(pairs["rule_cause"]),
        macro_f1(pairs["cause"]),
        macro_f1(pairs["rule_cause"]),
    )


def truth_of(findings: Findings) -> dict[str, str]:
    """The planted cause of every sample."""
    return dict(zip(*(findings.truth[name].to_pylist() for name in ("sample_id", "cause")), strict=True))


def flipped_controls(first: Findings, second: Findings) -> float:
    """Share of the controls learned under one fine-tuning seed that another one leaves unlearned, 0-1."""
    planted = truth_of(first)
    before, after = (_unlearned_ids(findings) for findings in (first, second))
    learned = [key for key, cause in planted.items() if cause == CONTROL and key not in before]
    return sum(key in after for key in learned) / max(1, len(learned))


def macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """Mean F1 over the causes that were planted, of pairs (planted, named); rows of no planted cause are left out."""
    kept = [(planted, named) for planted, named in pairs if planted in CAUSES]
    scores = []
    for cause in CAUSES:
        wanted = sum(planted == cause for planted, _ in kept)
        named = sum(name == cause for _, name in kept)
        right = sum(planted == name == cause for planted, name in kept)
        if wanted:
            scores.append(2 * right / (wanted + named))
    return sum(scores) / len(scores) if scores else 0.0


def _unlearned_ids(findings: Findings) -> frozenset[str]:
    table = findings.evaluation
    flags = zip(table["sample_id"].to_pylist(), table["unlearned"].to_pylist(), strict=True)
    return frozenset(key for key, unlearned in flags if unlearned)


def _unlearned(findings: Findings, planted: Mapping[str, str]) -> dict[str, float]:
    unlearned = _unlearned_ids(findings)
    totals = Counter(planted.values())
    missed = Counter(planted[key] for key in unlearned)
    return {cause: missed[cause] / totals[cause] for cause in sorted(totals)}


def _confusion(pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, int]]:
    rows: dict[str, Counter[str]] = {}
    for planted, named in pairs:
        rows.setdefault(planted, Counter())[named] += 1
    return {planted: dict(sorted(row.items())) for planted, row in sorted(rows.items())}


def _recall(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    totals = Counter(planted for planted, _ in pairs)
    right = Counter(planted for planted, named in pairs if planted == named)
    return {cause: right[cause] / totals[cause] for cause in CAUSES if totals[cause]}
