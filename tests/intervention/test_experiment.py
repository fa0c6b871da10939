"""An experiment goes on where it stopped, and an arm that diverges stops nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pytest
import torch

from ilp_service.changes import Change
from ilp_service.intervention.arms import MEASURED, Arm, ArmResult
from ilp_service.intervention.experiment import Done, lacked_memory, run_experiment
from ilp_service.intervention.experiment_log import ExperimentLog
from ilp_service.tracking.store import Tracking
from ilp_service.tracking.stored_runs import children_by
from ilp_service.training.changed import NO_MEMORY, Trained

if TYPE_CHECKING:
    from ilp_service.intervention.experiment import Train
    from ilp_service.training.recipe import Recipe

IDS = ("a", "b", "c")
ARMS = (
    Arm("one", "remedy", Change(exposures={"a": 3.0}), {"insufficient_optimization": ("a",)}, "placebo:none"),
    Arm("two", "remedy", Change(shuffled=True), {"left_side_forgetting": ("b",)}, "placebo:none"),
    Arm("placebo:none", "placebo", Change()),
)
RECIPE = cast("Recipe", SimpleNamespace(digest="recipe"))


class Model(torch.nn.Module):
    """What it was trained with."""

    def __init__(self, seed: int, change: Change) -> None:
        super().__init__()
        self.seed, self.change = seed, change


class Trainer:
    """Makes 'models' that are the arm's seed, and remembers for what it was called."""

    def __init__(self, diverging: Mapping[int, str] | None = None, stops_at: int | None = None) -> None:
        self.calls: list[tuple[Change, int]] = []
        self.diverging, self.stops_at = dict(diverging or {}), stops_at

    def __call__(self, _recipe: Recipe, change: Change, *, seed: int, folder: Path, **_rest: Any) -> Trained:  # noqa: ANN401
        self.calls.append((change, seed))
        (folder / "loop").mkdir(parents=True)
        if len(self.calls) == self.stops_at:
            raise KeyboardInterrupt
        diverged = self.diverging.get(seed) if change.shuffled else None
        model = None if diverged else cast("Any", Model(seed, change))
        return Trained(model, 100 + seed, 0, 7, 0.5, 1, diverged, ("looked once",))


class Meter:
    """A sample is learned where it was shown more often, or the seed is even."""

    digest = "meter"

    def __call__(self, model: Any) -> tuple[pa.Table, float | None]:  # noqa: ANN401
        rows = [
            {
                "sample_id": key,
                "p_correct": 0.9 if key in model.change.exposures or model.seed % 2 == 0 else 0.1,
                "unlearned": not (key in model.change.exposures or model.seed % 2 == 0),
            }
            for key in IDS
        ]
        return pa.Table.from_pylist(rows, schema=MEASURED), 2.5


def run(
    folder: Path, trainer: Trainer, arms: tuple[Arm, ...] = ARMS, seeds: tuple[int, ...] = (1, 2)
) -> list[ArmResult]:
    return run_experiment(RECIPE, arms, seeds, Meter(), folder, lambda _line: None, train=cast("Train", trainer))


def told(results: list[ArmResult]) -> list[dict[str, object]]:
    return [
        {
            "arm": one.arm,
            "seed": one.seed,
            "status": one.status,
            "reason": one.reason,
            "rows": one.measured.to_pylist(),
            "loss": one.general_loss,
            "cost": one.cost,
        }
        for one in results
    ]


def test_every_arm_is_trained_under_every_seed_once(tmp_path: Path) -> None:
    trainer = Trainer()
    first = run(tmp_path, trainer)
    assert [(one.seed, one.arm) for one in first] == [(seed, arm.name) for seed in (1, 2) for arm in ARMS]
    assert len(trainer.calls) == 6
    assert told(run(tmp_path, trainer)) == told(first)
    assert len(trainer.calls) == 6
    assert not list(tmp_path.rglob("training"))


@pytest.mark.parametrize("killed_at", [1, 3, 6])
def test_a_killed_experiment_goes_on_and_comes_to_the_same(tmp_path: Path, killed_at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Trainer(stops_at=killed_at))
    trainer = Trainer()
    results = run(tmp_path / "killed", trainer)
    assert len(trainer.calls) == 7 - killed_at
    assert told(results) == told(run(tmp_path / "whole", Trainer()))


def test_what_an_arm_depends_on_and_nothing_else_trains_it_again(tmp_path: Path) -> None:
    run(tmp_path, Trainer())
    for arm, count in (
        (replace(ARMS[0], treats={}), 0),
        (replace(ARMS[0], placebo=None), 0),
        (replace(ARMS[0], change=Change(exposures={"a": 4.0})), 2),
        (replace(ARMS[0], seed=5), 2),
        (replace(ARMS[2], general_tokens=9), 2),
    ):
        trainer = Trainer()
        run(tmp_path, trainer, (arm,))
        assert len(trainer.calls) == count, arm


