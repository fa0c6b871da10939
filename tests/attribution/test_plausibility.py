from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ilp_service.attribution.augmentation import Augmenter
from ilp_service.attribution.meta import train_meta
from ilp_service.attribution.plausibility import LEVEL, known_values, limits, plausible, sides_of, weakness
from tests.attribution.tables import CAUSES, COLUMNS, evidence_rows, signals_table

FEATURES = ("a.up", "a.down", "a.neither", "b.up")
SIDES = np.array([1.0, -1.0, 0.0, 1.0])


def cases(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, len(FEATURES)))
    labels = np.array(["a", "b"] * (count // 2))
    worlds = np.array([f"w{place % 8 // 2}" for place in range(count)])
    return rows, labels, worlds


def directed(table: pa.Table) -> pa.Table:
    """The made-up table with the direction of every signal, as plugins declare it."""
    fields = [field.with_metadata({"direction": "+"}) if "." in field.name else field for field in table.schema]
    return table.cast(pa.schema(fields))


def test_directions_are_those_that_plugins_declare() -> None:
    told = {"a.up": "+", "a.down": "-", "a.neither": "0"}
    schema = pa.schema([pa.field(name, pa.float64(), metadata={"direction": to}) for name, to in told.items()])
    schema = schema.append(pa.field("b.up", pa.float64()))
    assert sides_of(schema, FEATURES).tolist() == [1, -1, 0, 0]


def test_weaker_evidence_is_never_less_weak_and_stronger_is_no_weakness() -> None:
    rows, labels, _ = cases()
    known = known_values(rows, labels, FEATURES)[:3]
    steps = np.linspace(-6, 6, 60)[:, None]
    found = weakness(steps * np.array([1.0, -1.0, 1.0]), known, SIDES[:3])
    assert (np.diff(found) <= 0).all()
    assert found[0] > 10 > 0.01 > found[-1] >= 0


def test_a_signal_that_points_nowhere_or_is_missing_says_nothing() -> None:
    rows, labels, _ = cases()
    known = known_values(rows, labels, FEATURES)[:3]
    assert weakness(np.array([[0.1, 0.2, -99.0]]), known, SIDES[:3]) == weakness(
        np.array([[0.1, 0.2, 99.0]]), known, SIDES[:3]
    )
    assert weakness(np.full((2, 3), np.nan), known, SIDES[:3]).tolist() == [0, 0]
    assert weakness(np.array([[0.1, np.nan, 0]]), known, SIDES[:3]) == weakness(np.array([[0.1]]), known[:1], SIDES[:1])


def test_a_value_that_ties_with_known_ones_ties_when_the_table_was_kept_in_single_precision() -> None:
    """Two thirds in single precision is a little more than two thirds; a tenth likewise."""
    for value, side in ((2 / 3, 1.0), (-0.1, -1.0), (0.1, 1.0)):
        known = np.full((1, 100), np.float32(value), dtype=np.float64)
        assert weakness(np.array([[value]]), known, np.array([side]))[0] < 0.01


def test_as_many_new_true_cases_as_promised_are_plausible() -> None:
    rows, labels, worlds = cases(2000)
    known = known_values(rows, labels, FEATURES)
    most = limits(rows, labels, worlds, FEATURES, ("a", "b"), SIDES)
    fresh, true, _ = cases(4000, seed=1)
    fit = plausible(fresh, FEATURES, ("a", "b"), known, SIDES, most)
    for place, cause in enumerate(("a", "b")):
        assert fit[true == cause, place].mean() == pytest.approx(LEVEL, abs=0.02)


def test_a_cause_of_one_world_is_never_implausible() -> None:
    rows, labels, worlds = cases()
    alone = np.where(labels == "b", "w0", worlds)
    assert np.isinf(limits(rows, labels, alone, FEATURES, ("a", "b"), SIDES)[1])


def test_a_cause_without_own_evidence_is_not_named() -> None:
    meta = train_meta(directed(signals_table()))
    table = evidence_rows(["missing_knowledge"] * 40)
    place = meta.causes.index("missing_knowledge")
    assert (meta.predict_proba(table)[:, place] > 0.5).mean() > 0.9
    for column, name in enumerate(table.column_names):
        if name.startswith("missing_knowledge."):
            table = table.set_column(column, name, pa.array(np.full(40, 0.05)))
    assert meta.predict_proba(table)[:, place].max() == 0


def test_near_misses_miss_in_the_evidence_of_their_cause_and_stay_in_their_world() -> None:
    table = signals_table(worlds=3, per_cause=60)
    rows = np.stack([table[name].to_numpy() for name in COLUMNS], axis=1)
    labels, worlds = (np.array(table[name].to_pylist()) for name in ("cause", "world"))
    rows = rows + 10 * worlds.astype(float)[:, None]
    misses, origins = Augmenter(COLUMNS, np.random.default_rng(0)).near_misses(rows, labels, worlds)
    assert 0 < len(misses) <= len(rows) / 8 + len(CAUSES) * 3
    for world in np.unique(worlds):
        inside = misses[origins == world]
        here = rows[worlds == world]
        assert np.isin(inside, here).all(), "every value is one of its world"
        known = {tuple(row) for row in here}
        assert not any(tuple(row) in known for row in inside), "none is a true row"


def test_near_misses_teach_but_do_not_calibrate() -> None:
    table = signals_table(worlds=2, per_cause=30)
    rows = np.stack([table[name].to_numpy() for name in COLUMNS], axis=1)
    labels, worlds = (np.array(table[name].to_pylist()) for name in ("cause", "world"))
    made = Augmenter(COLUMNS, np.random.default_rng(0)).apply(rows, labels, worlds)
    silent = made.calibrating == 0
    assert silent.any()
    assert set(made.labels[silent]) == {"unattributed"}
    assert {len(made.rows), len(made.labels), len(made.worlds), len(made.calibrating)} == {len(made.rows)}
