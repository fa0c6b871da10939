from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score

from ilp_service.attribution.augmentation import (
    BASE_CAUSES,
    TRAJECTORY_CAUSES,
    TRAJECTORY_SIGNALS,
    Augmenter,
    cause_of,
)
from ilp_service.attribution.meta import MetaClassifier, train_meta, untrained_meta
from ilp_service.plugin import Need
from tests.attribution.tables import CAUSES, COLUMNS, evidence_rows, signals_table, without

LABELS = [cause for cause in CAUSES for _ in range(40)]


def test_new_worlds_are_recognised(meta: MetaClassifier) -> None:
    found = meta.predict_proba(evidence_rows(LABELS))
    named = [meta.causes[column] for column in found.argmax(axis=1)]
    assert f1_score(LABELS, named, average="macro") > 0.9


def test_rows_are_probabilities_that_leave_room_for_none(meta: MetaClassifier) -> None:
    found = meta.predict_proba(evidence_rows(LABELS))
    assert ((found >= 0) & (found <= 1)).all()
    assert (found.sum(axis=1) <= 1 + 1e-9).all()


@pytest.mark.parametrize(
    "lost",
    [
        ["left_side_forgetting.", *(name for name in TRAJECTORY_SIGNALS)],
        [f"{name}." for name in BASE_CAUSES],
        ["left_side_forgetting.", *TRAJECTORY_SIGNALS, *(f"{name}." for name in BASE_CAUSES)],
    ],
    ids=["no trajectory", "no base", "neither"],
)
def test_confidence_stays_honest_when_something_is_missing(meta: MetaClassifier, lost: list[str]) -> None:
    found = meta.predict_proba(without(evidence_rows(LABELS * 3, seed=5), lost))
    top = found.max(axis=1)
    right = np.array([meta.causes[column] for column in found.argmax(axis=1)]) == np.array(LABELS * 3)
    sure = top >= 0.5
    assert sure.sum() > 60
    # Overconfidence is the fault that would name wrong causes; caution only costs recall.
    assert right[sure].mean() >= top[sure].mean() - 0.1


def test_rows_that_nothing_explains_are_left_alone(meta: MetaClassifier) -> None:
    calm = pa.table({name: np.full(20, 0.3) for name in COLUMNS})
    assert meta.predict_proba(calm).max() < 0.5


def test_a_row_unlike_the_worlds_loses_confidence(meta: MetaClassifier) -> None:
    rows = evidence_rows(LABELS)
    strange = rows
    for name in COLUMNS[4:]:
        strange = strange.set_column(strange.column_names.index(name), name, pa.array(np.full(rows.num_rows, 40.0)))
    assert meta.strangeness(rows).max() < 0.2
    assert meta.strangeness(strange).min() > 0.7
    assert meta.predict_proba(strange).max() < 0.1


def test_same_table_same_numbers_whatever_the_order(meta: MetaClassifier) -> None:
    table = signals_table()
    shuffled = table.take(pa.array(np.random.default_rng(3).permutation(table.num_rows)))
    rows = evidence_rows(LABELS)
    np.testing.assert_allclose(train_meta(shuffled).predict_proba(rows), meta.predict_proba(rows), atol=1e-12)


def test_columns_may_be_absent_and_in_any_order(meta: MetaClassifier) -> None:
    rows = evidence_rows(LABELS)
    lost = without(rows, ["missing_knowledge."])
    absent = rows.select([name for name in reversed(rows.column_names) if cause_of(name) != "missing_knowledge"])
    np.testing.assert_array_equal(meta.predict_proba(lost), meta.predict_proba(absent))


