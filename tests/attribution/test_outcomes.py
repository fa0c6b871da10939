"""A user's own outcomes teach the classifier, and without them nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilp_service.attribution.card import card
from ilp_service.attribution.meta import MetaClassifier, train_meta
from ilp_service.attribution.outcomes import FAMILY, Outcomes, read_outcomes
from ilp_service.errors import DataFormatError, DataNotFoundError
from tests.attribution.tables import CAUSES, COLUMNS, signals_table

TABLE = signals_table(per_cause=20)


def outcomes_table(labels: list[str], model: str = "models:/mine/3", **changed: float) -> pa.Table:
    """Outcomes of samples whose signals are everywhere the same but where the test says otherwise."""
    count = len(labels)
    keys = {
        "world": [model] * count,
        "family": [FAMILY] * count,
        "sample_id": [f"u{index:03d}" for index in range(count)],
        "cause": labels,
        "run_id": ["run"] * count,
    }
    return pa.table(keys | {name: [changed.get(name, 0.4)] * count for name in COLUMNS})


class Recorder:
    """Stands in for the estimator: keeps what it is to be fitted on."""

    def __init__(self, splits: Sequence[Sequence[np.ndarray]], seed: int) -> None:
        self.splits, self.seed = splits, seed

    def fit(self, rows: pd.DataFrame, labels: np.ndarray, sample_weight: np.ndarray) -> None:
        self.rows, self.labels, self.weights = rows.to_numpy(), labels, sample_weight

    def set_params(self, cv: None) -> None:
        pass


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Outcomes | None], MetaClassifier]:
    """Everything that a training does, but for the fitting itself."""
    monkeypatch.setattr("ilp_service.attribution.estimator.calibrated_vote", Recorder)
    return lambda outcomes: train_meta(TABLE, outcomes=outcomes)


def assert_same(first: MetaClassifier, second: MetaClassifier) -> None:
    """Both were fitted on the same, to the last bit, so that they give the same answers."""
    for one, other in zip(first.estimator.splits, second.estimator.splits, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    for name in ("rows", "labels", "weights"):
        found = getattr(first.estimator, name)
        assert np.array_equal(found, getattr(second.estimator, name), equal_nan=found.dtype.kind == "f"), name
    for name in ("low", "high", "known", "sides", "most_weakness"):
        assert np.array_equal(getattr(first, name), getattr(second, name), equal_nan=True), name
    assert (first.causes, first.features) == (second.causes, second.features)


@pytest.mark.parametrize(
    "outcomes",
    [
        Outcomes(outcomes_table([])),
        Outcomes(outcomes_table([CAUSES[0]] * 5), weight=0),
        Outcomes(outcomes_table(["a_cause_of_mine"] * 5)),
    ],
    ids=["none", "weightless", "of an unknown cause"],
)
def test_without_outcomes_everything_stays_to_the_last_bit(
    recorded: Callable[[Outcomes | None], MetaClassifier], outcomes: Outcomes
) -> None:
    assert_same(recorded(outcomes), recorded(None))


def test_the_order_of_outcomes_does_not_matter(recorded: Callable[[Outcomes | None], MetaClassifier]) -> None:
    mine = outcomes_table([cause for cause in CAUSES for _ in range(5)])
    mixed = mine.take(np.random.default_rng(0).permutation(mine.num_rows))
    first, second = (recorded(Outcomes(table, weight=1.5)) for table in (mine, mixed))
    assert_same(first, second)


def test_outcomes_teach_but_do_not_calibrate(recorded: Callable[[Outcomes | None], MetaClassifier]) -> None:
    """Their mark is a signal that no other row has; nothing that carries it has a weight in the calibration."""
    mine = outcomes_table([CAUSES[0]] * 20, **{COLUMNS[0]: 7.5})
    found = recorded(Outcomes(mine)).estimator
    marked = found.rows[:, 0] == 7.5
    assert marked.sum() > 20
    assert not found.weights[marked].any()
    assert (found.weights[~marked] == 1).sum() > 500
    twice = recorded(Outcomes(mine, weight=2)).estimator
    # A quarter of the rows of their cause before, two fifths now.
    assert (twice.rows[:, 0] == 7.5).sum() > 1.3 * marked.sum()


def test_outcomes_never_outnumber_the_table(recorded: Callable[[Outcomes | None], MetaClassifier]) -> None:
    few = recorded(Outcomes(outcomes_table([CAUSES[0]] * 60, **{COLUMNS[0]: 7.5}))).estimator
    many = recorded(Outcomes(outcomes_table([CAUSES[0]] * 2000, **{COLUMNS[0]: 7.5}), weight=5)).estimator
    assert (many.rows[:, 0] == 7.5).sum() < 1.3 * (few.rows[:, 0] == 7.5).sum()
    assert many.weights.sum() == pytest.approx(few.weights.sum(), rel=0.1)


def test_what_the_benchmark_never_saw_is_learned_from_outcomes() -> None:
    """In the user's data signals of another cause are far off, with which the classifier cannot be sure."""
    odd = {"missing_knowledge.best_right": 3.0, "missing_knowledge.cloze_entropy": 3.0}
    mine = outcomes_table(["left_side_forgetting"] * 30, **odd)
    before, taught = train_meta(TABLE), train_meta(TABLE, outcomes=Outcomes(mine))
    place = before.causes.index("left_side_forgetting")
    assert before.predict_proba(mine)[0, place] < 0.3
    assert taught.predict_proba(mine)[0, place] > before.predict_proba(mine)[0, place] + 0.3


