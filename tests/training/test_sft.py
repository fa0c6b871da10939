"""``ilp train``, from a data file to a registered model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from ilp_service.checkpoints.loading import Checkpoint
from ilp_service.checkpoints.reference import resolve
from ilp_service.errors import AdapterBaseError, IlpWarning, SettingsError, StorageError
from ilp_service.samples.reading import read_samples
from ilp_service.settings import DataSettings, ScoringSettings
from ilp_service.tracking.store import Tracking
from ilp_service.training.adapters import LoraOptions
from ilp_service.training.command import train as command
from ilp_service.training.loop import LoopOptions
from ilp_service.training.sft import TrainRequest, train
from ilp_service.training.trajectory import read_trajectory, trajectory_facts
from tests.tiny import save_tiny, tiny_adapter, tiny_model
from tests.training.small import questions

LOOP = LoopOptions(learning_rate=1e-2, batch_size=4, device="cpu")


@pytest.fixture
def request_of(workplace: Path) -> TrainRequest:
    save_tiny(workplace / "base", num_hidden_layers=1)
    data = questions(workplace / "sft.jsonl")
    return TrainRequest(
        base=str(workplace / "base"), data=data, output=workplace / "out", epochs=2, loop=LOOP, points=3
    )


def test_a_full_training_is_recorded_logged_and_registered(request_of: TrainRequest, workplace: Path) -> None:
    tracking = Tracking()
    seen: list[int] = []
    result = train(replace(request_of, register_as="bot"), tracking, lambda step, _steps, _loss: seen.append(step))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert result.model_uri == "models:/bot/1"
    reference = resolve("models:/bot/1", base=None, tracking=tracking, work_dir=workplace / "work")
    assert reference.base_from == "tag"
    assert reference.base_dir == workplace / "base"
    version = tracking.client().get_model_version("bot", "1")
    assert version.tags["ilp.data"] == str(request_of.data)
    known = read_samples(request_of.data, DataSettings()).all_ids
    table = read_trajectory(Path(version.tags["ilp.trajectory"]), known)
    assert sorted(set(table["step"].to_pylist())) == [0, 3, 6]
    assert table["exposures"].to_pylist()[-12:] == [2] * 12
    assert trajectory_facts(result.trajectory)["model_digest"] == reference.digest
    run = tracking.client().get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["loop.learning_rate"] == "0.01"
    assert run.data.metrics["ilp.train.loss"] > 0
    record = json.loads((request_of.output / "train.json").read_text())
    assert record["result"]["model_uri"] == "models:/bot/1"
    assert sorted(path.name for path in request_of.output.iterdir()) == ["model", "train.json", "trajectory.parquet"]
    with Checkpoint.open(reference, ScoringSettings(device="cpu")).tuned() as model:
        trained = load_file(result.model / "model.safetensors")
        assert (model.get_input_embeddings().weight == trained["model.embed_tokens.weight"]).all()


def test_an_adapter_leaves_its_base_alone_and_opens_again(request_of: TrainRequest, workplace: Path) -> None:
    before = (workplace / "base" / "model.safetensors").read_bytes()
    lora = LoraOptions(rank=2, alpha=4.0, targets=("q_proj", "v_proj"))
    tracking = Tracking()
    result = train(replace(request_of, lora=lora, register_as="bot"), tracking)
    assert result.model.name == "adapter"
    keys = load_file(result.model / "adapter_model.safetensors")
    assert {key.split(".")[-3] for key in keys} == {"q_proj", "v_proj"}
    assert any(value.abs().max() > 0 for key, value in keys.items() if "lora_B" in key)
    assert (workplace / "base" / "model.safetensors").read_bytes() == before
    reference = resolve("models:/bot/1", base=None, tracking=tracking, work_dir=workplace / "work")
    assert reference.kind == "adapter"
    checkpoint = Checkpoint.open(reference, ScoringSettings(device="cpu"))
    with checkpoint.tuned() as model:
        assert model is not None
    losses = read_trajectory(result.trajectory, read_samples(request_of.data, DataSettings()).all_ids)["loss"]
    assert sum(losses.to_pylist()[-12:]) < sum(losses.to_pylist()[:12])


def test_two_runs_give_the_same_weights_and_another_seed_others(request_of: TrainRequest, workplace: Path) -> None:
    files = []
    for name, loop in (("one", LOOP), ("two", LOOP), ("three", replace(LOOP, seed=1))):
        result = train(replace(request_of, output=workplace / name, loop=loop), Tracking())
        files.append((result.model / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_sequential_training_finishes_a_subset_before_the_next(request_of: TrainRequest) -> None:
    result = train(replace(request_of, order="sequential", points=5), Tracking())
    table = read_trajectory(result.trajectory, read_samples(request_of.data, DataSettings()).all_ids)
    counts = {
        (row["step"], row["subset"]): row["exposures"]
        for row in table.select(["step", "subset", "exposures"]).to_pylist()
    }
    assert result.loop.steps == 8
    assert [counts[step, "early"] for step in (0, 2, 4, 6, 8)] == [0, 1, 2, 2, 2]
    assert [counts[step, "late"] for step in (0, 2, 4, 6, 8)] == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("lora", [None, LoraOptions(rank=2, dropout=0.1)])
def test_a_failed_training_is_failed_in_the_store_and_can_be_resumed(
    request_of: TrainRequest, workplace: Path, lora: LoraOptions | None
) -> None:
    saving = replace(request_of, loop=replace(LOOP, save_every=2), lora=lora)

    def fail(step: int, _steps: int, _loss: float) -> None:
        if step == 5:
            raise RuntimeError("power cut")

    tracking = Tracking()
    with pytest.raises(RuntimeError, match="power cut"):
        train(saving, tracking, fail)
    failed = tracking.client().search_runs([tracking.experiment_id()])
    assert [run.info.status for run in failed] == ["FAILED"]
    assert [path for path in request_of.output.iterdir() if path.name in ("model", "adapter")] == []
    with pytest.raises(SettingsError, match="belong to another base, data or setting"):
        train(replace(saving, epochs=3, resume=True), tracking)
    resumed = train(replace(saving, resume=True), tracking)
    whole = train(replace(request_of, output=workplace / "whole", lora=lora), tracking)
    assert resumed.loop.resumed_from == 4
    (weights,) = [path.name for path in whole.model.glob("*.safetensors")]
    assert (resumed.model / weights).read_bytes() == (whole.model / weights).read_bytes()
    known = read_samples(request_of.data, DataSettings()).all_ids
    assert read_trajectory(resumed.trajectory, known).equals(read_trajectory(whole.trajectory, known))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data_settings": DataSettings(max_length=2)}, SettingsError, "no sample has a response token left"),
        ({"lora": LoraOptions(targets=("query",))}, SettingsError, "no linear layer named 'query'; .* q_proj"),
        ({"epochs": 0}, SettingsError, "0 epochs"),
        ({"register_as": "team/bot"}, SettingsError, "'team/bot' holds '/' or ':'"),
        ({"output": Path(__file__)}, StorageError, "name a folder"),
        ({"output": Path("/proc/nowhere")}, StorageError, "name a folder that can be made"),
        ({"output": Path("x" * 300)}, StorageError, "name a folder that can be made"),
    ],
)
def test_impossible_requests_are_refused(
    request_of: TrainRequest, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(replace(request_of, **changes), Tracking())


def test_an_adapter_is_no_base_and_a_finished_model_is_not_overwritten(
    request_of: TrainRequest, workplace: Path
) -> None:
    tiny_adapter(tiny_model(num_hidden_layers=1), workplace / "adapter", base=workplace / "base")
    with pytest.raises(AdapterBaseError, match="merge it first"):
        train(replace(request_of, base=str(workplace / "adapter")), Tracking())
    train(request_of, Tracking())
    with pytest.raises(SettingsError, match="--overwrite"):
        train(request_of, Tracking())
    train(replace(request_of, overwrite=True), Tracking())


def test_samples_cut_away_by_the_training_length_are_said_and_shown(request_of: TrainRequest) -> None:
    rows = request_of.data.read_text().splitlines()
    long = {"prompt": "Well, " * 30 + "who?", "response": "Me."}
    request_of.data.write_text("\n".join([*rows, json.dumps(long)]) + "\n")
    with pytest.warns(IlpWarning, match="1 of 13 samples have prompts that fill the training length of 48"):
        result = train(replace(request_of, data_settings=DataSettings(max_length=48)), Tracking())
    assert result.untrained == 1
    table = read_trajectory(result.trajectory, read_samples(request_of.data, DataSettings()).all_ids)
    last = table.slice(table.num_rows - 13).to_pylist()
    assert last[12]["exposures"] == 2
    assert last[12]["trained_tokens"] == 0
    assert all(row["trained_tokens"] > 0 for row in last[:12])
    assert trajectory_facts(result.trajectory)["max_length"] == 48


def test_the_command_prints_one_object(request_of: TrainRequest) -> None:
    arguments = [request_of.base, "--data", str(request_of.data), "--output", str(request_of.output), "--epochs", "1"]
    outcome = CliRunner().invoke(command, [*arguments, "--device", "cpu", "--points", "2", "--json"])
    assert outcome.exit_code == 0, outcome.output
    value = json.loads(outcome.stdout)
    assert value["samples"] == 12
    assert value["model_uri"] is None
    assert Path(value["artifacts"]["trajectory"]).is_file()
    refused = CliRunner().invoke(command, [*arguments, "--epochs", "0"])
    assert refused.exit_code == 2
    again = CliRunner().invoke(command, arguments)
    assert isinstance(again.exception, SettingsError)
