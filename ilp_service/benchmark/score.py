"""How much of what was planted a diagnosis finds, labels unverified: a quick look at one world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ilp_service.benchmark.metrics import Verdicts, confusion, macro_f1, per_cause
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
    everything = {
        column: _verdicts(attributions["sample_id"].to_pylist(), attributions[column].to_pylist(), planted)
        for column in ("cause", "rule_cause")
    }
    scored = {
        column: verdicts.where([causes[0] in CAUSES for causes in verdicts.truth])
        for column, verdicts in everything.items()
    }
    return WorldScore(
        findings.built.name,
        float(findings.built.facts["cloze_accuracy"]),
        _unlearned(findings, planted),
        confusion(everything["cause"]),
        confusion(everything["rule_cause"]),
        {name: row.recall for name, row in per_cause(scored["cause"]).items()},
        {name: row.recall for name, row in per_cause(scored["rule_cause"]).items()},
        macro_f1(scored["cause"]),
        macro_f1(scored["rule_cause"]),
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


def _unlearned_ids(findings: Findings) -> frozenset[str]:
    table = findings.evaluation
    flags = zip(table["sample_id"].to_pylist(), table["unlearned"].to_pylist(), strict=True)
    return frozenset(key for key, unlearned in flags if unlearned)


def _unlearned(findings: Findings, planted: Mapping[str, str]) -> dict[str, float]:
    unlearned = _unlearned_ids(findings)
    totals = Counter(planted.values())
    missed = Counter(planted[key] for key in unlearned)
    return {cause: missed[cause] / totals[cause] for cause in sorted(totals)}


def _verdicts(keys: Sequence[str], named: Sequence[str], planted: Mapping[str, str]) -> Verdicts:
    return Verdicts(
        tuple(("", key) for key in keys),
        tuple((planted[key],) for key in keys),
        tuple(named),
        tuple(named),
        np.ones(len(keys)),
    )