def test_what_has_no_label_or_never_changes_is_not_looked_at() -> None:
    table = signals_table(worlds=2, per_cause=20)
    labels = table["cause"].to_pylist()
    labels[:10] = [None] * 10
    table = table.set_column(3, "cause", pa.array(labels, pa.string()))
    table = table.append_column("missing_knowledge.flat", pa.array(np.ones(table.num_rows)))
    table = table.append_column("training_pipeline.fault", pa.array(np.linspace(0, 1, table.num_rows)))
    meta = train_meta(table)
    assert set(meta.causes) == set(CAUSES)
    assert set(meta.features) == set(COLUMNS)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda table: table.drop_columns(["world"]), "no column 'world'"),
        (lambda table: table.slice(0, 50), "at least two worlds"),
        (lambda table: table.set_column(3, "cause", pa.array(["ghost"] * table.num_rows)), "'ghost'"),
        (lambda table: table.set_column(3, "cause", pa.array([CAUSES[0]] * table.num_rows)), "1 causes"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(spoil: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        train_meta(spoil(signals_table(worlds=2, per_cause=20)))  # type: ignore[operator]


def test_training_is_quick_enough_for_every_diagnosis() -> None:
    table = signals_table(worlds=4, per_cause=100)
    started = time.thread_time()
    train_meta(table)
    assert time.thread_time() - started < 10


def test_without_a_table_nothing_is_named() -> None:
    meta = untrained_meta()
    assert meta.causes == ()
    assert meta.predict_proba(evidence_rows(LABELS)).shape == (len(LABELS), 0)


def test_unexplained_rows_take_no_cause_from_its_own_samples() -> None:
    features = [f"{cause}.x" for cause in CAUSES]
    labels = np.array([cause for cause in CAUSES for _ in range(12)])
    rows = (labels[:, None] == np.array(CAUSES)[None, :]).astype(float)
    made, worlds = Augmenter(features, np.random.default_rng(0)).unexplained(rows, labels, np.full(len(labels), "w"))
    assert len(made) == len(worlds) == 10
    assert not made.any()


def test_masks_leave_what_they_do_not_need() -> None:
    features = [*COLUMNS, "training_pipeline.truncated"]
    rows = np.ones((4000, len(features)))
    masked = Augmenter(features, np.random.default_rng(0)).masked(rows)
    base = [cause_of(name) in BASE_CAUSES for name in features]
    rarity = features.index("insufficient_optimization.rarity")
    without_base = np.isnan(masked[:, base]).all(axis=1)
    whole_blocks = without_base & ~np.isnan(masked[:, rarity])
    assert 0.3 < whole_blocks.mean() < 0.5
    assert np.isnan(masked).any(axis=1).mean() > 0.95
    entropy, pooled = features.index("missing_knowledge.cloze_entropy"), features.index("missing_knowledge.best_right")
    only_the_form = np.isnan(masked[:, entropy]) & ~np.isnan(masked[:, pooled])
    assert 0.07 < only_the_form.mean() < 0.2


def test_the_blocks_are_what_the_built_in_causes_lose() -> None:
    """Guards the names in the augmentation against a change in the causes."""
    from ilp_causes import ilp_causes

    from ilp_service.evidence.collection import collect_evidence
    from ilp_service.testing.studies import ready_studies

    causes = ilp_causes()
    studies = ready_studies()
    numbers = {f"{c.name}.{s.name}" for c in causes for s in c.signals if s.kind == "number"}

    def lost(name: str) -> set[str]:
        whole = collect_evidence(studies["everything"], causes).table
        table = collect_evidence(studies[name], causes).table
        return {
            column
            for column in numbers
            if table[column].null_count == table.num_rows and whole[column].null_count < whole.num_rows
        }

    assert {cause_of(name) for name in lost("no base model")} == set(BASE_CAUSES)
    for name in lost("no trajectory"):
        assert cause_of(name) in TRAJECTORY_CAUSES or name in TRAJECTORY_SIGNALS
    assert set(TRAJECTORY_SIGNALS) <= numbers
    assert {cause.name for cause in causes if Need.TRAJECTORY in cause.needs} == set(TRAJECTORY_CAUSES)
    assert {cause.name for cause in causes if Need.BASE_MODEL in cause.needs} == set(BASE_CAUSES)
