"""From true and named causes to figures: F1 of several labels, calibration, and risk against coverage.

All of them are about one list of samples (:class:`Verdicts`). A figure over several worlds is the median of the
worlds' own figures (:mod:`ilp_service.benchmark.intervals`): samples of one world share its base and its schedule,
so that the world, not the sample, is what was drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ilp_service.attribution.rules import UNATTRIBUTED

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BINS = 10
COVERAGE = 0.8


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is true and what was said about some samples; all attributes have one entry a sample.

    Attributes:
        keys: World and id of the sample; breaks ties, never looked at otherwise.
        truth: Its true causes, at least one, its own (planted) cause first.
        named: The cause that was named, or ``unattributed``.
        likeliest: The named cause, or the most probable one where none was named; ``None`` if nothing is known of it.
        confidence: Probability of ``likeliest``, 0-1.
    """

    keys: tuple[tuple[str, str], ...]
    truth: tuple[tuple[str, ...], ...]
    named: tuple[str, ...]
    likeliest: tuple[str | None, ...]
    confidence: Array

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def right(self) -> Mask:
        """Where the named cause is one of the true ones; shape ``(samples,)``."""
        pairs = zip(self.named, self.truth, strict=True)
        return np.array([name in causes for name, causes in pairs], dtype=np.bool_)

    @property
    def settled(self) -> list[str]:
        """One true cause a sample: the named one where it is among them, its own cause otherwise.

        So a sample with two causes counts once: naming either is right, and the other is then neither missed nor
        wrongly named.
        """
        triples = zip(self.named, self.truth, self.right, strict=True)
        return [name if right else causes[0] for name, causes, right in triples]

    def where(self, keep: Sequence[bool] | Mask) -> Verdicts:
        """The samples at which ``keep`` holds."""
        rows = np.flatnonzero(np.asarray(keep, dtype=np.bool_))
        return Verdicts(
            tuple(self.keys[row] for row in rows),
            tuple(self.truth[row] for row in rows),
            tuple(self.named[row] for row in rows),
            tuple(self.likeliest[row] for row in rows),
            self.confidence[rows],
        )


@dataclass(frozen=True, slots=True)
class CauseScore:
    """Figures of one cause; a rate whose denominator is 0 is 0.

    Attributes:
        precision: Right among those that were named so, 0-1.
        recall: Named so among those that have the cause, 0-1.
        f1: Harmonic mean of both, 0-1.
        true: Samples that have the cause (see :attr:`Verdicts.settled`).
        named: Samples of which it was named.
        right: Samples of both kinds.
    """

    precision: float
    recall: float
    f1: float
    true: int
    named: int
    right: int


def per_cause(verdicts: Verdicts, causes: Sequence[str] = ()) -> dict[str, CauseScore]:
    """Figures of every cause that some sample has, and of those in ``causes`` besides."""
    from sklearn.metrics import precision_recall_fscore_support

    settled, named = verdicts.settled, list(verdicts.named)
    labels = sorted(set(settled) | set(causes))
    if not settled:
        return {name: CauseScore(0.0, 0.0, 0.0, 0, 0, 0) for name in labels}
    columns = precision_recall_fscore_support(settled, named, labels=labels, zero_division=0.0)
    said, right = Counter(named), Counter(true for true, name in zip(settled, named, strict=True) if true == name)
    return {
        name: CauseScore(float(precision), float(recall), float(f1), int(true), said[name], right[name])
        for name, precision, recall, f1, true in zip(labels, *columns, strict=True)
    }


def macro_f1(verdicts: Verdicts, causes: Sequence[str] | None = None) -> float:
    """Mean F1 over the causes that some sample has, 0-1; over those among ``causes`` only, where given.

    A sample of a cause that is not averaged still counts against the causes that are named of it.
    """
    scores = per_cause(verdicts)
    kept = [score.f1 for name, score in scores.items() if score.true and (causes is None or name in causes)]
    return float(np.mean(kept)) if kept else 0.0


def confusion(verdicts: Verdicts) -> dict[str, dict[str, int]]:
    """How often each cause was named, ``unattributed`` included, by true cause; zeros are left out."""
    counts: dict[str, Counter[str]] = {}
    for true, name in zip(verdicts.settled, verdicts.named, strict=True):
        counts.setdefault(true, Counter())[name] += 1
    return {true: dict(sorted(row.items())) for true, row in sorted(counts.items())}


@dataclass(frozen=True, slots=True)
class Bin:
    """Samples of about the same confidence.

    Attributes:
        low: Lower edge of their confidence, 0-1; not included, but in the first bin.
        high: Upper edge, included.
        samples: How many there are.
        confidence: Their mean confidence, 0-1.
        accuracy: Share of them whose most probable cause is true, 0-1.
    """

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


