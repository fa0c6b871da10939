"""Intervals hold what they promise, and the test of no effect is exact."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, permutation_test

from ilp_service.intervention.estimates import LEAST, ONE_SEED, corrected, estimate, interval, sign_flip


@pytest.mark.parametrize(
    ("questions", "seeds", "spread"), [(8, 1, 0.0), (40, 1, 0.0), (8, 2, 0.04), (40, 2, 0.04), (150, 2, 0.04)]
)
def test_nine_of_ten_intervals_or_more_hold_the_true_effect(questions: int, seeds: int, spread: float) -> None:
    rng = np.random.default_rng(questions + seeds)
    held, tried = 0, 200
    for _ in range(tried):
        chance = rng.beta(6, 2, size=(questions, 1)) + rng.normal(0, spread, size=seeds)
        by_chance = 0.05 + rng.normal(0, spread, size=seeds)
        arm = (rng.random((questions, seeds)) < chance).astype(float)
        placebo = (rng.random((questions, seeds)) < by_chance).astype(float)
        low, high = interval(arm - placebo, np.ones(questions), rng, resamples=599)
        held += low <= 0.75 - 0.05 <= high
    assert held / tried >= 0.9


def test_copies_of_a_question_do_not_make_an_interval_narrower() -> None:
    rng = np.random.default_rng(0)
    held, tried, questions, copies = 0, 200, 20, 6
    for _ in range(tried):
        arm = np.repeat((rng.random((questions, 1)) < 0.6).astype(float), copies, axis=0)
        groups = [f"q{index}" for index in range(questions) for _ in range(copies)]
        found = estimate(arm, np.zeros_like(arm), groups, rng)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.6 <= found.high
    assert held / tried >= 0.9


def test_the_interval_is_scipys_where_nothing_has_to_be_added() -> None:
    rng = np.random.default_rng(1)
    values = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.4, 0.5], size=400)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=4999, rng=rng).confidence_interval
    assert interval(values[:, None], np.ones(400), rng) == pytest.approx((theirs.low, theirs.high), abs=0.012)


def test_samples_that_all_agree_leave_room_for_doubt() -> None:
    rng = np.random.default_rng(2)
    widths = []
    for count in (5, 20, 80):
        low, high = interval(np.ones((count, 2)), np.ones(count), rng)
        assert high == 1
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2] > 0


def test_the_sign_flip_test_is_that_of_scipy_and_of_mcnemar() -> None:
    rng = np.random.default_rng(3)
    totals = rng.choice([-2, -1, 0, 1, 2], p=[0.05, 0.1, 0.2, 0.25, 0.4], size=11).astype(float)
    theirs = permutation_test(
        (totals, np.zeros(11)), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=10_000
    )
    assert sign_flip(totals) == pytest.approx(theirs.pvalue)
    single = np.repeat([1.0, -1.0, 0.0], [14, 3, 20])
    assert sign_flip(single) == pytest.approx(binomtest(14, 17).pvalue)
    assert sign_flip(np.zeros(9)) == 1


def test_without_an_effect_few_p_values_are_small() -> None:
    rng = np.random.default_rng(4)
    found = [sign_flip(rng.choice([-2, -1, 0, 1, 2], size=30).astype(float)) for _ in range(500)]
    assert np.mean(np.array(found) < 0.05) <= 0.07


def test_what_cannot_be_known_is_not_claimed() -> None:
    rng = np.random.default_rng(5)
    ones, nothing = np.ones((9, 1)), np.zeros((9, 1))
    names = [str(index) for index in range(9)]
    assert estimate(ones, nothing, names, rng).note == ONE_SEED
    few = estimate(ones[: LEAST - 1], nothing[: LEAST - 1], names[: LEAST - 1], rng)
    assert (few.effect, few.low, few.high) == (1.0, None, None)
    assert few.note == "4 questions: too few for an interval"
    assert estimate(ones, nothing, ["one"] * 9, rng).low is None
    alone = estimate(ones, None, names, rng)
    assert (alone.share, alone.effect, alone.p_value, alone.note) == (1.0, None, None, "no placebo was measured")
    assert estimate(ones[:0], nothing[:0], [], rng).share is None
    assert estimate(ones[:, :0], nothing[:, :0], names, rng).note == "not measured"


def test_the_correction_leaves_out_what_was_not_tested() -> None:
    assert corrected([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.04), pytest.approx(0.04)]
    assert corrected([None, None]) == [None, None]
