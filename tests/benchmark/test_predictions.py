"""Anybody's predictions are scored, and a bad file is told in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilp_service.benchmark.handed_in import read_labels, read_predictions, read_samples_of
from ilp_service.benchmark.plants import CAUSES, CONFLICT, FORGOTTEN, INSUFFICIENT, MISSING
from ilp_service.benchmark.predictions import left_in, score
from ilp_service.errors import DataEmptyError, DataFormatError, DataNotFoundError, IlpError
from tests.benchmark.made_up import WORLDS, label, labels, predictions

W = WORLDS[0]


def test_the_truth_scores_one_whatever_the_order_of_its_rows() -> None:
    held = labels()
    said = predictions(held)
    found = score(said, held)
    assert found.value("macro_f1") == 1.0
    assert found.samples == held.num_rows
    assert set(found.worlds) == set(WORLDS)
    order = pa.array(np.random.default_rng(0).permutation(held.num_rows))
    spoiled = predictions(held, {(W, f"{MISSING}-0"): CONFLICT, (WORLDS[1], f"{MISSING}-1"): "unattributed"})
    assert score(spoiled.take(order), held.take(order)).public() == score(spoiled, held).public()
    assert score(spoiled, held).pooled["macro_f1"] < 1


def test_the_figure_is_the_median_of_the_worlds() -> None:
    held = labels()
    nobody = {(W, f"{cause}-{i}"): "unattributed" for cause in CAUSES for i in range(4)}
    found = score(predictions(held, nobody), held)
    assert found.worlds[W]["macro_f1"] == 0.0
    assert found.value("macro_f1") == 1.0
    assert found.summary["macro_f1"].low == 0.0


def test_a_sample_that_was_not_predicted_counts_as_unattributed() -> None:
    held = labels(worlds=[W])
    said = predictions(held)
    found = score(said.slice(1), held)
    assert found.samples == held.num_rows
    assert found.confusion[CAUSES[0]] == {CAUSES[0]: 3, "unattributed": 1}
    assert found.pooled["ece"] == 0.0
    assert score(said.slice(0, 0), held).value("macro_f1") == 0.0


def test_files_and_tables_score_alike(tmp_path: Path) -> None:
    held = labels(worlds=WORLDS[:2])
    said = predictions(held, {(W, f"{MISSING}-0"): CONFLICT})
    pq.write_table(said, tmp_path / "predictions.parquet")
    for world in WORLDS[:2]:
        folder = tmp_path / "worlds" / world
        folder.mkdir(parents=True)
        rows = pa.array([name == world for name in held["world"].to_pylist()])
        pq.write_table(held.filter(rows), folder / "labels.parquet")
        pq.write_table(pa.table({"sample_id": ["learned"]}), folder / "truth.parquet")
    found = score(tmp_path / "predictions.parquet", tmp_path / "worlds")
    assert found.public() == score(said, held).public()
    assert json.loads(json.dumps(found.public()))["samples"] == held.num_rows
    assert read_samples_of(tmp_path / "worlds", WORLDS) == {(W, "learned"), (WORLDS[1], "learned")}


def test_labels_that_do_not_hold_are_not_scored_and_two_causes_are() -> None:
    held = pa.Table.from_pylist(
        [
            label(W, "one", [MISSING]),
            label(W, "two", [FORGOTTEN, INSUFFICIENT]),
            label(W, "open", [], planted=CONFLICT),
        ]
    )
    named = {(W, "two"): INSUFFICIENT, (W, "open"): MISSING}
    found = score(predictions(held, named), held)
    assert found.samples == 2
    assert found.value("macro_f1") == 1.0


def test_natural_failures_are_told_apart() -> None:
    rows = [label(W, f"n{i}", [MISSING], origin="natural", planted=None) for i in range(4)]
    held = pa.concat_tables([labels(worlds=[W]), pa.Table.from_pylist(rows)], promote_options="permissive")
    found = score(predictions(held, {(W, "n0"): CONFLICT}), held)
    assert found.value("macro_f1") == 1.0
    assert (found.natural, found.natural_pooled["natural_agreement_named"]) == (4, 0.75)
    assert found.value("natural_agreement") == 0.75
    assert found.value("natural_named_share") == 1.0


def test_a_natural_failure_without_a_name_agrees_by_its_most_probable_cause() -> None:
    rows = [label(W, f"n{i}", [MISSING], origin="natural", planted=None) for i in range(4)]
    held = pa.concat_tables([labels(worlds=[W]), pa.Table.from_pylist(rows)], promote_options="permissive")
    said = []
    for row in predictions(held, {(W, "n0"): CONFLICT}).to_pylist():
        chances = {f"p_{MISSING}": 0.45, f"p_{CONFLICT}": 0.3}
        unnamed = {"cause": "unattributed", "confidence": 0.45} if row["sample_id"] in ("n1", "n2") else {}
        said.append({**row, **chances, **unnamed})
    found = score(pa.Table.from_pylist(said), held).natural_pooled
    assert found["natural_named_share"] == 0.5
    assert found["natural_agreement_named"] == 0.5
    assert found["natural_agreement"] == 0.75


def test_what_cannot_be_measured_is_left_out_or_left_in() -> None:
    held = labels(worlds=[W])
    lost = {(W, f"{FORGOTTEN}-{i}"): INSUFFICIENT for i in range(4)}
    said = predictions(held, lost)
    assert score(said, held, left_out=[FORGOTTEN]).value("macro_f1") == 1.0
    assert score(said, held, left_out=[FORGOTTEN]).samples == held.num_rows - 4
    kept = left_in(said, held, [FORGOTTEN])
    assert kept is not None
    assert kept.value == pytest.approx((4 + 2 / 3) / 5)
    assert score(said, held).value("macro_f1") == pytest.approx((4 + 2 / 3) / 6)


def test_samples_without_a_label_may_be_named_only_if_they_exist_and_are_counted() -> None:
    held = labels(worlds=[W])
    more = pa.Table.from_pylist([{"world": W, "sample_id": "learned", "cause": MISSING, "confidence": 0.9}])
    said = pa.concat_tables([predictions(held), more])
    found = score(said, held, others=frozenset({(W, "learned")}))
    assert found.unlabelled_named == 1
    assert found.value("macro_f1") == 1.0
    with pytest.raises(DataFormatError, match="'learned'"):
        score(said, held)


def test_the_most_probable_cause_of_an_abstention_is_calibrated_too() -> None:
    held = pa.Table.from_pylist([label(W, "one", [MISSING]), label(W, "two", [CONFLICT])])
    said = pa.table(
        {
            "world": [W, W],
            "sample_id": ["one", "two"],
            "cause": ["unattributed", CONFLICT],
            "confidence": [0.4, 1.0],
            f"p_{CONFLICT}": [0.1, 1.0],
            f"p_{MISSING}": [0.4, None],
            "p_unattributed": [0.5, 0.0],
        }
    )
    assert score(said, held).pooled["ece"] == pytest.approx(0.3)


def swap(name: str, values: list[object]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        return table.set_column(place, name, pa.array(values * table.num_rows)[: table.num_rows])

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.drop_columns("confidence"), "0 columns 'confidence'"),
        (lambda table: pa.concat_tables([table, table]), "twice"),
        (swap("cause", ["bad luck"]), "cause 'bad luck'"),
        (swap("world", ["nowhere"]), "world 'nowhere'"),
        (swap("confidence", [1.5]), "1.5 in column 'confidence'"),
        (swap("confidence", [float("nan")]), "nan in column 'confidence'"),
        (swap("confidence", [None]), "no 'confidence'"),
        (swap("confidence", ["high"]), "expected numbers"),
        (swap("cause", [1]), "expected text"),
        (lambda table: table.append_column("p_x", pa.array([-1.0] * table.num_rows)), "'p_x'"),
    ],
)
def test_a_bad_file_is_told_in_one_sentence(spoil: Callable[[pa.Table], pa.Table], message: str) -> None:
    held = labels(worlds=[W])
    with pytest.raises(DataFormatError, match=message) as raised:
        read_predictions(spoil(predictions(held)), held)
    assert "\n" not in str(raised.value)


def test_a_cause_of_ones_own_is_known_by_its_column() -> None:
    held = labels(worlds=[W])
    said = swap("cause", ["mine"])(predictions(held)).append_column("p_mine", pa.array([1.0] * held.num_rows))
    assert score(said, held).value("macro_f1") == 0.0


def test_missing_and_broken_files(tmp_path: Path) -> None:
    held = labels(worlds=[W])
    with pytest.raises(DataNotFoundError, match=r"labels\.parquet"):
        read_labels(tmp_path)
    with pytest.raises(DataNotFoundError, match="no file"):
        read_predictions(tmp_path / "none.parquet", held)
    (tmp_path / "text.parquet").write_text("world,sample_id")
    with pytest.raises(DataFormatError, match="no parquet file"):
        read_predictions(tmp_path / "text.parquet", held)
    with pytest.raises(DataEmptyError, match="No label"):
        score(predictions(held).slice(0, 0), pa.Table.from_pylist([label(W, "open", [], planted=MISSING)]))


def test_worlds_whose_labels_have_other_runs_are_scored_together(tmp_path: Path) -> None:
    for world in WORLDS[:2]:
        held = labels(worlds=[world]).append_column(f"p_{world}", pa.array([0.5] * 4 * len(CAUSES)))
        (tmp_path / world).mkdir()
        pq.write_table(held, tmp_path / world / "labels.parquet")
    assert score(predictions(labels(worlds=WORLDS[:2])), tmp_path).value("macro_f1") == 1.0


def test_a_probability_that_is_there_twice_is_told() -> None:
    held = labels(worlds=[W])
    said = predictions(held)
    twice = pa.Table.from_arrays([*said.columns, *[said["confidence"]] * 2], names=[*said.column_names, "p_x", "p_x"])
    with pytest.raises(DataFormatError, match="2 columns 'p_x'"):
        read_predictions(twice, held)


def test_errors_of_labels_are_errors_of_the_user() -> None:
    held = labels(worlds=[W])
    with pytest.raises(IlpError, match="'verdict'"):
        read_labels(held.drop_columns("verdict"))
    with pytest.raises(IlpError, match="twice"):
        read_labels(pa.concat_tables([held, held]))
    with pytest.raises(IlpError, match="types"):
        read_labels(swap("causes", [MISSING])(held))
    with pytest.raises(DataEmptyError, match="no labelled sample"):
        score(predictions(held), held.slice(0, 0))
