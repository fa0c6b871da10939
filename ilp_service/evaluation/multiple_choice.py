"""The multiple-choice view: from log-probabilities of options to the expected pass rate (paper, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

Array = npt.NDArray[np.float64]


def option_scores(logprobs: Array, lengths: Sequence[int], *, matched: bool, gold: int = 0) -> Array:
    """Comparable scores of the options, nats, shape ``(options,)``.

    Short answers of one type compete by their probability as they stand. Long ones, and the choices of a native
    multiple-choice row, differ in length by so much that the sum would mostly measure it, so with ``matched`` each is
    brought to the right option's length: ``logprob * len(gold) / len(option)``.
    """
    if not matched:
        return logprobs
    sizes = np.maximum(np.asarray(lengths, dtype=np.float64), 1.0)
    return np.asarray(logprobs * (sizes[gold] / sizes), dtype=np.float64)


def option_probabilities(scores: Array) -> Array:
    """Chance of each option to be picked by one stochastic run: the softmax, shape ``(options,)``.

    Its entry for the right option is the expectation of pass@N, the paper's fraction of N runs that pick it.
    """
    return np.asarray(softmax(scores), dtype=np.float64)


def best_of_n(p: Array, gold: int, runs: int) -> float:
    """Expected accuracy of best-of-N: the run with the highest confidence among N draws is right, 0-1.

    The most confident run shows the likeliest option that was drawn, so it is right when the right option is drawn and
    none of the likelier ones is. Ties count against the right option.
    """
    likelier = float(sum(q for i, q in enumerate(p) if i != gold and q >= p[gold]))
    none_likelier = max(0.0, 1.0 - likelier)
    neither = max(0.0, 1.0 - likelier - float(p[gold]))
    return none_likelier**runs - neither**runs


def margin(scores: Array, gold: int) -> float:
    """Score of the right option minus the best wrong one, nats; positive when the right one leads."""
    others = np.delete(scores, gold)
    return float(scores[gold] - others.max()) if len(others) else float("nan")


def mean_probabilities(rows: Sequence[Array]) -> Array:
    """Mean of several distributions over the same options, shape ``(options,)``."""
    return np.asarray(np.mean(np.stack(rows), axis=0), dtype=np.float64)


def jsd_bits(p: Array, q: Array) -> float:
    """Jensen-Shannon divergence of two distributions over the same options, bits, 0-1 (paper, section 4)."""
    distance = float(jensenshannon(p, q, base=2))
    return 0.0 if np.isnan(distance) else min(1.0, distance**2)
