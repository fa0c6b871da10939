from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from ilp_service.attribution.groups import LEAST_COHESION, MOST_ROWS, find_groups, signal_space

SIGNALS = 12


def evidence(values: npt.NDArray[np.float64], missing: float = 0.0, seed: int = 9) -> pa.Table:
    """Two causes with six signals each, a constant one, one without any value, and a text."""
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(values.shape) < missing, np.nan, values)
    columns = {f"{'ab'[column % 2]}.s{column}": pa.array(v, from_pandas=True) for column, v in enumerate(values.T)}
    rows = len(values)
    rest = {"a.same": np.ones(rows), "b.none": pa.nulls(rows, pa.float64()), "b.quoted": ["word"] * rows}
    return pa.table({"sample_id": [f"s{row:05d}" for row in range(rows)], **columns, **rest})


def crowd(explained: int, open_rows: int, apart: int, seed: int = 0) -> tuple[pa.Table, list[str], frozenset[str]]:
    """Samples of one cloud, some of them unexplained, of which so many lie together and apart from the cloud."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(explained + open_rows, SIGNALS))
    centre = 3 * rng.choice([-1, 1], size=SIGNALS)
    values[explained : explained + apart] = centre + 0.5 * rng.normal(size=(apart, SIGNALS))
    table = evidence(values)
    ids = table["sample_id"].to_pylist()
    return table, ids[explained:], frozenset(ids[explained : explained + apart])


@pytest.mark.parametrize(("missing", "found"), [(0.0, 0.95), (0.2, 0.7)])
def test_samples_that_lie_together_and_apart_are_a_group(missing: float, found: float) -> None:
    table, unexplained, apart = crowd(200, 70, 40)
    values = np.stack([table[f"{'ab'[c % 2]}.s{c}"].to_numpy(zero_copy_only=False) for c in range(SIGNALS)], axis=1)
    (group,) = find_groups(evidence(values, missing), unexplained)
    members = set(group.members)
    assert len(members & apart) >= found * len(apart)
    assert len(members - apart) <= 0.1 * len(members)
    assert max(LEAST_COHESION, group.by_chance) < group.cohesion <= 1
    assert len(set(group.examples)) == 3
    assert set(group.examples) <= members


@pytest.mark.parametrize("seed", range(6))
def test_chance_makes_no_group(seed: int) -> None:
    table, unexplained, _ = crowd(150, 60, 0, seed)
    assert find_groups(table, unexplained) == []


@pytest.mark.parametrize("seed", range(3))
def test_correlated_signals_alone_make_no_group(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(260, 2)) @ rng.normal(size=(2, SIGNALS)) + 0.1 * rng.normal(size=(260, SIGNALS))
    table = evidence(values)
    assert find_groups(table, table["sample_id"].to_pylist()[:80]) == []


def test_a_crowd_among_explained_samples_is_no_group() -> None:
    table, unexplained, apart = crowd(200, 70, 60)
    half = sorted(apart)[::3]
    assert find_groups(table, half) == []
    assert find_groups(table, unexplained) != []


def test_the_order_of_rows_does_not_matter() -> None:
    table, unexplained, _ = crowd(120, 60, 40)
    shuffled = table.take(pa.array(np.random.default_rng(3).permutation(table.num_rows)))
    assert find_groups(shuffled, list(reversed(unexplained))) == find_groups(table, unexplained)


def test_units_do_not_matter() -> None:
    table, unexplained, _ = crowd(120, 60, 40)
    place = table.column_names.index("a.s0")
    scaled = table.set_column(place, "a.s0", pa.array(np.exp(1000 * table["a.s0"].to_numpy() / 4000) * 1e6))
    assert find_groups(scaled, unexplained) == find_groups(table, unexplained)


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 10])
def test_few_samples_make_no_group_and_no_error(rows: int) -> None:
    table = evidence(np.random.default_rng(0).normal(size=(rows, SIGNALS)))
    assert find_groups(table, table["sample_id"].to_pylist()) == []


def test_equal_samples_without_any_other_are_not_told_apart() -> None:
    table = evidence(np.ones((40, SIGNALS)))
    assert signal_space(table).points.shape == (40, 0)
    assert find_groups(table, table["sample_id"].to_pylist()) == []


def test_ten_thousand_samples_take_seconds_and_all_members_are_found() -> None:
    table, unexplained, apart = crowd(7_000, 3_000, 1_500)
    assert table.num_rows > MOST_ROWS
    started = time.process_time()
    (group,) = find_groups(table, unexplained)
    assert time.process_time() - started < 60
    assert len(apart & set(group.members)) >= 0.9 * len(apart)
    assert len(set(group.members) - apart) <= 0.1 * len(group.members)
