"""``kill -9`` of ``ilp intervene`` and ``ilp prescribe`` at random moments: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.intervention.conftest import Place, moved
from tests.intervention.nursery import Nursery

# A dozen small processes one after the other; on a machine that has other work each waits for its turn.
pytestmark = pytest.mark.timeout(900)

_MOMENTS = ((0.1, 0.4), (0.3, 0.9))
"""Between which parts of the time that the whole takes each try is killed; each goes on where the one before it was."""

_OF_THE_MACHINE = ("seconds", "peak_memory_bytes")


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("nursery")) as process:
        yield process


@pytest.fixture
def places(made_place: Place, tmp_path: Path) -> tuple[Place, Place]:
    """One for an undisturbed run, and one for those that are killed."""
    return moved(made_place, tmp_path / "calm"), moved(made_place, tmp_path / "rough")


def corpus(place: Place) -> tuple[object, ...]:
    return ("--general", place.corpus, "--set", f"knowledge_sources.corpus={place.corpus}")


def to_its_end(nursery: Nursery, place: Place, seconds: float, seed: int, *argv: object) -> tuple[dict[str, Any], int]:
    """The command, killed at random moments of the time that it takes, and started again until it ends."""
    rng = np.random.default_rng(seed)
    kills = 0
    for earliest, latest in _MOMENTS:
        moment = float(rng.uniform(earliest, latest)) * seconds
        ended = nursery.run(*argv, folder=place.folder, kill_after=moment)
        kills += ended["killed"]
        assert ended["killed"] or ended["code"] == 0, ended["err"]
    ended = nursery.run(*argv, folder=place.folder)
    assert ended["code"] == 0, ended["err"]
    return json.loads(ended["out"]), kills


def runs_of(place: Place, kind: str) -> list[Any]:
    client = mlflow.MlflowClient(f"sqlite:///{place.folder / 'mlruns' / 'mlflow.db'}")
    experiments = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.`ilp.kind` = '{kind}'"))


def tables(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Every table of an experiment, without what depends on the machine."""
    read = {}
    for name in ("effects", "arms", "recoveries", "verdicts", "outcomes"):
        table = pq.read_table(found["artifacts"][name])
        kept = [column for column in table.column_names if column not in _OF_THE_MACHINE]
        read[name] = table.select(kept).to_pylist()
    return read


def test_a_killed_experiment_ends_as_an_undisturbed_one(nursery: Nursery, places: tuple[Place, Place]) -> None:
    calm, rough = places

    def argv(place: Place) -> tuple[object, ...]:
        return ("intervene", place.run_id, *corpus(place), "--json")

    undisturbed = nursery.run(*argv(calm), folder=calm.folder)
    assert undisturbed["code"] == 0, undisturbed["err"]
    wanted = json.loads(undisturbed["out"])
    found, kills = to_its_end(nursery, rough, undisturbed["seconds"], 1, *argv(rough))
    assert kills >= 1
    assert repr(tables(found)) == repr(tables(wanted))
    assert found["effects"]["matrix"] == wanted["effects"]["matrix"]
    (experiment,) = runs_of(rough, "intervention")
    assert (experiment.info.run_id, experiment.info.status) == (found["run_id"], "FINISHED")
    arms = runs_of(rough, "intervention_arm")
    assert {one.info.status for one in arms} == {"FINISHED"}
    assert {one.data.tags["mlflow.parentRunId"] for one in arms} == {experiment.info.run_id}
    assert Counter((one.data.params["arm"], int(one.data.params["seed"])) for one in arms) == Counter(
        (arm["arm"], seed) for arm in wanted["arms"] for seed in wanted["seeds"]
    )
    numbers = {
        place.folder: {
            (one.data.params["arm"], one.data.params["seed"]): {
                name: value for name, value in one.data.metrics.items() if not name.endswith(_OF_THE_MACHINE)
            }
            for one in runs_of(place, "intervention_arm")
        }
        for place in (calm, rough)
    }
    assert numbers[rough.folder] == numbers[calm.folder]


def test_a_killed_prescription_is_trained_alike_and_registered_once(
    nursery: Nursery, places: tuple[Place, Place]
) -> None:
    calm, rough = places

    def argv(place: Place) -> tuple[object, ...]:
        register = ("--register", "always", "--output", place.folder / "mended")
        return ("prescribe", place.run_id, *corpus(place), *register, "--json")

    undisturbed = nursery.run(*argv(calm), folder=calm.folder)
    assert undisturbed["code"] == 0, undisturbed["err"]
    wanted = json.loads(undisturbed["out"])
    found, kills = to_its_end(nursery, rough, undisturbed["seconds"], 2, *argv(rough))
    assert kills >= 1
    assert found["measured"] == wanted["measured"]
    measured = [pq.read_table(one["artifacts"]["measured"]).to_pylist() for one in (found, wanted)]
    assert measured[0] == measured[1]
    weights = [(place.folder / "mended" / "model" / "model.safetensors").read_bytes() for place in (calm, rough)]
    assert weights[0] == weights[1]
    (run,) = runs_of(rough, "prescription")
    assert (run.info.run_id, run.info.status) == (found["run_id"], "FINISHED")
    client = mlflow.MlflowClient(f"sqlite:///{rough.folder / 'mlruns' / 'mlflow.db'}")
    first, second = sorted(client.search_model_versions("name = 'bot'"), key=lambda one: int(one.version))
    assert found["model_uri"] == f"models:/bot/{second.version}"
    assert (second.run_id, second.tags["ilp.parent"]) == (run.info.run_id, f"models:/bot/{first.version}")
