"""Leaving something out leaves out that and nothing else."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ilp_service.benchmark.ablations import (
    EXPOSURES,
    FEWER_SIGNALS,
    NO_BASE,
    NO_TRAJECTORY,
    ORDER,
    RARITY,
    evidence_unseen,
    evidence_without,
    unmeasured,
    without_base,
    without_signals,
    without_trajectory,
)
from ilp_service.benchmark.crossing import Examined
from ilp_service.benchmark.plants import CONFLICT, FORGOTTEN, INSUFFICIENT, MISSING
from ilp_service.evidence.collection import collect_evidence
from tests.benchmark.made_worlds import causes, made_world


@pytest.fixture(scope="module")
def world() -> Examined:
    return made_world()


def test_the_named_signals_are_signals_of_the_causes(world: Examined) -> None:
    table = world.findings.evidence.table
    for name, signals in FEWER_SIGNALS.items():
        less = without_signals(table, signals)
        assert set(table.column_names) - set(less.column_names) == set(signals), name
    assert {*ORDER, *RARITY, *EXPOSURES} <= set(table.column_names)
    with pytest.raises(ValueError, match="'rarity'"):
        without_signals(table, ["rarity"])


def test_without_a_record_forgetting_is_not_measurable_and_the_rest_is(world: Examined) -> None:
    found = evidence_without(world.findings.study, causes())
    assert unmeasured(found[NO_TRAJECTORY]) == (FORGOTTEN,)
    assert set(unmeasured(found[NO_BASE])) == {MISSING, CONFLICT}
    assert unmeasured(world.findings.evidence) == ()
    for name, evidence in found.items():
        assert evidence.table["sample_id"].equals(world.findings.evidence.table["sample_id"])
        for cause in unmeasured(evidence):
            columns = [column for column in evidence.table.column_names if column.startswith(f"{cause}.")]
            assert all(evidence.table[column].null_count == evidence.table.num_rows for column in columns), name
    kept = found[NO_TRAJECTORY].table
    assert kept["missing_knowledge.cloze_right"].equals(world.findings.evidence.table["missing_knowledge.cloze_right"])
    assert kept["insufficient_optimization.exposures_ratio"].null_count == kept.num_rows


def test_a_study_without_base_has_no_number_of_the_base_and_all_of_the_tuned_model(world: Examined) -> None:
    study = world.findings.study
    less = without_base(study)
    assert not less.has_base
    assert without_trajectory(study).trajectory is None
    assert study.has_base
    for before, after in ((study.options, less.options), (study.evaluation, less.evaluation)):
        assert before.column_names == after.column_names
        for name in before.column_names:
            if "base_" in name or name == "jsd":
                assert after[name].null_count == after.num_rows
            else:
                assert isinstance(after[name], pa.ChunkedArray)
                assert after[name].equals(before[name])


def test_a_signal_that_is_left_out_rules_no_cause_out_either(world: Examined) -> None:
    kind = type(next(cause for cause in causes() if cause.name == INSUFFICIENT))
    judging = type("Judging", (kind,), {"excluded": lambda _self, signals: signals["exposures_ratio"] == 0})()
    evidence = collect_evidence(world.findings.study, [judging])
    seen, unseen = evidence.excluded, evidence_unseen(evidence, EXPOSURES, [judging])
    assert seen[INSUFFICIENT] is not None
    assert seen[INSUFFICIENT].any()
    assert not unseen.excluded[INSUFFICIENT].any()
    assert unseen.table[EXPOSURES[0]].null_count == unseen.table.num_rows
    assert unseen.table.drop_columns(list(EXPOSURES)).equals(evidence.table.drop_columns(list(EXPOSURES)))
    assert evidence_unseen(evidence, (), [judging]).excluded[INSUFFICIENT] is seen[INSUFFICIENT]
