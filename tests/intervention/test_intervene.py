"""``ilp intervene`` from a run's id to effects in the tracking store, on a tiny model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest

from ilp_service.cli import main
from ilp_service.consulting.consultation import Consultation
from ilp_service.intervention import intervene as command
from ilp_service.intervention.experiment_log import ExperimentLog
from ilp_service.intervention.intervene import InterventionRequest, design_experiment
from ilp_service.intervention.tables import EFFECTS
from ilp_service.tracking.store import Tracking
from tests.intervention.conftest import Place

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def intervene(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``ilp intervene`` on the diagnosis, with its exit code and what it prints."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        corpus = ("--general", place.corpus, "--set", f"knowledge_sources.corpus={place.corpus}")
        monkeypatch.setattr(sys, "argv", ["ilp", "intervene", place.run_id, *map(str, (*corpus, *arguments))])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def children(run_id: str) -> list[Any]:
    client = mlflow.MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    return list(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'"))


def test_remedies_are_tried_logged_below_the_diagnosis_and_done_once(
    place: Place, intervene: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = intervene("--dry-run", "--json")
    assert code == 0, err
    wanted = json.loads(out)
    assert [arm["kept"] for arm in wanted["arms"]] == [0, 0]
    assert not [run for run in children(place.run_id) if run.data.tags.get("ilp.kind") == "intervention"]

    def refuse(*_arguments: object) -> None:
        raise AssertionError("a source was asked for a plan that is kept")

    monkeypatch.setattr(Consultation, "documents", refuse)
    code, out, err = intervene("--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["seeds"] == [1, 2]
    (remedy,) = (arm for arm in found["arms"] if arm["kind"] == "remedy")
    (cause,) = remedy["treats"]
    assert found["effects"]["matrix"][remedy["arm"]].keys() >= {cause}
    assert pq.read_schema(found["artifacts"]["effects"]).equals(EFFECTS)
    assert "<html" in Path(found["artifacts"]["report"]).read_text()

    run = mlflow.MlflowClient().get_run(found["run_id"])
    assert run.data.tags["mlflow.parentRunId"] == place.run_id
    assert (run.info.status, run.data.tags["ilp.kind"]) == ("FINISHED", "intervention")
    arms = children(found["run_id"])
    assert sorted((one.data.params["arm"], one.data.params["seed"]) for one in arms) == sorted(
        (arm["arm"], str(seed)) for arm in found["arms"] for seed in (1, 2)
    )
    for one in arms:
        measured = pq.read_table(f"{one.info.artifact_uri}/measured.parquet")
        unlearned = sum(measured["unlearned"].to_pylist())
        assert one.data.metrics["ilp.unlearned_rate"] == pytest.approx(unlearned / found["samples"])
        assert one.data.metrics["ilp.training_tokens"] > found["training_tokens"]
        assert one.data.metrics["ilp.general_loss"] > 0

    code, out, err = intervene("--json")
    again = json.loads(out)
    assert err.count("(kept)") == 4
    assert again["run_id"] == found["run_id"]
    assert again["effects"] == found["effects"]
    assert len(children(found["run_id"])) == 4
    code, out, err = intervene()
    assert code == 0
    assert remedy["arm"] in out
    assert "Report: " in out


def test_no_model_is_open_beside_a_training(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    request = InterventionRequest(
        place.run_id,
        seeds=1,
        overrides=(f"knowledge_sources.corpus={place.corpus}", "mitigations.general_share=0"),
    )
    experiment = design_experiment(request, Tracking(), lambda _line: None)
    checkpoint = experiment.diagnosed.prepared.checkpoint
    opened = []

    def run(*_arguments: object, on_done: Callable[[Any], None], **_more: object) -> None:
        opened.append(list(checkpoint._full))
        with checkpoint.base():
            pass
        monkeypatch.setattr(ExperimentLog, "arm_done", lambda _self, _done: opened.append(list(checkpoint._full)))
        on_done(None)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_experiment", run)
    with checkpoint.base():
        assert checkpoint._full
    with pytest.raises(KeyboardInterrupt):
        command.intervene(experiment, Tracking(), lambda _line: None)
    assert opened == [[], []]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--causes", "boredom"), "--causes names 'boredom', which is no cause; known are "),
        (("--arms", "prayer"), "--arms names 'prayer', which is no mitigation; loaded are "),
        (("--arms", "epoch_increment@epoch=global"), "expected @parameter=value with one of "),
        (("--causes", "training_pipeline"), "No remedy can be tried: "),
        (("--budget", "0.000001"), "of the budget of 1e-06 is left"),
        (("--set", "detection.runs=3"), "--set changes 'detection', on which the diagnosis"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(intervene: Call, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = intervene(*arguments)
    assert (code, out) == (10, "")
    assert said in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")


def test_help_tells_what_is_proved_and_what_is_kept(intervene: Call) -> None:
    _code, out, _err = intervene("--help")
    for words in ("against a placebo", "proves the cause", "Finished trainings are kept", "loop.learning_rate"):
        assert words in " ".join(out.split())
