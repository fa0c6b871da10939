"""Imported training records are checked before anything is concluded from them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilp_service.errors import TrajectoryError
from ilp_service.tables import TRAJECTORY
from ilp_service.training.trajectory_file import add_facts, read_trajectory, trajectory_facts, write_trajectory

KNOWN = frozenset({"a", "b"})
GOOD = [
    {"sample_id": "a", "step": 10, "loss": 0.5, "extra": "left out"},
    {"sample_id": "b", "step": 0, "loss": None, "exposures": 0},
    {"sample_id": "a", "step": 0, "p_correct": 1, "epoch": 0},
]


def write(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".parquet":
        names = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    else:
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n\n")
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_both_forms_read_to_the_same_table(tmp_path: Path, name: str) -> None:
    table = read_trajectory(write(tmp_path / name, list(GOOD)), KNOWN)
    assert table.column_names == TRAJECTORY.names
    assert table.select(["sample_id", "step"]).to_pylist() == [
        {"sample_id": "b", "step": 0},
        {"sample_id": "a", "step": 0},
        {"sample_id": "a", "step": 10},
    ]
    assert table["loss"].to_pylist() == [None, None, 0.5]
    assert table["p_correct"].to_pylist() == [None, 1.0, None]
    assert table["trained_tokens"].null_count == 3


def test_what_is_written_is_read_with_its_facts(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = read_trajectory(write(tmp_path / "t.jsonl", list(GOOD)), KNOWN)
    write_trajectory(path, table, {"max_length": 12, "seed": 3})
    add_facts(path, {"seed": 4, "model_digest": "x"})
    assert read_trajectory(path, KNOWN).equals(table)
    assert trajectory_facts(path) == {"max_length": 12, "seed": 4, "model_digest": "x"}
    assert trajectory_facts(tmp_path / "t.jsonl") == {}
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


A = {"sample_id": "a", "step": 1}


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("t.jsonl", [], "no rows"),
        ("t.jsonl", [{"sample_id": "a"}], "no column step"),
        ("t.parquet", [{"loss": 1.0}], "no column sample_id and no column step"),
        ("t.jsonl", [A, "{broken"], "Line 2 .* is no JSON"),
        ("t.jsonl", [[1, 2]], "Line 1 .* is list; expected an object"),
        ("t.jsonl", [A, {"sample_id": "zz", "step": 1}], "names 1 samples that the data does not have .'zz'."),
        ("t.jsonl", [A, A], "sample 'a' at step 1 twice"),
        ("t.jsonl", [{"sample_id": "a", "step": -1}], "has step -1"),
        ("t.jsonl", [A, {"sample_id": "b"}], "Row 2 .* has no step"),
        ("t.jsonl", [{**A, "loss": math.nan}], "has loss nan"),
        ("t.parquet", [{**A, "loss": math.inf}], "has loss inf"),
        ("t.jsonl", [{**A, "loss": -0.1}], "has loss -0.1"),
        ("t.jsonl", [{**A, "p_correct": 1.5}], "p_correct 1.5; expected a value from 0 to 1"),
        ("t.jsonl", [{**A, "exposures": -2}], "has exposures -2"),
        ("t.jsonl", [{**A, "loss": "low"}], "Column loss .* does not hold double values"),
        ("t.jsonl", [{"sample_id": "a", "step": 1.5}], "Column step"),
        ("t.jsonl", [{"sample_id": "a", "step": True}], "Column step .* is of type bool"),
        ("t.jsonl", [{"sample_id": 7, "step": 1}], "Column sample_id .* is of type int64; expected string"),
        ("t.jsonl", [{**A, "loss": 1}, {**A, "loss": "x"}], "mixes types"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, name: str, rows: list[Any], message: str) -> None:
    with pytest.raises(TrajectoryError, match=message):
        read_trajectory(write(tmp_path / name, rows), KNOWN)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrajectoryError, match="There is no trajectory file"):
        read_trajectory(tmp_path / "none.parquet", KNOWN)
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(TrajectoryError, match="expected a parquet file"):
        read_trajectory(tmp_path / "t.parquet", KNOWN)
    with pytest.raises(TrajectoryError, match="expected a parquet file"):
        trajectory_facts(tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(TrajectoryError, match="no UTF-8"):
        read_trajectory(tmp_path / "t.jsonl", KNOWN)