def write(folder: Path, name: str, table: pa.Table) -> Path:
    pq.write_table(table, folder / name)
    return folder / name


def test_files_are_joined_and_contradictions_left_out(tmp_path: Path) -> None:
    first = write(tmp_path, "a.parquet", outcomes_table([CAUSES[0]] * 3))
    second = write(tmp_path, "b.parquet", outcomes_table([CAUSES[0], CAUSES[1]]))
    third = write(tmp_path, "c.parquet", outcomes_table([CAUSES[1]], model="models:/other/1"))
    found = read_outcomes([first, second, third], 2.0)
    assert found is not None
    assert found.contradicted == 1
    rows = zip(*(found.table[name].to_pylist() for name in ("world", "sample_id", "cause")), strict=True)
    assert set(rows) == {
        ("models:/mine/3", "u000", CAUSES[0]),
        ("models:/mine/3", "u002", CAUSES[0]),
        ("models:/other/1", "u000", CAUSES[1]),
    }
    assert read_outcomes([third, second, first], 2.0).digest == found.digest  # type: ignore[union-attr]
    facts = found.facts(TABLE)
    assert (facts["rows"], facts["weight"], facts["left_out"]) == (3, 2.0, 1)
    text = card(TABLE, outcomes=facts)
    assert "3 samples of models:/mine/3, models:/other/1" in text
    assert "each counted as 2 of the rows above (1 more could not be used)" in text
    assert "Outcomes" not in card(TABLE)


def test_a_column_that_the_outcomes_lack_is_null(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet", outcomes_table([CAUSES[0]] * 3).drop_columns([COLUMNS[0]]))
    found = read_outcomes([path])
    assert found is not None
    assert found.usable(TABLE)[COLUMNS[0]].null_count == 3
    assert found.usable(TABLE).schema == TABLE.schema


def test_other_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    assert read_outcomes([]) is None
    with pytest.raises(DataNotFoundError, match="ilp intervene"):
        read_outcomes([tmp_path / "none.parquet"])
    with pytest.raises(DataFormatError, match="--signals"):
        read_outcomes([write(tmp_path, "benchmark.parquet", TABLE)])
    with pytest.raises(DataFormatError, match="'cause'"):
        read_outcomes([write(tmp_path, "bare.parquet", TABLE.drop_columns(["cause"]))])
    with pytest.raises(DataFormatError, match="0 or more"):
        read_outcomes([], -1.0)