def test_an_arm_that_diverges_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    trainer = Trainer(diverging={1: "the loss was nan at step 3"})
    results = {(one.arm, one.seed): one for one in run(tmp_path, trainer)}
    lost = results["two", 1]
    assert (lost.status, lost.reason, lost.measured.num_rows) == ("diverged", "the loss was nan at step 3", 0)
    assert lost.general_loss is None
    assert all(one.status == "done" for key, one in results.items() if key != ("two", 1))
    assert [one.status for one in run(tmp_path, Trainer())].count("diverged") == 1


def test_an_arm_without_memory_left_is_told_and_trained_again_by_the_next_call(tmp_path: Path) -> None:
    full = f"cuda {NO_MEMORY} at step 1 of fine-tuning: CUDA out of memory."
    first = run(tmp_path, Trainer(diverging={1: full}))
    assert [one.status for one in first].count("diverged") == 1
    (place,) = (one.parent for one in tmp_path.glob("*/result.json") if lacked_memory(one.parent))
    trainer = Trainer()
    again = run(tmp_path, trainer)
    assert trainer.calls == [(ARMS[1].change, 1)]
    assert told(again) == told(run(tmp_path / "whole", Trainer()))
    assert not lacked_memory(place)


def test_two_arms_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected unique ones"):
        run(tmp_path, Trainer(), (ARMS[0], ARMS[0]))


def test_arms_are_logged_once_and_a_diverged_one_has_failed(workplace: Path) -> None:
    original = pa.Table.from_pylist([{"sample_id": key, "unlearned": key != "c"} for key in IDS], schema=MEASURED)
    tracking = Tracking()
    with tracking.run("diagnosis") as diagnosis:
        pass
    stop = 2

    def once(trainer: Trainer, ends_after: int | None) -> str:
        log = ExperimentLog.open(tracking, "all", diagnosis.run_id, original)
        seen = 0

        def on_done(done: Done) -> None:
            nonlocal seen
            log.arm_done(done)
            seen += 1
            if seen == ends_after:
                raise KeyboardInterrupt

        with log.experiment("intervene", {"seeds": [1]}) as run:
            run_experiment(
                RECIPE,
                ARMS,
                (1,),
                Meter(),
                workplace,
                lambda _line: None,
                on_done=on_done,
                train=cast("Train", trainer),
            )
        return run.run_id

    with pytest.raises(KeyboardInterrupt):
        once(Trainer(diverging={1: "nan"}), stop)
    client = tracking.client()
    killed, _tags = children_by(tracking, diagnosis.run_id, "ilp.work")["all"]
    assert client.get_run(killed).info.status == "KILLED"
    trainer = Trainer(diverging={1: "nan"})
    assert once(trainer, None) == killed
    assert len(trainer.calls) == len(ARMS) - stop
    found = client.search_runs([client.get_run(killed).info.experiment_id], f"tags.`mlflow.parentRunId` = '{killed}'")
    runs = {one.data.params["arm"]: one for one in found}
    assert len(found) == len(runs) == len(ARMS)
    assert {name: one.info.status for name, one in runs.items()} == {
        "one": "FINISHED",
        "two": "FAILED",
        "placebo:none": "FINISHED",
    }
    assert runs["two"].data.tags["ilp.reason"] == "nan"
    assert runs["one"].data.metrics["ilp.recovery.insufficient_optimization"] == 1.0
    assert runs["one"].data.metrics["ilp.damage"] == 1.0
    assert client.get_run(killed).info.status == "FINISHED"


def test_an_arm_that_was_trained_again_is_no_longer_logged_as_failed(workplace: Path) -> None:
    original = pa.Table.from_pylist([{"sample_id": key, "unlearned": key != "c"} for key in IDS], schema=MEASURED)
    tracking = Tracking()
    with tracking.run("diagnosis") as diagnosis:
        pass
    client = tracking.client()

    def status(trainer: Trainer) -> tuple[str, str]:
        log = ExperimentLog.open(tracking, "all", diagnosis.run_id, original)
        with log.experiment("intervene", {"seeds": [1]}) as run:
            run_experiment(
                RECIPE,
                ARMS[1:2],
                (1,),
                Meter(),
                workplace,
                lambda _line: None,
                on_done=log.arm_done,
                train=cast("Train", trainer),
            )
        experiment = client.get_run(run.run_id).info.experiment_id
        (arm,) = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
        return arm.info.status, arm.data.tags["ilp.reason"]

    full = f"cuda {NO_MEMORY} at step 1 of fine-tuning."
    assert status(Trainer(diverging={1: full})) == ("FAILED", full)
    assert status(Trainer()) == ("FINISHED", "")
