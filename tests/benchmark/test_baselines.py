"""Baselines say what their method says, of the same samples as the diagnosis."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ilp_service.attribution.attribute import attribute
from ilp_service.attribution.meta import untrained_meta
from ilp_service.benchmark.baselines import paper_rules, predictions_of, repaired_rules
from ilp_service.benchmark.cartography import FEATURES, dynamics, train_cartographer
from ilp_service.benchmark.crossing import Examined
from ilp_service.benchmark.handed_in import read_predictions
from ilp_service.benchmark.label_quality import label_issues, out_of_sample
from ilp_service.benchmark.plants import CAUSES, INCONSISTENT
from ilp_service.benchmark.predictions import score
from ilp_service.settings import Settings
from ilp_service.tables import TRAJECTORY
from ilp_service.testing.studies import StudyBuilder
from tests.benchmark.made_worlds import causes, made_world


@pytest.fixture(scope="module")
def world() -> Examined:
    return made_world()


def test_repaired_rules_find_what_leaves_the_mark_that_they_look_for(world: Examined) -> None:
    said = repaired_rules(world.findings.built.name, world.findings.evidence.table)
    assert score(said, world.labels).value("macro_f1") == 1.0


def test_repaired_rules_fall_back_to_the_prompt_and_never_abstain(world: Examined) -> None:
    table = world.findings.evidence.table
    for name in ("missing_knowledge.cloze_right", "pretraining_conflict.cloze_wrong"):
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), pa.nulls(table.num_rows, pa.float64()))
    said = repaired_rules("w", table)
    assert said["cause"].equals(repaired_rules("w", world.findings.evidence.table)["cause"])
    for name in table.column_names[1:]:
        place = table.column_names.index(name)
        table = table.set_column(
            place, table.schema.field(name), pa.nulls(table.num_rows, table.schema.field(name).type)
        )
    assert set(repaired_rules("w", table)["cause"].to_pylist()) == {"insufficient_optimization"}


def test_the_papers_rules_are_the_attributions_own_column(world: Examined) -> None:
    attributions = attribute(world.findings.evidence, causes(), untrained_meta(), Settings().attribution)
    said = paper_rules(world.findings.built.name, attributions)
    assert said["cause"].to_pylist() == attributions["rule_cause"].to_pylist()
    ours = predictions_of(world.findings.built.name, attributions)
    assert read_predictions(ours, world.labels).num_rows == len(world.findings.study.unlearned)
    assert {f"p_{cause}" for cause in CAUSES} < set(ours.column_names)


def record(points: dict[str, list[float]], *, by_loss: bool = False) -> pa.Table:
    rows = [
        {"sample_id": key, "step": 10 * step, "loss": -float(np.log(p)), "p_correct": None if by_loss else p}
        for key, values in points.items()
        for step, p in enumerate(values)
    ]
    return pa.Table.from_pylist(rows[::-1], schema=TRAJECTORY)


@pytest.mark.parametrize("by_loss", [False, True])
def test_dynamics_are_counted_as_in_the_papers(by_loss: bool) -> None:
    points = {"steady": [0.2, 0.6, 0.8, 0.9, 0.9], "lost": [0.1, 0.6, 0.2, 0.7, 0.3], "never": [0.1] * 5}
    found = dynamics(record(points, by_loss=by_loss), ["never", "lost", "steady", "unknown"])
    rows = [dict(zip(FEATURES, row, strict=True)) for row in found.tolist()]
    assert [row["forgetting_events"] for row in rows[:3]] == [0, 2, 0]
    assert [row["first_learned"] for row in rows[:3]] == [2.0, 0.25, 0.25]
    assert [row["correctness"] for row in rows[:3]] == [0.0, 0.4, 0.8]
    assert rows[1]["mean_confidence"] == pytest.approx(np.mean(points["lost"]))
    assert rows[1]["variability"] == pytest.approx(np.std(points["lost"]))
    assert np.isnan(found[3]).all()
    assert np.isnan(dynamics(None, ["a"])).all()


def test_the_forest_names_a_cause_for_every_unlearned_sample_and_repeats_itself(world: Examined) -> None:
    others = [made_world("llama", 1), made_world("olmo2", 2)]
    train = [(other.findings, other.labels) for other in others]
    said = train_cartographer(train).predict(world.findings)
    assert said["sample_id"].to_pylist() == list(world.findings.study.unlearned)
    assert set(said["cause"].to_pylist()) <= set(CAUSES)
    assert said.equals(train_cartographer(train).predict(world.findings))
    assert score(said, world.labels).confusion["left_side_forgetting"] == {"left_side_forgetting": 3}


def test_label_issues_are_found_from_rows_that_the_model_has_not_seen() -> None:
    builder = StudyBuilder()
    answers = ("wood", "den", "sea")
    for number in range(30):
        for copy in range(6):
            wrong = number < 4 and copy == 0
            answer = answers[(number + wrong) % 3]
            builder.sample(f"Where does beast{number} live?", answer, unlearned=wrong)
    study = builder.build()
    chances, classes = out_of_sample(study.samples, seed=0)
    assert chances.shape == (180, 3)
    assert chances.sum(axis=1) == pytest.approx(1)
    wrong = [study.samples.index(sample) for sample in study.samples if sample.sample_id in study.unlearned]
    assert (chances[wrong].argmax(axis=1) != classes[wrong]).all()


def test_label_issues_name_inconsistency_or_nothing(world: Examined) -> None:
    said = label_issues(world.findings)
    assert set(said["cause"].to_pylist()) <= {INCONSISTENT, "unattributed"}
    assert said["sample_id"].to_pylist() == list(world.findings.study.unlearned)
