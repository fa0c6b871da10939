from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ilp_service.training import loop
from ilp_service.training.loop import LoopOptions, fine_tune
from ilp_service.training.rows import ResponseCollator, TrainingRow
from ilp_service.training.schedule import micro_batches, shuffled
from tests.training.small import questions, read, same_weights, small_model, weights

OPTIONS = LoopOptions(learning_rate=1e-2, batch_size=4, device="cpu")


class Listener(TrainerCallback):
    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def observe_rows(self, rows: Sequence[TrainingRow]) -> None:
        self.batches.append([row.sample_id for row in rows])


class Crash(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, *args: object, **_kwargs: object) -> None:
        state = args[1]
        assert isinstance(state, TrainerState)
        if state.global_step == self.step:
            raise RuntimeError("crash")


def test_the_schedule_is_honoured_exactly(tmp_path: Path) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    schedule = [[3, 1, 1, 0, 7], [11, 2], [5, 5, 5, 5, 9]]
    listener, model = Listener(), small_model()
    seen: list[list[list[int]]] = []
    handle = model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    result = fine_tune(model, rows, schedule, OPTIONS, output_dir=tmp_path / "o", callbacks=[listener])
    handle.remove()
    assert list(chain.from_iterable(listener.batches)) == [rows[i].sample_id for i in chain.from_iterable(schedule)]
    padded = ResponseCollator(0)
    expected = [
        padded([rows[i] for i in batch])["input_ids"].tolist() for batch in micro_batches(schedule, OPTIONS.batch_size)
    ]
    assert seen == expected
    assert result.steps == 5
    assert len(result.history) == 5


def test_the_trainer_does_what_a_bare_loop_does_bit_for_bit(tmp_path: Path) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    schedule = shuffled(len(rows), 3, 0)
    trained = small_model()
    fine_tune(trained, rows, schedule, OPTIONS, output_dir=tmp_path / "o")
    bare = small_model().train()
    optimizer = torch.optim.AdamW(bare.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    batches = micro_batches(schedule, 4)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(batches))
    for batch in batches:
        bare(**ResponseCollator(0)([rows[index] for index in batch])).loss.backward()
        torch.nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
        optimizer.step()
        decay.step()
        optimizer.zero_grad()
    assert same_weights(weights(trained), weights(bare))


def test_accumulated_batches_weigh_tokens_as_one_large_batch(tmp_path: Path) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    models = []
    for options in (OPTIONS, replace(OPTIONS, batch_size=2, accumulation=2)):
        models.append(small_model())
        fine_tune(models[-1], rows, [list(range(11))], options, output_dir=tmp_path / "o")
    for left, right in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=2e-4, rtol=0)


def test_runs_repeat_and_leave_the_random_state_alone(tmp_path: Path) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        model = small_model(attention_dropout=0.3)
        fine_tune(model, rows, [list(range(12))] * 2, OPTIONS, output_dir=tmp_path / "o")
        assert torch.equal(before, torch.get_rng_state())
        results.append(weights(model))
    assert same_weights(*results)


def test_a_crashed_run_goes_on_from_its_checkpoint_to_the_same_weights(tmp_path: Path) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    schedule = shuffled(len(rows), 4, 0)
    options = replace(OPTIONS, save_every=5, decay="cosine", warmup=0.2)
    whole = small_model(attention_dropout=0.2)
    fine_tune(whole, rows, schedule, options, output_dir=tmp_path / "whole")
    with pytest.raises(RuntimeError, match="crash"):
        fine_tune(
            small_model(attention_dropout=0.2), rows, schedule, options, output_dir=tmp_path / "o", callbacks=[Crash(8)]
        )
    # A checkpoint that was being written when the run died.
    broken = tmp_path / "o" / "checkpoint-7"
    broken.mkdir()
    (broken / "trainer_state.json").write_text('{"global_step": 7, ')
    resumed = small_model(attention_dropout=0.2)
    result = fine_tune(resumed, rows, schedule, options, output_dir=tmp_path / "o", resume=True)
    assert result.resumed_from == 5
    assert same_weights(weights(whole), weights(resumed))


