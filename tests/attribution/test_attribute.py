from __future__ import annotations

import numpy as np
import pytest

from ilp_service.attribution.attribute import attribute
from ilp_service.attribution.meta import MetaClassifier, untrained_meta
from ilp_service.attribution.weighing import probabilities, strength
from ilp_service.settings import AttributionSettings
from tests.attribution.tables import BUILT_IN, CAUSES, BrokenCause, FakeCause, evidence, evidence_rows

LABELS = [cause for cause in CAUSES for _ in range(20)]
SETTINGS = AttributionSettings()
CUSTOM = FakeCause("moon_phase")


def test_every_row_adds_up_and_is_in_order(meta: MetaClassifier) -> None:
    given = evidence(evidence_rows(LABELS))
    table = attribute(given, BUILT_IN, meta, SETTINGS)
    p = np.stack([table[name].to_numpy() for name in table.column_names if name.startswith("p_")], axis=1)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert table["sample_id"].to_pylist() == given.table["sample_id"].to_pylist()
    assert sum(a == b for a, b in zip(table["cause"].to_pylist(), LABELS, strict=True)) > 70


def test_below_the_asked_confidence_nothing_is_named(meta: MetaClassifier) -> None:
    given = evidence(evidence_rows(LABELS))
    for least in (0.3, 0.7, 1.0):
        table = attribute(given, BUILT_IN, meta, AttributionSettings(min_confidence=least)).to_pylist()
        for row in table:
            named = row["confidence"] >= least and row["confidence"] >= row["p_unattributed"]
            assert (row["cause"] != "unattributed") == named
            assert row["runner_up"] != row["cause"]
            if not named:
                assert row["runner_up"] in row["explanation"]


def test_what_cannot_be_measured_goes_to_unattributed(meta: MetaClassifier) -> None:
    rows = evidence_rows(LABELS)
    given = evidence(rows, unmeasured=["left_side_forgetting"])
    found = probabilities(given, BUILT_IN, meta)
    column = CAUSES.index("left_side_forgetting")
    assert np.isnan(found[:, column]).all()
    others = [place for place in range(len(CAUSES)) if place != column]
    seen = meta.predict_proba(given.table)
    np.testing.assert_array_equal(found[:, others], seen[:, others])
    table = attribute(given, BUILT_IN, meta, SETTINGS)
    assert "left_side_forgetting" not in table["cause"].to_pylist()
    assert table["p_left_side_forgetting"].null_count == len(LABELS)


def test_what_the_evidence_rules_out_goes_to_unattributed(meta: MetaClassifier) -> None:
    rows = evidence_rows(LABELS)
    mask = [True] * 50 + [False] * 50
    free = probabilities(evidence(rows), BUILT_IN, meta)
    bound = probabilities(evidence(rows, excluded={"missing_knowledge": mask}), BUILT_IN, meta)
    assert not bound[:50, 0].any()
    np.testing.assert_array_equal(bound[50:], free[50:])
    np.testing.assert_array_equal(bound[:, 1:], free[:, 1:])


@pytest.mark.parametrize(("score", "wins"), [(1.0, True), (0.95, True), (0.49, False), (0.0, False)])
def test_a_strong_custom_rule_wins_and_a_weak_one_changes_nothing(
    meta: MetaClassifier, score: float, wins: bool
) -> None:
    rows = evidence_rows(LABELS)
    causes = (*BUILT_IN, CUSTOM)
    before = attribute(evidence(rows), BUILT_IN, meta, SETTINGS)
    after = attribute(evidence(rows, causes, rules={"moon_phase": [score] * len(LABELS)}), causes, meta, SETTINGS)
    if wins:
        assert set(after["cause"].to_pylist()) == {"moon_phase"}
    else:
        assert after["cause"].equals(before["cause"])
        assert after["p_missing_knowledge"].equals(before["p_missing_knowledge"])
        assert not after["p_moon_phase"].to_numpy().any()


