"""Samples that were held out of an arm's training say nothing about it: neither unlearned by it nor damage."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pytest
from simulated_experiments import attributed, measured

from ilp_service.benchmark.intervention_figures import Rows, unlearned_rates
from ilp_service.changes import Change, EpochIncrement
from ilp_service.intervention.arms import MEASURED, Arm, ArmResult
from ilp_service.intervention.effects import effects_of
from ilp_service.intervention.experiment import run_experiment
from ilp_service.intervention.experiment_log import ExperimentLog
from ilp_service.intervention.prescription_outcome import compare, outcome_text
from ilp_service.tracking.store import Tracking
from ilp_service.training.changed import Trained
from ilp_service.training.changed_plan import planned
from tests.training.test_changed import make_recipe

if TYPE_CHECKING:
    from ilp_service.intervention.experiment import Train
    from ilp_service.training.recipe import Recipe

CAUSE = "insufficient_optimization"
LONGER = Change(epochs=EpochIncrement(3, 0.01))
PLACEBO = Arm("placebo:other_seed", "placebo", Change())


class Meter:
    """Who was trained on is learned, who was not is not; by chance one is unlearned all the same."""

    digest = "meter"

    def __init__(self, ids: tuple[str, ...], chance: str) -> None:
        self.ids, self.chance = ids, chance

    def __call__(self, model: Any) -> tuple[pa.Table, float | None]:  # noqa: ANN401
        return measured({key: 0.05 if key in (*model.held_out, self.chance) else 0.9 for key in self.ids}), None


class Trainer:
    """Holds out whom the real training holds out, and trains nothing."""

    def __init__(self) -> None:
        self.held_out: dict[tuple[str, int], tuple[str, ...]] = {}

    def __call__(self, recipe: Recipe, change: Change, *, seed: int, folder: Path, **rest: Any) -> Trained:  # noqa: ANN401
        del folder
        rest.pop("progress")
        held_out = planned(recipe, change, seed=seed, **rest).held_out
        self.held_out["longer" if change.epochs else "again", seed] = held_out
        model = cast("Any", SimpleNamespace(held_out=held_out, parameters=tuple))
        return Trained(model, 10, 0, 1, 0.1, 1, None, (), held_out)


class Experiment:
    """Two arms under two seeds on sixty samples, of which four are treated."""

    def __init__(self, folder: Path) -> None:
        self.recipe = make_recipe(folder, count=60)
        self.ids = tuple(sample.sample_id for sample in self.recipe.samples)
        self.treated = self.ids[:4]
        self.longer = Arm("longer", "remedy", LONGER, {CAUSE: self.treated}, PLACEBO.name)
        self.original = measured({key: 0.05 if key in self.treated else 0.9 for key in self.ids})
        self.folder = folder / "arms"
        self.trainer = Trainer()

    def run(self, **more: Any) -> list[ArmResult]:  # noqa: ANN401
        meter = Meter(self.ids, chance=self.ids[20])
        arms = (self.longer, PLACEBO)
        train = cast("Train", self.trainer)
        return run_experiment(self.recipe, arms, (4, 5), meter, self.folder, lambda _line: None, train=train, **more)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path)


def test_what_was_held_out_is_in_no_figure_of_the_arm(experiment: Experiment) -> None:
    results = experiment.run()
    held_out = {(one.arm, one.seed): set(one.held_out) for one in results}
    assert all(bool(keys) == (arm == "longer") for (arm, _), keys in held_out.items())
    for one in results:
        rows = {row.pop("sample_id"): row for row in one.measured.to_pylist()}
        assert {key for key, row in rows.items() if row["p_correct"] is None} == set(one.held_out)
        assert all(set(rows[key].values()) == {None} for key in one.held_out)
    named = attributed(dict.fromkeys(experiment.treated, CAUSE))
    found = effects_of(experiment.original, named, [experiment.longer, PLACEBO], results, seed=0)
    arm = found.arms[0]
    gone = held_out["longer", 4] | held_out["longer", 5]
    assert (found.cells[0].recovery.share, found.cells[0].recovery.samples) == (1.0, 4)
    # The one that is unlearned by chance is the only damage, and the placebo has it too.
    assert arm.damage.samples == 56 - len(gone)
    assert arm.damage.share == pytest.approx(1 / (56 - len(gone)))
    assert arm.damage.effect == 0


def test_held_out_samples_are_not_counted_in_the_store(experiment: Experiment, workplace: Path) -> None:
    del workplace
    tracking = Tracking()
    with tracking.run("diagnosis") as diagnosis:
        pass
    log = ExperimentLog.open(tracking, "all", diagnosis.run_id, experiment.original)
    with log.experiment("intervene", {}) as run:
        experiment.run(on_done=log.arm_done)
    client = tracking.client()
    for one in client.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'"):
        held_out = 1 if one.data.params["arm"] == "longer" else 0
        assert one.data.metrics["ilp.unlearned"] == 1
        assert one.data.metrics["ilp.unlearned_rate"] == pytest.approx(1 / (60 - held_out))
        assert one.data.metrics["ilp.damage"] == pytest.approx(1 / (56 - held_out))


def test_results_that_do_not_name_them_are_read_alike_and_not_trained_again(experiment: Experiment) -> None:
    first = experiment.run()
    calls = dict(experiment.trainer.held_out)
    experiment.trainer.held_out.clear()
    for path in experiment.folder.rglob("result.json"):
        told = json.loads(path.read_text())
        assert tuple(told.pop("held_out")) == calls["longer" if told["arm"] == "longer" else "again", told["seed"]]
        path.write_text(json.dumps(told))
    again = experiment.run()
    assert experiment.trainer.held_out == {}
    assert [(one.held_out, one.measured) for one in again] == [(one.held_out, one.measured) for one in first]


def test_a_prescription_does_not_count_them() -> None:
    before = measured({"a": 0.05, "b": 0.9, "c": 0.05, "d": 0.9, "e": 0.9})
    after = measured({"a": 0.9, "b": 0.05, "c": 0.05, "d": 0.05, "e": 0.9})
    found = compare(before, after, withdrawn={"d"}, cause_of={"a": CAUSE}, threshold=0.2, held_out=("b", "c", "d"))
    assert (found.samples, found.before, found.after, found.lost) == (2, 1, 0, 0)
    assert (found.withdrawn, found.held_out) == (1, 2)
    assert "2 samples were held out" in outcome_text(found)
    assert found.public()["held_out"] == 2


def test_nor_do_the_figures_of_worlds() -> None:
    rows = Rows(("a", "b", "c"), np.asarray(["control"] * 3), np.ones(3, dtype=np.bool_), np.ones(3, dtype=np.bool_))
    nulls = pa.Table.from_pylist([{"sample_id": "c"}], schema=MEASURED)
    rates = {"a": 0.9, "b": 0.05}
    after = pa.concat_tables([measured(rates, p_paraphrase=rates, p_cloze=rates), nulls])
    found = unlearned_rates(rows, after, measured({"a": 0.9, "b": 0.9, "c": 0.9}))
    assert found == dict.fromkeys(found, 0.5)