def test_frozen_embeddings_stay_as_they_are(tmp_path: Path) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    model = small_model()
    before = weights(model)
    fine_tune(model, rows, [list(range(12))], replace(OPTIONS, freeze_embeddings=True), output_dir=tmp_path / "o")
    after = weights(model)
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])


@pytest.mark.parametrize(("decay", "last"), [("linear", 1e-2 / 3), ("constant", 1e-2), ("cosine", 2.5e-3)])
def test_the_learning_rate_follows_its_schedule(
    tmp_path: Path, decay: Literal["linear", "constant", "cosine"], last: float
) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    result = fine_tune(small_model(), rows, [list(range(12))], replace(OPTIONS, decay=decay), output_dir=tmp_path / "o")
    assert [entry["step"] for entry in result.history] == [1, 2, 3]
    assert result.history[0]["learning_rate"] == pytest.approx(1e-2)
    assert result.history[2]["learning_rate"] == pytest.approx(last)


@pytest.mark.parametrize(("schedule", "message"), [([], "empty"), ([[0, 99]], "beyond the 12"), ([[-1]], "beyond")])
def test_impossible_schedules_are_refused(tmp_path: Path, schedule: list[list[int]], message: str) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    with pytest.raises(ValueError, match=message):
        fine_tune(small_model(), rows, schedule, OPTIONS, output_dir=tmp_path / "o")


class TwoGpus(TrainingArguments):
    """As they are on a host with two GPUs."""

    @cached_property
    def _setup_devices(self) -> torch.device:
        self._n_gpu = 2
        self.distributed_state = None
        return torch.device("cpu")


def test_one_of_several_gpus_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TwoGpus(output_dir=str(tmp_path)).n_gpu == 2
    monkeypatch.setattr(loop, "TrainingArguments", TwoGpus)
    arguments = loop._arguments(OPTIONS, tmp_path, 3)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, OPTIONS.batch_size)


class Planner(TrainerCallback):
    """Replaces all that is to come by one row, and stops the training later."""

    def __init__(self, row: int, replace_at: int, stop_at: int) -> None:
        self.row, self.replace_at, self.stop_at = row, replace_at, stop_at
        self.batches: list[list[int]] = []
        self.losses: list[float] = []

    def take_batches(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def observe_loss(self, loss: float) -> None:
        self.losses.append(loss)

    def on_step_end(self, *args: object, **_kwargs: object) -> None:
        state, control = args[1], args[2]
        assert isinstance(state, TrainerState)
        assert isinstance(control, TrainerControl)
        if state.global_step == self.replace_at:
            self.batches[2 * self.replace_at :] = [[self.row]] * (len(self.batches) - 2 * self.replace_at)
        control.should_training_stop = control.should_training_stop or state.global_step == self.stop_at


def test_what_is_to_come_may_be_replaced_and_training_stopped(tmp_path: Path) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    options = replace(OPTIONS, batch_size=2, accumulation=2)
    planner, listener = Planner(7, replace_at=2, stop_at=5), Listener()
    result = fine_tune(
        small_model(), rows, [list(range(12))] * 3, options, output_dir=tmp_path / "o", callbacks=[planner, listener]
    )
    assert result.steps == 5
    ids = [row.sample_id for row in rows]
    # Not one batch was read ahead of the step that replaced the rest.
    assert listener.batches == [ids[0:2], ids[2:4], ids[4:6], ids[6:8], *[[ids[7]]] * 6]


def test_losses_of_accumulated_batches_add_up_to_that_of_the_step(tmp_path: Path) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    sums = []
    for options in (OPTIONS, replace(OPTIONS, batch_size=2, accumulation=2)):
        planner = Planner(0, replace_at=-1, stop_at=1)
        fine_tune(small_model(), rows, [list(range(12))], options, output_dir=tmp_path / "o", callbacks=[planner])
        sums.append(sum(planner.losses))
        assert len(planner.losses) == options.accumulation
    with torch.no_grad():
        expected = small_model()(**ResponseCollator(0)(rows[:4])).loss.item()
    assert sums == pytest.approx([expected, expected], abs=1e-5)