def test_a_custom_verdict_at_its_threshold_takes_only_what_is_unexplained(meta: MetaClassifier) -> None:
    rows = evidence_rows(LABELS)
    causes = (*BUILT_IN, CUSTOM)
    free = probabilities(evidence(rows), BUILT_IN, meta)
    found = probabilities(evidence(rows, causes, rules={"moon_phase": [0.5] * len(LABELS)}), causes, meta)
    np.testing.assert_allclose(found[:, :-1], free)
    np.testing.assert_allclose(found[:, -1], (1 - free.sum(axis=1)) / 2)


def test_two_custom_causes_share_and_their_order_does_not_matter(meta: MetaClassifier) -> None:
    rows = evidence_rows(LABELS)
    tide = FakeCause("tide", threshold=0.2)
    rules = {"moon_phase": [0.8] * len(LABELS), "tide": [1.0] * len(LABELS)}
    one = probabilities(evidence(rows, (*BUILT_IN, CUSTOM, tide), rules=rules), (*BUILT_IN, CUSTOM, tide), meta)
    other = probabilities(evidence(rows, (tide, *BUILT_IN, CUSTOM), rules=rules), (tide, *BUILT_IN, CUSTOM), meta)
    np.testing.assert_allclose(one[:, -1], other[:, 0])
    np.testing.assert_allclose(one[:, -2], other[:, -1])
    assert (one.sum(axis=1) <= 1 + 1e-9).all()
    assert (one[:, -1] > one[:, -2]).all()


def test_an_excluded_custom_cause_claims_nothing(meta: MetaClassifier) -> None:
    rows = evidence_rows(LABELS)
    given = evidence(
        rows, (CUSTOM,), rules={"moon_phase": [1.0] * len(LABELS)}, excluded={"moon_phase": [True] * len(LABELS)}
    )
    assert set(attribute(given, (CUSTOM,), meta, SETTINGS)["cause"].to_pylist()) == {"unattributed"}


def test_strength_is_monotonic_and_bounded() -> None:
    scores = np.linspace(0, 1, 101)
    for threshold in (0.0, 0.3, 0.5, 1.0):
        found = strength(scores, threshold)
        assert (np.diff(found) >= 0).all()
        assert not found[scores < threshold].any()
        assert found[-1] == 1


def test_rules_are_taken_one_after_another_in_the_papers_order() -> None:
    causes = (CUSTOM, *reversed(BUILT_IN))
    rules = {
        "moon_phase": [1.0, 1.0, 0.0, 1.0],
        "pretraining_conflict": [1.0, 0.0, 0.0, 0.0],
        "missing_knowledge": [1.0, 0.0, 0.4, 0.0],
        "insufficient_optimization": [1.0, 1.0, 0.5, 0.0],
    }
    given = evidence(evidence_rows(LABELS[:4]), causes, rules=rules)
    table = attribute(given, causes, untrained_meta(), SETTINGS)
    assert table["rule_cause"].to_pylist() == [
        "missing_knowledge",
        "insufficient_optimization",
        "insufficient_optimization",
        "moon_phase",
    ]


def test_an_explanation_that_raises_does_not_end_the_run() -> None:
    cause = BrokenCause("moon_phase")
    given = evidence(evidence_rows(LABELS[:3]), (cause,), rules={"moon_phase": [1.0, 0.0, 1.0]})
    table = attribute(given, (cause,), untrained_meta(), SETTINGS)
    assert table["cause"].to_pylist() == ["moon_phase", "unattributed", "moon_phase"]
    assert "no words" in table["explanation"][0].as_py()


def test_nothing_unlearned_and_no_causes_give_tables_of_the_right_shape(meta: MetaClassifier) -> None:
    empty = attribute(evidence(evidence_rows([])), BUILT_IN, meta, SETTINGS)
    assert empty.num_rows == 0
    assert "p_unattributed" in empty.column_names
    alone = attribute(evidence(evidence_rows(LABELS[:2]), ()), (), meta, SETTINGS)
    assert alone["cause"].to_pylist() == ["unattributed", "unattributed"]


def test_no_column_is_without_a_unit_or_meaning(meta: MetaClassifier) -> None:
    for field in attribute(evidence(evidence_rows(LABELS[:2])), BUILT_IN, meta, SETTINGS).schema:
        assert field.metadata[b"meaning"]
