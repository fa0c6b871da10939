"""What an experiment proved goes back to the classifier with its signals, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.attribution.outcomes import provenance, read_outcomes
from ilp_service.intervention.outcomes import outcomes_of
from ilp_service.intervention.verdicts import SampleVerdict

EVIDENCE = pa.table(
    {
        "sample_id": ["c", "b", "a"],
        "missing_knowledge.blind": [1, None, 3],
        "missing_knowledge.said": ["x", "y", "z"],
        "left_side_forgetting.peak": [0.1, 0.2, 0.3],
    }
)
VERDICTS = [
    SampleVerdict("a", "missing_knowledge", ("missing_knowledge",), "proved", {"teach": 1.0}, 2),
    SampleVerdict("b", "missing_knowledge", ("left_side_forgetting", "missing_knowledge"), "several", {}, 2),
    SampleVerdict("c", "unattributed", ("left_side_forgetting",), "proved", {"shuffle": 0.5, "again": 0.5}, 2),
    SampleVerdict("not examined", "unattributed", ("left_side_forgetting",), "proved", {"shuffle": 1.0}, 2),
]


def test_only_samples_with_one_proved_cause_become_labels(tmp_path: Path) -> None:
    found = outcomes_of(VERDICTS, EVIDENCE, model="models:/mine/3", run_id="run")
    assert found.select(["world", "family", "sample_id", "cause", "attributed", "arms"]).to_pylist() == [
        {"world": "models:/mine/3", "family": "user", "sample_id": "a", "cause": "missing_knowledge",
         "attributed": "missing_knowledge", "arms": ["teach"]},
        {"world": "models:/mine/3", "family": "user", "sample_id": "c", "cause": "left_side_forgetting",
         "attributed": "unattributed", "arms": ["again", "shuffle"]},
    ]  # fmt: skip
    assert found["missing_knowledge.blind"].to_pylist() == [3.0, 1.0]
    assert "missing_knowledge.said" not in found.column_names
    assert provenance(found)["confirmed"] == 1
    assert provenance(found)["rows"] == {"left_side_forgetting": 1, "missing_knowledge": 1}
    assert all((field.metadata or {}).get(b"meaning") for field in found.schema if "." not in field.name)
    pq.write_table(found, tmp_path / "outcomes.parquet")
    read = read_outcomes([tmp_path / "outcomes.parquet"])
    assert read is not None
    assert read.table.column_names == ["world", "family", "sample_id", "cause", *found.column_names[-2:]]


def test_an_experiment_that_proved_nothing_leaves_an_empty_table() -> None:
    found = outcomes_of([], EVIDENCE, model="models:/mine/3", run_id="run")
    assert found.num_rows == 0
    assert "left_side_forgetting.peak" in found.column_names