def reliability(verdicts: Verdicts, *, equal_mass: bool = False) -> list[Bin]:
    """Bins of the confidence in the named or most probable cause; empty ones are left out.

    Samples of which no most probable cause is known make no claim and are left out.

    Args:
        verdicts: The samples.
        equal_mass: Bins of equally many samples instead of equal width.
    """
    claims = verdicts.where([name is not None for name in verdicts.likeliest])
    if not len(claims):
        return []
    hits = np.array([n in t for n, t in zip(claims.likeliest, claims.truth, strict=True)], dtype=np.float64)
    confidence = claims.confidence
    if equal_mass:
        parts = np.array_split(np.lexsort((_rank(claims.keys), confidence)), BINS)
        found = [(float(confidence[rows[0]]), float(confidence[rows[-1]]), rows) for rows in parts if len(rows)]
    else:
        edges = np.linspace(0, 1, BINS + 1)
        place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
        found = [(float(edges[i]), float(edges[i + 1]), np.flatnonzero(place == i)) for i in range(BINS)]
    return [
        Bin(low, high, len(rows), float(confidence[rows].mean()), float(hits[rows].mean()))
        for low, high, rows in found
        if len(rows)
    ]


def calibration_error(verdicts: Verdicts, *, equal_mass: bool = False) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over the bins, by samples, 0-1."""
    bins = reliability(verdicts, equal_mass=equal_mass)
    total = sum(part.samples for part in bins)
    return sum(part.samples * abs(part.confidence - part.accuracy) for part in bins) / total if total else 0.0


def risk_coverage(verdicts: Verdicts) -> tuple[Array, Array]:
    """Coverage and risk when only the most confident samples are answered, one point for each number of them.

    All samples are ranked by confidence, highest first; unattributed ones rank by confidence 0, ties by world and
    id. Risk is the share of the answered samples of which no true cause was named, an abstention among them included.

    Returns:
        Two arrays of shape ``(samples,)``, 0-1.
    """
    count = len(verdicts)
    wrong = (~verdicts.right)[_by_confidence(verdicts)].astype(np.float64)
    answered = np.arange(1, count + 1, dtype=np.float64)
    return answered / max(count, 1), np.cumsum(wrong) / answered


def area_under_risk(verdicts: Verdicts) -> float:
    """AURC: mean risk over all coverages, 0-1; lower is better."""
    return float(risk_coverage(verdicts)[1].mean()) if len(verdicts) else 0.0


def precision_at_coverage(verdicts: Verdicts, coverage: float = COVERAGE) -> float:
    """Share of the most confident ``coverage`` of *all* samples whose named cause is true, 0-1.

    Rounded up to whole samples and ranked as in :func:`risk_coverage`: whoever abstains from more than the rest
    has the abstentions counted as not right.
    """
    if not len(verdicts):
        return 0.0
    count = max(1, int(np.ceil(round(coverage * len(verdicts), 9))))
    return float(verdicts.right[_by_confidence(verdicts)[:count]].mean())


def named_share(verdicts: Verdicts) -> float:
    """Share of the samples of which a cause was named, 0-1."""
    return sum(name != UNATTRIBUTED for name in verdicts.named) / max(len(verdicts), 1)


def figures(verdicts: Verdicts) -> Mapping[str, float]:
    """The figures of one list of samples that are one number each."""
    return {
        "macro_f1": macro_f1(verdicts),
        "macro_f1_one_cause": macro_f1(verdicts.where([len(causes) == 1 for causes in verdicts.truth])),
        "ece": calibration_error(verdicts),
        "ece_equal_mass": calibration_error(verdicts, equal_mass=True),
        "aurc": area_under_risk(verdicts),
        "precision_at_80_coverage": precision_at_coverage(verdicts),
        "named_share": named_share(verdicts),
        "accuracy": float(verdicts.right.mean()) if len(verdicts) else 0.0,
    }


def _by_confidence(verdicts: Verdicts) -> npt.NDArray[np.int64]:
    named = np.array([name != UNATTRIBUTED for name in verdicts.named], dtype=np.bool_)
    return np.lexsort((_rank(verdicts.keys), -np.where(named, verdicts.confidence, 0.0)))


def _rank(keys: Sequence[tuple[str, str]]) -> npt.NDArray[np.int64]:
    place = {key: rank for rank, key in enumerate(sorted(keys))}
    return np.array([place[key] for key in keys], dtype=np.int64)
