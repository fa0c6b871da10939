"""The recorder changes nothing, and what it records is true."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ilp_service.errors import AllRowsRefusedError, IlpWarning, SettingsError
from ilp_service.samples.reading import read_samples
from ilp_service.settings import DataSettings
from ilp_service.training.loop import LoopOptions, fine_tune
from ilp_service.training.schedule import shuffled
from ilp_service.training.trajectory import TrajectoryCallback, read_trajectory, trajectory_facts
from tests.tiny import FAMILIES, tiny_adapter, tiny_model, tiny_tokenizer
from tests.training.small import questions, read, same_weights, small_model, weights, write_rows

TOKENIZER = tiny_tokenizer()
OPTIONS = LoopOptions(learning_rate=1e-2, batch_size=4, device="cpu")


def stock_trainer(folder: Path, data: Path, callbacks: Sequence[TrainerCallback], **arguments: object) -> Trainer:
    _, _, rows = read(data)
    values: dict[str, Any] = {
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 4,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        **arguments,
    }
    examples = [
        {
            "input_ids": list(row.input_ids),
            "labels": [-100] * row.prompt_tokens + list(row.input_ids[row.prompt_tokens :]),
        }
        for row in rows
    ]

    def collate(batch: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(example["input_ids"]) for example in batch)
        fill = {"input_ids": 0, "labels": -100}
        return {
            name: torch.tensor([example[name] + [fill[name]] * (width - len(example[name])) for example in batch])
            for name in fill
        }

    return Trainer(
        model=small_model(attention_dropout=0.3),
        args=TrainingArguments(output_dir=str(folder), **values),
        train_dataset=examples,
        data_collator=collate,
        processing_class=TOKENIZER,
        callbacks=list(callbacks),
    )


@pytest.mark.parametrize("arguments", [{}, {"bf16": True, "gradient_accumulation_steps": 2}])
def test_training_is_the_same_bit_for_bit_with_and_without_it(tmp_path: Path, arguments: dict[str, Any]) -> None:
    data = questions(tmp_path / "d.jsonl")
    runs = []
    for callbacks in ([], [TrajectoryCallback(tmp_path / "t.parquet", data, every=1)]):
        trainer = stock_trainer(tmp_path / "out", data, callbacks, **arguments)
        trainer.train()
        assert trainer.model is not None
        runs.append((weights(trainer.model), [entry.get("loss") for entry in trainer.state.log_history]))
    assert same_weights(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert len(trajectory_facts(tmp_path / "t.parquet")["steps"]) == trainer.state.max_steps + 1  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_equal_the_model_s_own(tmp_path: Path, family: str) -> None:
    data, _, rows = read(questions(tmp_path / "d.jsonl"))
    model, path = tiny_model(family), tmp_path / "t.parquet"
    before = [own_loss(model, row) for row in rows]
    recorder = TrajectoryCallback(path, data, points=2, tokenizer=TOKENIZER)
    fine_tune(model, rows, [list(range(12))], OPTIONS, output_dir=tmp_path / "o", callbacks=[recorder])
    table = read_trajectory(path, data.all_ids)
    assert table["step"].to_pylist() == [0] * 12 + [3] * 12
    expected = before + [own_loss(model, row) for row in rows]
    np.testing.assert_allclose(table["loss"].to_numpy(), expected, atol=1e-4)


def own_loss(model: torch.nn.Module, row: Any) -> float:  # noqa: ANN401
    ids = torch.tensor([row.input_ids])
    labels = ids.clone()
    labels[:, : row.prompt_tokens] = -100
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels).loss)


def test_an_adapter_is_measured_as_it_is_trained(tmp_path: Path) -> None:
    data, _, rows = read(questions(tmp_path / "d.jsonl"))
    model = tiny_adapter(tiny_model())
    model.train()
    path = tmp_path / "t.parquet"
    recorder = TrajectoryCallback(path, data.samples, points=2, tokenizer=TOKENIZER)
    fine_tune(model, rows, [list(range(12))] * 2, OPTIONS, output_dir=tmp_path / "o", callbacks=[recorder])
    table = read_trajectory(path, data.all_ids)
    np.testing.assert_allclose(table["loss"].to_numpy()[12:], [own_loss(model, row) for row in rows], atol=1e-4)


def test_the_record_says_where_when_and_how_often(tmp_path: Path) -> None:
    data, _, rows = read(questions(tmp_path / "d.jsonl"), max_length=64)
    path = tmp_path / "t.parquet"
    settings = DataSettings(max_length=64)
    recorder = TrajectoryCallback(path, data, every=2, tokenizer=TOKENIZER, settings=settings, passes=2)
    fine_tune(small_model(), rows, shuffled(12, 2, 0), OPTIONS, output_dir=tmp_path / "o", callbacks=[recorder])
    table = read_trajectory(path, data.all_ids)
    assert sorted(set(table["step"].to_pylist())) == [0, 2, 4, 6]
    assert table["epoch"].to_pylist()[::12] == pytest.approx([0, 2 / 3, 4 / 3, 2])
    assert table["subset"].to_pylist()[:12] == [sample.subset for sample in data.samples]
    assert table["position"].to_pylist()[:12] == list(range(12))
    assert sum(table["exposures"].to_pylist()[12:24]) == 8
    assert table["exposures"].to_pylist()[-12:] == [2] * 12
    assert table["trained_tokens"].to_pylist()[-12:] == [2 * row.trained_tokens for row in rows]
    facts = trajectory_facts(path)
    assert facts["max_length"] == 64
    assert facts["total_steps"] == 6
    assert facts["learning_rate_end"] == 0
    assert facts["learning_rate_schedule"] == "linear"
    assert facts["finished"] is True
    assert facts["data_digest"] == data.digest
    assert isinstance(facts["rendering"], dict)


def test_large_sets_are_measured_in_part_and_counted_whole(tmp_path: Path) -> None:
    data, _, rows = read(questions(tmp_path / "d.jsonl"))
    tables = []
    for samples in (data.samples, data.samples[::-1]):
        path = tmp_path / "t.parquet"
        recorder = TrajectoryCallback(path, samples, points=3, tokenizer=TOKENIZER, max_samples=5)
        fine_tune(small_model(), rows, [list(range(12))], OPTIONS, output_dir=tmp_path / "o", callbacks=[recorder])
        tables.append(read_trajectory(path, data.all_ids))
    measured = [{row["sample_id"] for row in table.to_pylist() if row["loss"] is not None} for table in tables]
    assert len(measured[0]) == 5
    assert measured[0] == measured[1]
    last = tables[0].filter(tables[0]["step"].to_numpy() == 3)
    assert set(last["sample_id"].to_pylist()) == data.all_ids
    assert last["exposures"].to_pylist() == [1] * 12


def test_wrong_answers_give_the_expected_pass_rate(tmp_path: Path) -> None:
    data, renderer, rows = read(questions(tmp_path / "d.jsonl"))
    first = data.samples[0]
    wrong = ["Rome it is.", "Oslo it is."]
    path = tmp_path / "t.parquet"
    recorder = TrajectoryCallback(
        path, data, points=2, tokenizer=TOKENIZER, wrong_answers={first.sample_id: [*wrong, first.response]}
    )
    model = small_model()
    sums = []
    for text in [first.response, *wrong]:
        found = renderer.render(first, text)
        row = replace(rows[0], input_ids=found.prompt_ids + found.response_ids, prompt_tokens=len(found.prompt_ids))
        sums.append(-own_loss(model, row) * len(found.response_ids))
    fine_tune(model, rows, [[0, 1]], OPTIONS, output_dir=tmp_path / "o", callbacks=[recorder])
    values = read_trajectory(path, data.all_ids)["p_correct"].to_pylist()
    assert values[0] == pytest.approx(np.exp(sums[0]) / np.exp(sums).sum(), abs=1e-4)
    assert set(values[1:12]) == {None}


def test_multiple_choice_rows_bring_their_own_wrong_answers(tmp_path: Path) -> None:
    lines = [{"prompt": f"Pick {n}.", "choices": ["red", "blue", "green"], "gold_index": n % 3} for n in range(6)]
    data, _, rows = read(write_rows(tmp_path / "d.jsonl", lines))
    path = tmp_path / "t.parquet"
    recorder = TrajectoryCallback(path, data, points=2, tokenizer=TOKENIZER)
    options = replace(OPTIONS, learning_rate=3e-2)
    fine_tune(small_model(), rows, [list(range(6))] * 30, options, output_dir=tmp_path / "o", callbacks=[recorder])
    values = read_trajectory(path, data.all_ids)["p_correct"].to_pylist()
    assert all(0 < value < 1 for value in values)
    assert np.mean(values[6:]) > np.mean(values[:6])


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from transformers import TrainerCallback
from ilp_service.training.trajectory import TrajectoryCallback
from tests.training.test_trajectory import stock_trainer

class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
recorder = TrajectoryCallback(folder / "t.parquet", folder / "d.jsonl", every=1)
stock_trainer(folder / "out", folder / "d.jsonl", [recorder, Kill()], save_strategy="steps", save_steps=3).train()
"""


