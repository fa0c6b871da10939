"""Expected pass rate and best-of-N equal what sampling would give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilp_service.evaluation.multiple_choice import best_of_n, jsd_bits, margin, option_probabilities, option_scores

scores = st.lists(st.floats(-30, 0), min_size=2, max_size=8).map(np.array)


@given(scores, st.integers(1, 6), st.integers(0, 10_000))
def test_best_of_n_equals_simulation(logits: np.ndarray, runs: int, seed: int) -> None:
    p = option_probabilities(logits)
    rng = np.random.default_rng(seed)
    draws = rng.choice(len(p), size=(4000, runs), p=p / p.sum())
    order = np.argsort(np.lexsort((-(np.arange(len(p)) == 0).astype(int) * -1, -p)))  # rank, gold last among equals
    best = draws[np.arange(len(draws))[:, None], np.argmin(order[draws], axis=1)[:, None]][:, 0]
    assert best_of_n(p, 0, runs) == pytest.approx(float(np.mean(best == 0)), abs=0.06)


@given(scores)
def test_one_run_is_the_pass_rate_unless_tied(logits: np.ndarray) -> None:
    p = option_probabilities(logits)
    assert best_of_n(p, 0, 1) == pytest.approx(p[0], abs=1e-9)


def test_equal_lengths_are_not_rescaled() -> None:
    raw = np.array([-10.0, -12.0])
    assert np.allclose(option_scores(raw, [20, 20], matched=True), raw)
    assert np.allclose(option_scores(raw, [20, 5], matched=False), raw)
    assert option_scores(raw, [20, 10], matched=True)[1] == pytest.approx(-24.0)


def test_margin_is_positive_when_the_right_option_leads() -> None:
    assert margin(np.array([-1.0, -3.0, -2.0]), 0) == pytest.approx(1.0)
    assert margin(np.array([-3.0, -1.0]), 0) == pytest.approx(-2.0)


@given(scores)
def test_divergence_is_zero_to_itself_and_one_between_strangers(logits: np.ndarray) -> None:
    p = option_probabilities(logits)
    assert jsd_bits(p, p) == pytest.approx(0.0, abs=1e-6)
    assert jsd_bits(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1.0)
