"""Figures are what they are called: perfect is 1, chance is chance, and order changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from ilp_service.benchmark.metrics import (
    Verdicts,
    area_under_risk,
    calibration_error,
    confusion,
    figures,
    macro_f1,
    per_cause,
    precision_at_coverage,
    reliability,
    risk_coverage,
)
from ilp_service.benchmark.plants import CAUSES
from tests.benchmark.made_up import verdicts

A, B, C = "a", "b", "c"
NOBODY = "unattributed"


def random_verdicts(count: int, seed: int = 0) -> Verdicts:
    rng = np.random.default_rng(seed)
    truth = [[str(cause)] for cause in rng.choice(CAUSES, size=count)]
    return verdicts(truth, [str(cause) for cause in rng.choice(CAUSES, size=count)], list(rng.random(count)))


def test_a_perfect_method_has_every_figure_at_its_best() -> None:
    perfect = verdicts([[cause] for cause in CAUSES] * 5, list(CAUSES) * 5)
    assert figures(perfect) == {
        "macro_f1": 1.0,
        "macro_f1_one_cause": 1.0,
        "ece": 0.0,
        "ece_equal_mass": 0.0,
        "aurc": 0.0,
        "precision_at_80_coverage": 1.0,
        "named_share": 1.0,
        "accuracy": 1.0,
    }


def test_naming_at_random_is_chance() -> None:
    found = figures(random_verdicts(6000))
    assert found["macro_f1"] == pytest.approx(1 / 6, abs=0.02)
    assert found["precision_at_80_coverage"] == pytest.approx(1 / 6, abs=0.02)
    assert found["aurc"] == pytest.approx(5 / 6, abs=0.03)


def test_abstaining_throughout_names_nothing_and_is_right_nowhere() -> None:
    found = figures(verdicts([[A], [B]], [NOBODY, NOBODY], [0.4, 0.4]))
    assert (found["macro_f1"], found["named_share"], found["aurc"]) == (0.0, 0.0, 1.0)


def test_the_order_of_samples_changes_no_figure() -> None:
    found = random_verdicts(300)
    ties = Verdicts(found.keys, found.truth, found.named, found.likeliest, found.confidence.round(1))
    order = np.random.default_rng(1).permutation(300)
    shuffled = Verdicts(
        tuple(ties.keys[i] for i in order),
        tuple(ties.truth[i] for i in order),
        tuple(ties.named[i] for i in order),
        tuple(ties.likeliest[i] for i in order),
        ties.confidence[order],
    )
    assert figures(shuffled) == pytest.approx(figures(ties), abs=1e-12)
    assert confusion(shuffled) == confusion(ties)


def test_naming_either_of_two_causes_is_right_and_the_other_is_no_miss() -> None:
    for name in (A, B):
        found = per_cause(verdicts([[A, B], [A], [B]], [name, A, B]))
        assert {cause: score.f1 for cause, score in found.items()} == {A: 1.0, B: 1.0}
        assert found[name].true == 2
        assert sum(score.true for score in found.values()) == 3


def test_a_wrong_name_for_two_causes_is_one_false_alarm_and_one_miss_of_its_own_cause() -> None:
    found = per_cause(verdicts([[A, B], [A], [B], [C]], [C, A, B, C]))
    assert (found[A].recall, found[B].recall, found[C].precision) == (0.5, 1.0, 0.5)


def test_where_one_cause_is_true_nobody_is_right_by_having_two_to_hit() -> None:
    found = figures(verdicts([[A, B], [A, B], [A], [B]], [A, B, B, B]))
    assert found["macro_f1_one_cause"] == pytest.approx((0 + 2 / 3) / 2)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_precision_and_recall_are_counted_by_hand() -> None:
    found = verdicts([[A], [A], [A], [B], [B]], [A, A, B, B, NOBODY])
    scores = per_cause(found, [C])
    assert (scores[A].precision, scores[A].recall, scores[A].f1) == pytest.approx((1, 2 / 3, 0.8))
    assert (scores[B].precision, scores[B].recall, scores[B].f1) == (0.5, 0.5, 0.5)
    assert (scores[C].true, scores[C].f1) == (0, 0.0)
    assert macro_f1(found) == pytest.approx(0.65)
    assert macro_f1(found, [A]) == pytest.approx(0.8)
    assert confusion(found) == {A: {A: 2, B: 1}, B: {B: 1, NOBODY: 1}}


def test_left_in_samples_of_another_cause_are_false_alarms_only() -> None:
    assert macro_f1(verdicts([[A], [C]], [A, A]), [A]) == pytest.approx(2 / 3)
    assert macro_f1(verdicts([[A], [C]], [A, NOBODY]), [A]) == 1.0


@pytest.mark.parametrize("equal_mass", [False, True])
def test_calibrated_draws_have_a_small_error_and_overconfident_ones_a_large_one(equal_mass: bool) -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(20_000)
    hit = rng.random(20_000) < confidence
    calibrated = verdicts([[A] if right else [B] for right in hit], [A] * len(hit), list(confidence))
    assert calibration_error(calibrated, equal_mass=equal_mass) < 0.02
    sure = verdicts([[A] if right else [B] for right in hit], [A] * len(hit), [1.0] * len(hit))
    assert calibration_error(sure, equal_mass=equal_mass) == pytest.approx(0.5, abs=0.02)


def test_bins_hold_every_claim_once_edges_included() -> None:
    confidence = [0.0, 0.1, 0.10001, 0.5, 0.95, 1.0]
    bins = reliability(verdicts([[A]] * 6, [A] * 6, confidence))
    assert [part.samples for part in bins] == [2, 1, 1, 2]
    assert all(part.low <= part.confidence <= part.high for part in bins)
    by_mass = reliability(random_verdicts(95), equal_mass=True)
    assert {part.samples for part in by_mass} == {9, 10}


def test_an_abstention_with_a_most_probable_cause_is_a_claim_and_one_without_is_none() -> None:
    found = Verdicts((("w", "1"), ("w", "2")), ((A,), (A,)), (NOBODY, NOBODY), (A, None), np.array([0.4, 0.0]))
    assert calibration_error(found) == pytest.approx(0.6)
    assert [part.samples for part in reliability(found)] == [1]


def test_precision_at_coverage_is_of_all_samples_and_counts_abstentions_as_not_right() -> None:
    found = verdicts([[A]] * 5, [A, A, A, NOBODY, NOBODY], [0.9, 0.8, 0.7, 0.99, 0.99])
    assert precision_at_coverage(found, 0.6) == 1.0
    assert precision_at_coverage(found) == 0.75
    wrong_but_unsure = verdicts([[A]] * 5, [A, A, A, A, B], [0.9, 0.8, 0.7, 0.6, 0.1])
    assert precision_at_coverage(wrong_but_unsure) == 1.0


def test_risk_grows_to_the_error_over_all_samples() -> None:
    found = verdicts([[A]] * 4, [A, A, B, B], [0.9, 0.8, 0.3, 0.2])
    coverage, risk = risk_coverage(found)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 0, 1 / 3, 0.5])
    assert area_under_risk(found) == pytest.approx(float(risk.mean()))


def test_no_samples_are_no_crash() -> None:
    nothing = verdicts([], [])
    assert set(figures(nothing).values()) == {0.0}
    assert per_cause(nothing, [A])[A].true == 0