def test_a_killed_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    data = questions(tmp_path / "d.jsonl")
    root = str(Path(__file__).parents[2])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), root], check=False, cwd=root, env=dict(os.environ), timeout=200
    )
    assert killed.returncode == -signal.SIGKILL
    path = tmp_path / "t.parquet"
    known = read_samples(data, DataSettings()).all_ids
    assert max(read_trajectory(path, known)["step"].to_pylist()) == 4
    assert trajectory_facts(path)["finished"] is False
    resumed = TrajectoryCallback(path, data, every=1)
    trainer = stock_trainer(tmp_path / "out", data, [resumed], save_strategy="steps", save_steps=3)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    whole = TrajectoryCallback(tmp_path / "whole.parquet", data, every=1)
    stock_trainer(tmp_path / "other", data, [whole]).train()
    assert pq.read_table(path).equals(pq.read_table(tmp_path / "whole.parquet"))


def test_a_run_resumed_without_counts_has_null_exposures(tmp_path: Path) -> None:
    data = questions(tmp_path / "d.jsonl")
    stock_trainer(tmp_path / "out", data, [], save_strategy="steps", save_steps=3).train()
    path = tmp_path / "t.parquet"
    trainer = stock_trainer(tmp_path / "out", data, [TrajectoryCallback(path, data, every=1)])
    with pytest.warns(IlpWarning, match="resumed from a checkpoint"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    table = pq.read_table(path)
    assert set(table["exposures"].to_pylist()) == {None}
    assert min(table["step"].to_pylist()) == 4


def test_a_run_that_stops_early_is_measured_at_its_end(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, *args: object, **_: object) -> None:
            _, state, control = args
            assert isinstance(state, TrainerState)
            assert isinstance(control, TrainerControl)
            control.should_training_stop = state.global_step == 2

    data = questions(tmp_path / "d.jsonl")
    path = tmp_path / "t.parquet"
    stock_trainer(tmp_path / "out", data, [TrajectoryCallback(path, data, points=2), Stop()]).train()
    assert sorted(set(pq.read_table(path)["step"].to_pylist())) == [0, 2]
    assert trajectory_facts(path)["finished"] is False


def test_what_cannot_be_recorded_is_said_before_training(tmp_path: Path) -> None:
    data = questions(tmp_path / "d.jsonl")
    with pytest.raises(SettingsError, match="at least 2 points"):
        TrajectoryCallback(tmp_path / "t.parquet", data, points=1)
    trainer = stock_trainer(tmp_path / "out", data, [TrajectoryCallback(tmp_path / "t.parquet", data)])
    trainer.callback_handler.processing_class = None
    with pytest.raises(SettingsError, match="processing_class=tokenizer"):
        trainer.train()
    trainer = stock_trainer(tmp_path / "out", data, [TrajectoryCallback(tmp_path / "t.parquet", [])])
    with pytest.raises(AllRowsRefusedError, match="can be rendered"):
        trainer.train()


class EightDevices(TrainingArguments):
    """Of a process that trains together with seven others."""

    @property
    def world_size(self) -> int:
        return 8


class OneOfEight(TrajectoryCallback):
    """Records with the arguments that it would have there; the training is none of the wiser."""

    def on_train_begin(self, args: TrainingArguments, *others: Any, **given: Any) -> None:  # noqa: ANN401
        theirs = copy(args)
        theirs.__class__ = EightDevices
        super().on_train_begin(theirs, *others, **given)


def test_rows_of_all_devices_are_told_and_exposures_are_not_guessed(tmp_path: Path) -> None:
    data, path = questions(tmp_path / "d.jsonl"), tmp_path / "t.parquet"
    with pytest.warns(IlpWarning, match="training ran on several devices"):
        stock_trainer(tmp_path / "out", data, [OneOfEight(path, data, points=2)], max_steps=2).train()
    facts = trajectory_facts(path)
    assert (facts["batch_size"], facts["devices"], facts["gradient_accumulation_steps"]) == (32, 8, 1)
    assert pq.read_table(path)["exposures"].to_pylist() == [0] * 12 + [None] * 12


def test_rows_that_are_told_count_on_several_devices_as_well(tmp_path: Path) -> None:
    data, _, rows = read(questions(tmp_path / "d.jsonl"))
    path = tmp_path / "t.parquet"
    recorder = OneOfEight(path, data, points=2, tokenizer=TOKENIZER)
    fine_tune(small_model(), rows, shuffled(12, 2, 0), OPTIONS, output_dir=tmp_path, callbacks=[recorder])
    assert trajectory_facts(path)["exposures_unknown_because"] is None
    assert pq.read_table(path)["exposures"].to_pylist() == [0] * 12 + [2] * 12
