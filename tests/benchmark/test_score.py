"""A quick look counts what was planted, and the training table holds the samples whose label holds alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilp_service.benchmark.plants import CAUSES, CONFLICT, INCONSISTENT, MISSING
from ilp_service.benchmark.recipe import TRUTH, BuiltWorld
from ilp_service.benchmark.score import flipped_controls, score_world
from ilp_service.benchmark.signals import Findings, examine, labelled_signals
from ilp_service.benchmark.table import PROVENANCE, signals_table, write_signals
from ilp_service.benchmark.world import CONTROL, SET_ASIDE
from ilp_service.evidence.collection import Evidence
from ilp_service.settings import Settings
from ilp_service.study import Study
from tests.benchmark.made_up import label

PLANTED = {
    "a": MISSING, "b": MISSING, "c": CONFLICT, "d": INCONSISTENT, "e": CONTROL, "f": CONTROL, "g": SET_ASIDE,
}  # fmt: skip


def findings(unlearned: Sequence[str], name: str = "demo") -> Findings:
    """Findings of a made-up world in which these samples are unlearned."""
    folder = Path("nowhere")
    built = BuiltWorld("qwen2", 0, name, folder, folder, folder, folder, folder, 32, {"cloze_accuracy": 0.99})
    evaluation = pa.table({"sample_id": list(PLANTED), "unlearned": [key in unlearned for key in PLANTED]})
    table = pa.table(
        {
            "sample_id": list(unlearned),
            "missing_knowledge.entropy": pa.array([index / 10 for index in range(len(unlearned))], pa.float64()),
            "missing_knowledge.exists": pa.array([None] * len(unlearned), pa.bool_()),
            "data_inconsistency.twin": pa.array(["id"] * len(unlearned), pa.string()),
        }
    )
    rows = [
        {"sample_id": key, "cause": cause, "kind": "", "block": 0, "group": "", "grade": None}
        for key, cause in PLANTED.items()
    ]
    nothing = pa.table({})
    study = Study((), tuple(unlearned), evaluation, nothing, nothing, nothing, None, False, {})
    truth = pa.Table.from_pylist(rows, schema=TRUTH)
    return Findings(built, evaluation, Evidence(table, {}, {}, {}, {}), truth, study)


def named(causes: dict[str, str]) -> pa.Table:
    return pa.table({"sample_id": list(causes), "cause": list(causes.values()), "rule_cause": [MISSING] * len(causes)})


def test_recall_counts_planted_and_unlearned_samples_only() -> None:
    score = score_world(
        findings("abcde"), named({"a": MISSING, "b": CONFLICT, "c": CONFLICT, "d": "unattributed", "e": MISSING})
    )
    assert score.recall == {MISSING: 0.5, CONFLICT: 1.0, INCONSISTENT: 0.0}
    assert score.rule_recall == {MISSING: 1.0, CONFLICT: 0.0, INCONSISTENT: 0.0}
    assert score.unlearned == {CONTROL: 0.5, INCONSISTENT: 1.0, MISSING: 1.0, CONFLICT: 1.0, SET_ASIDE: 0.0}
    assert score.attributed[MISSING] == {MISSING: 1, CONFLICT: 1}
    assert json.loads(json.dumps(score.public()))["world"] == "qwen2-demo-0"


def test_a_perfect_diagnosis_scores_one_and_an_abstaining_one_nothing() -> None:
    right = {key: cause for key, cause in PLANTED.items() if cause in CAUSES}
    assert score_world(findings("abcd"), named(right)).macro_f1 == 1.0
    assert score_world(findings("abcd"), named(dict.fromkeys(right, "unattributed"))).macro_f1 == 0.0
    assert score_world(findings("abcde"), named({**right, "e": MISSING})).macro_f1 == 1.0
    assert score_world(findings("abcd"), named({**right, "a": CONFLICT})).macro_f1 < 1.0


def test_flips_are_counted_among_controls_that_were_learned() -> None:
    assert flipped_controls(findings("ab"), findings("ab")) == 0.0
    assert flipped_controls(findings("ab"), findings("abe")) == 0.5
    assert flipped_controls(findings("e"), findings("ef")) == 1.0
    assert flipped_controls(findings("e"), findings("abg")) == 0.0


def verified(name: str = "demo", **causes: Sequence[str]) -> pa.Table:
    """Labels of that world: the causes of each sample."""
    return pa.Table.from_pylist([label(f"qwen2-{name}-0", key, found) for key, found in causes.items()])


def test_labelled_signals_hold_numbers_of_samples_with_one_verified_cause() -> None:
    held = verified(a=[MISSING], b=[], c=[CONFLICT], d=[INCONSISTENT, MISSING], e=[CONFLICT], f=[MISSING])
    table = labelled_signals(findings("abcde"), held)
    assert table["sample_id"].to_pylist() == ["a", "c", "e"]
    assert table["cause"].to_pylist() == [MISSING, CONFLICT, CONFLICT]
    assert table.column_names == [
        "world",
        "family",
        "sample_id",
        "cause",
        "missing_knowledge.entropy",
        "missing_knowledge.exists",
    ]
    assert {str(table.schema.field(name).type) for name in table.column_names if "." in name} == {"double"}
    assert labelled_signals(findings("abcde"), verified("other", a=[MISSING])).num_rows == 0


def test_the_training_table_says_where_it_comes_from(tmp_path: Path) -> None:
    first = verified("b", a=[MISSING], b=[MISSING])
    second = verified("a", c=[CONFLICT], d=[INCONSISTENT])
    table = signals_table([(findings("ab", "b"), first), (findings("cd", "a"), second)])
    assert table["world"].to_pylist() == ["qwen2-a-0"] * 2 + ["qwen2-b-0"] * 2
    write_signals(table, tmp_path / "signals.parquet")
    again = pq.read_table(tmp_path / "signals.parquet")
    facts = json.loads(again.schema.metadata[PROVENANCE])
    assert facts["rows"] == {INCONSISTENT: 1, MISSING: 2, CONFLICT: 1}
    assert set(facts["worlds"]) == {"qwen2-a-0", "qwen2-b-0"}
    assert again["missing_knowledge.entropy"].to_pylist() == pytest.approx(
        table["missing_knowledge.entropy"].to_pylist()
    )


def test_a_built_world_is_diagnosed_like_any_checkpoint(tiny_world: BuiltWorld, tmp_path: Path) -> None:
    settings = Settings(work_dir=tmp_path, evaluation={"generate": False, "samples": 0})
    found = examine(tiny_world, (), settings, lambda _line: None, progress=False)
    assert found.evaluation.num_rows == tiny_world.facts["rows"]
    assert found.evidence.table.num_rows == sum(found.evaluation["unlearned"].to_pylist())
    assert found.study.unlearned == tuple(found.evidence.table["sample_id"].to_pylist())
