"""The difference that a remedy makes on some samples: its estimate, interval and significance, paired throughout.

Rows are samples, columns seeds of the fine-tuning; the same sample under the same seed stands in the same place of the
remedy's and of the placebo's array. Samples that ask one question share a group, and the group is what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 4999
LEAST = 5
"""Questions below which there is no interval."""

ONE_SEED = "one seed: the interval does not hold how much seeds differ"


@dataclass(frozen=True, slots=True)
class Estimate:
    """How often something happened, and how much oftener than under the placebo.

    Attributes:
        samples: Samples that it is about.
        questions: Different questions among them.
        seeds: Seeds under which both arms were measured.
        share: Share of the samples under the arm, mean over seeds, 0-1; ``None`` without samples.
        placebo: The same under the placebo, 0-1; ``None`` where there is none.
        effect: ``share`` minus ``placebo``, -1 to 1; ``None`` where there is no placebo.
        low: Lower end of its 95 % interval; ``None`` where there is none.
        high: Upper end.
        p_value: Two-sided, of the paired sign-flip test; ``None`` where there is no effect to test.
        note: Why there is no interval, or what it lacks; empty otherwise.
    """

    samples: int
    questions: int
    seeds: int
    share: float | None
    placebo: float | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    note: str = ""

    def public(self) -> dict[str, Any]:
        """Ready for JSON; the note only where there is something to say."""
        return {key: value for key, value in asdict(self).items() if key != "note" or value}


def estimate(arm: Array, placebo: Array | None, groups: Sequence[str], rng: np.random.Generator) -> Estimate:
    """What an arm did to some samples, beyond its placebo.

    Args:
        arm: Whether it happened, 0 or 1, shape ``(samples, seeds)``.
        placebo: The same under the placebo, same samples and seeds; ``None`` where there is none.
        groups: The question of every sample, length ``samples``; those of one question stand and fall together.
        rng: Of the resampling.
    """
    samples, seeds = arm.shape
    names, codes = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    questions = len(names)
    if not samples:
        return Estimate(0, 0, seeds, None, note="no samples")
    if not seeds:
        return Estimate(samples, questions, 0, None, note="not measured")
    share = float(arm.mean())
    if placebo is None:
        return Estimate(samples, questions, seeds, share, note="no placebo was measured")
    difference = arm - placebo
    sums = np.zeros((questions, seeds))
    np.add.at(sums, codes, difference)
    sizes = np.bincount(codes, minlength=questions).astype(np.float64)
    low, high = interval(sums, sizes, rng) if questions >= LEAST else (None, None)
    notes = [ONE_SEED] if seeds == 1 else []
    if questions < LEAST:
        notes = [f"{questions} {'question' if questions == 1 else 'questions'}: too few for an interval"]
    return Estimate(
        samples,
        questions,
        seeds,
        share,
        float(placebo.mean()),
        float(difference.mean()),
        low,
        high,
        sign_flip(sums.sum(axis=1)),
        "; ".join(notes),
    )


def interval(sums: Array, sizes: Array, rng: np.random.Generator, *, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a mean paired difference, questions and seeds both drawn anew.

    Questions and seeds are crossed, so each is drawn with replacement by itself (Owen's pigeonhole bootstrap, 2007).
    Of ``n`` seeds ``n - 1`` are drawn, else the variance of two would come out half as large (Rao and Wu, 1988).
    One question more of each sign stands beside the data, as in Bonett and Price's interval for paired proportions
    (2012): where all samples agree, resampling alone would call the effect certain however few there are, and the
    corrections of BCa are not defined.

    Args:
        sums: Differences summed over the samples of each question, shape ``(questions, seeds)``; the order of the
            questions does not matter.
        sizes: Samples of each question, shape ``(questions,)``.
        rng: Of the resampling.
        resamples: How often to draw.
    """
    seeds = sums.shape[1]
    # Differences take few values, so how often each is drawn tells all; a multinomial draw of counts is the same
    # as drawing questions one by one, at a cost that does not grow with them.
    kinds, counts = np.unique(np.column_stack([sums, sizes]), axis=0, return_counts=True)
    size = sizes.mean()
    extra = np.outer([1.0, -1.0], [size] * seeds)
    kinds = np.concatenate([kinds, np.column_stack([extra, [size, size]])])
    counts = np.concatenate([counts, [1, 1]])
    drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    totals = drawn @ kinds
    if seeds > 1:
        weights = rng.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=resamples) / (seeds - 1)
    else:
        weights = np.ones((resamples, 1))
    means = (totals[:, :seeds] * weights).sum(axis=1) / totals[:, seeds]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.clip(low, -1, 1)), float(np.clip(high, -1, 1))


def sign_flip(totals: Array) -> float:
    """The exact two-sided p-value of the paired sign-flip test.

    If the remedy did no more than its placebo, the two could be exchanged for any question, which turns the sign of its
    difference. The p-value is the share of all ``2^n`` sign patterns whose sum is at least as far from 0 as the
    one found. With one sample a question and one seed it is McNemar's exact test.

    Args:
        totals: Whole-numbered differences of each question, summed over its samples and all seeds.
    """
    steps = np.abs(np.rint(totals)).astype(np.int64)
    steps = np.sort(steps[steps > 0])
    reach = int(steps.sum())
    if not reach:
        return 1.0
    chances = np.ones(1)
    for step in steps:
        flipped = np.zeros(len(chances) + 2 * int(step))
        flipped[: len(chances)] += chances / 2
        flipped[len(flipped) - len(chances) :] += chances / 2
        chances = flipped
    sums = np.arange(-reach, reach + 1)
    found = abs(int(np.rint(totals).sum()))
    return float(min(1.0, chances[np.abs(sums) >= found].sum()))


def corrected(p_values: Sequence[float | None]) -> list[float | None]:
    """Benjamini and Hochberg's q-values: the false discovery rate at which each would still be called an effect.

    ``None`` stays ``None`` and does not count among the tests.
    """
    from scipy.stats import false_discovery_control

    known = [value for value in p_values if value is not None]
    if not known:
        return [None] * len(p_values)
    found = iter(false_discovery_control(known, method="bh").tolist())
    return [None if value is None else float(next(found)) for value in p_values]
