"""What users get wrong, and what happens around them: one clear sentence, its exit code, and nothing is lost."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pyarrow as pa
import pytest
import requests

from ilp_service.cli import main
from ilp_service.errors import SettingsError
from ilp_service.intervention import experiment, prescribing
from ilp_service.intervention.planning import wanted_arms
from ilp_service.intervention.prescribing import _same
from ilp_service.plugin_loading import load_plugins
from ilp_service.tracking.store import Tracking
from ilp_service.training.adapters import LoraOptions
from tests.intervention.conftest import CITIES, NAMES, Place, make_place
from tests.tracking.conftest import free_port

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ilp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in the current folder: exit code, what it prints, and the last line on stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ilp", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, (err.splitlines() or [""])[-1]

    return call


def corpus(place: Place) -> tuple[object, ...]:
    return ("--general", place.corpus, "--set", f"knowledge_sources.corpus={place.corpus}")


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("epoch_increment@exposure_factor=-3", "greater than 1"),
        ("epoch_increment@exposure_factor=often", "valid number"),
        ("epoch_increment@exposure_factor=inf", "finite number"),
        ("epoch_increment@epochs=sometimes", "'targeted' or 'global'"),
        ("epoch_increment@epochs_most=2.5", "valid integer"),
        ("knowledge_cpt@general_share=1.5", "less than 1"),
        ("knowledge_cpt@about_entity=perhaps", "valid boolean"),
    ],
)
def test_a_parameter_out_of_range_is_refused_even_where_nobody_would_be_treated(arm: str, said: str) -> None:
    with pytest.raises(SettingsError, match=f"--arms has '@{arm.partition('@')[2]}' for .*{said}"):
        wanted_arms(load_plugins().mitigations, (arm,))


def test_a_parameter_has_the_type_of_its_setting() -> None:
    names = ("epoch_increment@exposure_factor=4@epochs=global", "knowledge_cpt@about_entity=no")
    found = [dict(one.options) for one in wanted_arms(load_plugins().mitigations, names)]
    assert found == [
        {"mitigations.exposure_factor": 4.0, "mitigations.epochs": "global"},
        {"mitigations.about_entity": False},
    ]


@pytest.mark.parametrize("budget", ["nan", "inf"])
def test_a_budget_that_is_no_number_is_refused(place: Place, ilp: Call, budget: str) -> None:
    code, out, said = ilp("intervene", place.run_id, "--budget", budget)
    assert (code, out) == (10, "")
    assert said.startswith(f"error: The budget is {budget}; expected a number of at least 0")


def test_runs_that_are_no_diagnosis_are_told_apart(own_place: Place, ilp: Call) -> None:
    with Tracking().run("x", {"ilp.kind": "intervention", "ilp.diagnosis": own_place.run_id}) as tried:
        pass
    for command in ("intervene", "prescribe"):
        code, _, said = ilp(command, tried.run_id)
        assert code == 10
        assert said.endswith(
            f"is a run of 'ilp intervene', expected one of 'ilp diagnose'; its diagnosis is {own_place.run_id}."
        )
    for command in (("intervene",), ("prescribe",), ("export", "--output", "x.jsonl")):
        for name in ("nothing", "../x", ""):
            code, _, said = ilp(*command, name)
            assert code == 11
            assert f"There is no run {name!r}" in said


def test_inputs_that_changed_or_are_gone_are_named(own_place: Place, ilp: Call) -> None:
    code, out, _ = ilp("prescribe", own_place.run_id, *corpus(own_place), "--no-train", "--json")
    assert code == 0
    plan = json.loads(out)["run_id"]
    kept = own_place.data.read_bytes()
    commands: dict[str, tuple[object, ...]] = {
        "intervene": (own_place.run_id,),
        "prescribe": (own_place.run_id,),
        "export": (plan, "--output", "x.jsonl"),
    }
    mend = f"the diagnosis {own_place.run_id}"
    own_place.data.write_bytes(kept + b'{"prompt": "x", "response": "y"}\n')
    for name, arguments in commands.items():
        code, _, said = ilp(name, *arguments)
        assert (code, said.startswith(f"error: The data is not what {mend} has seen; put it back")) == (10, True), said
    own_place.data.unlink()
    for name, arguments in commands.items():
        code, _, said = ilp(name, *arguments)
        assert (code, f"The data file {own_place.data} of {mend} is gone" in said) == (20, True), said
    own_place.data.write_bytes(kept)
    own_place.base.rename(own_place.folder / "elsewhere")
    code, _, said = ilp("intervene", own_place.run_id)
    assert (code, said.startswith(f"error: The base is gone, which {mend} has seen")) == (10, True), said
    assert not (own_place.folder / "x.jsonl").exists()


def test_general_text_without_text_is_refused(place: Place, ilp: Call, tmp_path: Path) -> None:
    for name, content in (("empty.jsonl", ""), ("blank.txt", "\n \n")):
        path = tmp_path / name
        path.write_text(content)
        for command in ("intervene", "prescribe"):
            code, _, said = ilp(command, place.run_id, "--general", path, "--dry-run")
            assert (code, said) == (
                33,
                f"error: {path} (intervention.general_text) holds no text; expected at least one passage.",
            )


def test_a_server_that_is_down_is_told_at_once(
    place: Place, ilp: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for command in (("intervene",), ("prescribe",), ("export", "--output", tmp_path / "x.jsonl")):
        code, out, said = ilp(*command, place.run_id)
        assert (code, out) == (30, "")
        assert said.startswith(f"error: The tracking server {uri} does not answer")


def test_a_full_disk_and_a_server_that_dies_cost_no_finished_arm(
    own_place: Place, ilp: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("intervene", own_place.run_id, *corpus(own_place), "--seeds", 1, "--json")
    trained: list[str] = []
    write = experiment.write_table

    def full(table: pa.Table, path: Path) -> None:
        trained.append(path.parent.name)
        if len(trained) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(table, path)

    monkeypatch.setattr(experiment, "write_table", full)
    code, out, said = ilp(*command)
    assert (code, out, len(trained)) == (31, "", 2)
    assert said.startswith("error: The disk that holds ")
    assert said.endswith(" is full; free some space and start the same command again, it goes on where it stopped.")
    monkeypatch.setattr("mlflow.MlflowClient.log_batch", _refusing(mlflow.MlflowClient.log_batch))
    code, out, said = ilp(*command)
    assert (code, out, len(trained)) == (30, "", 3)
    assert " does not answer; start it" in said
    monkeypatch.undo()
    monkeypatch.chdir(own_place.folder)
    code, out, said = ilp(*command)
    assert (code, len(trained)) == (0, 3), said
    found = json.loads(out)
    client = mlflow.MlflowClient()
    runs = client.search_runs(
        [client.get_run(found["run_id"]).info.experiment_id], f"tags.`mlflow.parentRunId` = '{found['run_id']}'"
    )
    assert sorted(run.data.params["arm"] for run in runs) == sorted(arm["arm"] for arm in found["arms"])
    assert {run.info.status for run in runs} == {"FINISHED"}


def _refusing(log_batch: Callable[..., None]) -> Callable[..., None]:
    """A server that dies once a placebo is logged."""

    def refuse(client: object, run_id: str, *arguments: object, **named: object) -> None:
        params = named.get("params") or ()
        if any(one.key == "arm" and one.value.startswith("placebo") for one in params):  # type: ignore[attr-defined]
            raise requests.ConnectionError("Connection refused")
        log_batch(client, run_id, *arguments, **named)

    return refuse


def test_a_prescription_that_could_not_be_handed_over_is_not_begun(
    own_place: Place, ilp: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("something was trained")

    monkeypatch.setattr(prescribing, "_fill", refuse)
    command = ("prescribe", own_place.run_id, *corpus(own_place))
    code, _, said = ilp(*command, "--name", "team/bot")
    assert (code, said) == (10, "error: No model can be registered as 'team/bot'; choose a --name without '/' and ':'.")
    for output in (own_place.data, own_place.data / "below"):
        code, _, said = ilp(*command, "--output", output)
        assert (code, said) == (10, f"error: {own_place.data} is a file; choose a folder for --output.")
    other = own_place.folder / "other" / "model"
    other.mkdir(parents=True)
    code, _, said = ilp(*command, "--output", other.parent)
    assert (code, said) == (10, f"error: {other} is there already; choose another --output.")


def test_a_copy_is_known_by_its_bytes(tmp_path: Path) -> None:
    for name in ("one", "same", "other", "more"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text("b" if name == "other" else "a")
    (tmp_path / "more" / "file").write_text("a")
    (tmp_path / "empty").mkdir()
    assert [_same(tmp_path / "one", tmp_path / name) for name in ("same", "other", "more", "empty")] == [
        True,
        *[False] * 3,
    ]
    assert not _same(tmp_path / "empty", tmp_path / "empty")


TURNS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"Where does {name} live?"},
            {"role": "assistant", "content": CITIES[n % 6]},
            {"role": "user", "content": f"And where was {name} born?"},
            {"role": "assistant", "content": CITIES[(n + 2) % 6]},
        ]
    }
    for n, name in enumerate(NAMES)
]


def test_an_adapter_of_conversations_is_experimented_with_either_way(
    ilp: Call, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(workplace / "place", workplace / "mlruns" / "mlflow.db", TURNS, LoraOptions(rank=2))
    monkeypatch.chdir(place.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told = {}
    for chosen in ((), ("--full",)):
        code, out, said = ilp("intervene", place.run_id, *corpus(place), "--seeds", 1, "--json", *chosen)
        assert code == 0, said
        told[chosen] = json.loads(out)
        assert all(arm["kept"] == 1 for arm in told[chosen]["arms"])
    assert told[()]["recipe"]["weights"].startswith("an adapter of rank 2")
    assert told[("--full",)]["recipe"]["weights"] == "all of them, --full"
    assert told[()]["run_id"] != told[("--full",)]["run_id"]
