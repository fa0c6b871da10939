"""Fine-tuning on a schedule of rows through transformers' Trainer, with everything switched off that costs time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ilp_service.training.rows import ResponseCollator, TrainingRow
from ilp_service.training.schedule import Schedule, micro_batches

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How the optimizer runs.

    Attributes:
        learning_rate: Peak learning rate of AdamW.
        decay: Course of the learning rate after the warm-up; 'linear' and 'cosine' end at zero.
        warmup: Share of the optimizer steps over which the learning rate rises.
        batch_size: Rows a forward pass.
        accumulation: Forward passes an optimizer step.
        weight_decay: AdamW's.
        max_grad_norm: Gradients are scaled down to this norm; 0 leaves them.
        seed: Seed of dropout and of everything else the Trainer draws.
        bf16: Forward and backward in bfloat16.
        freeze_embeddings: The input embeddings, and an output head that shares their weights, stay as they are.
        save_every: Optimizer steps between two checkpoints that a killed run is taken up from; ``None`` saves none.
        device: 'auto' or 'cpu'.
    """

    learning_rate: float = 1e-4
    decay: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.0
    batch_size: int = 32
    accumulation: int = 1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    bf16: bool = False
    freeze_embeddings: bool = False
    save_every: int | None = None
    device: Literal["auto", "cpu"] = "auto"


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What a fine-tuning did.

    Attributes:
        steps: Optimizer steps of the whole schedule, or until a callback stopped it.
        loss: Mean training loss of this call, nats per response token.
        history: Loss and learning rate over the steps, as the Trainer logged them.
        seconds: Wall-clock time of this call.
        resumed_from: Step of the checkpoint that was taken up, ``None`` for a fresh start.
    """

    steps: int
    loss: float
    history: tuple[dict[str, float], ...]
    seconds: float
    resumed_from: int | None


@runtime_checkable
class BatchListener(Protocol):
    """A callback that wants to know which rows every forward pass trains on."""

    def observe_rows(self, rows: Sequence[TrainingRow]) -> None:
        """Called before the forward pass of a training batch."""
        ...


@runtime_checkable
class LossListener(Protocol):
    """A callback that wants to know the loss of every forward pass."""

    def observe_loss(self, loss: float) -> None:
        """Called after each backward pass; those of an optimizer step add up to its loss, nats a response token."""
        ...


@runtime_checkable
class BatchPlanner(Protocol):
    """A callback that may change which rows are still to come."""

    def take_batches(self, batches: list[list[int]]) -> None:
        """Called before training with the batches that will be trained on, as row indices.

        The list is the one that training reads from: at the end of an optimizer step, those that were not yet
        trained on may be replaced in it. Their number stays.
        """
        ...


def fine_tune(
    model: PreTrainedModel | PeftModel,
    rows: Sequence[TrainingRow],
    schedule: Schedule,
    options: LoopOptions,
    *,
    output_dir: Path,
    callbacks: Sequence[TrainerCallback] = (),
    resume: bool = False,
    pad_token_id: int = 0,
    progress: Progress | None = None,
) -> LoopResult:
    """Train ``model`` in place on exactly the rows of ``schedule``, in exactly its order.

    Args:
        model: A causal language model or an adapter around one; left in eval mode.
        rows: The rows that the schedule's indices mean.
        schedule: Passes of row indices (:mod:`ilp_service.training.schedule`).
        options: How the optimizer runs.
        output_dir: Where checkpoints go, if any are saved.
        callbacks: Trainer callbacks; those that are a :class:`BatchListener`, a :class:`LossListener` or a
            :class:`BatchPlanner` are told more. A callback stops the training early by
            ``control.should_training_stop``.
        resume: Take up the last checkpoint in ``output_dir`` if there is one.
        pad_token_id: Fills short rows; never seen by the model's loss.
        progress: Called after an optimizer step with the step, the number of steps and the last logged loss.

    Raises:
        ValueError: The schedule is empty or names a row that does not exist.
    """
    batches = micro_batches(schedule, options.batch_size, options.accumulation)
    if not batches:
        raise ValueError("The training schedule is empty.")
    if max(map(max, batches)) >= len(rows) or min(map(min, batches)) < 0:
        raise ValueError(f"The training schedule names rows beyond the {len(rows)} that exist.")
    if options.freeze_embeddings:
        model.get_input_embeddings().weight.requires_grad = False
    started = time.perf_counter()
    last = _last_checkpoint(output_dir) if resume else None
    with torch.random.fork_rng():
        trainer = _ScheduleTrainer(
            model,
            rows,
            batches,
            ResponseCollator(pad_token_id),
            _arguments(options, output_dir, len(batches)),
            callbacks,
        )
        if progress is not None:
            trainer.add_callback(_Progress(progress))
        outcome = trainer.train(resume_from_checkpoint=last)
    model.eval()
    return LoopResult(
        steps=outcome.global_step,
        loss=outcome.training_loss,
        history=tuple(entry for entry in trainer.state.log_history if "loss" in entry),
        seconds=time.perf_counter() - started,
        resumed_from=int(last.rpartition("-")[2]) if last else None,
    )


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end: the Trainer writes its state file last."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda found: int(found.name.rpartition("-")[2]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return str(path)
    return None


def _arguments(options: LoopOptions, output_dir: Path, batches: int) -> TrainingArguments:
    """Trainer settings without reports, progress bars, evaluation or saves that nobody asked for."""
    decay = "constant_with_warmup" if options.decay == "constant" and options.warmup > 0 else options.decay
    steps = -(-batches // options.accumulation)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=1,  # the whole schedule is one pass over its batches
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.learning_rate,
        lr_scheduler_type=decay,
        warmup_steps=round(options.warmup * steps),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        seed=options.seed,
        bf16=options.bf16,
        use_cpu=options.device == "cpu" or not torch.cuda.is_available(),
        optim="adamw_torch_fused",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="steps",
        logging_steps=max(1, steps // 100),
        save_strategy="no" if options.save_every is None else "steps",
        save_steps=options.save_every or steps,
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    # The Trainer would put as many rows on every GPU in sight, and there is no option against it.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


class _Rows(Dataset[tuple[int, TrainingRow]]):
    """The rows with their indices."""

    def __init__(self, rows: Sequence[TrainingRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, TrainingRow]:
        return index, self.rows[index]


class _ScheduleTrainer(Trainer):
    """A Trainer that is fed given batches and tells its callbacks which rows they hold."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        rows: Sequence[TrainingRow],
        batches: list[list[int]],
        collator: ResponseCollator,
        arguments: TrainingArguments,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        super().__init__(model=model, args=arguments, callbacks=list(callbacks))
        self._rows = rows
        self._batches = batches
        self._collate_rows = collator
        self._listeners = [callback for callback in callbacks if isinstance(callback, BatchListener)]
        self._loss_listeners = [callback for callback in callbacks if isinstance(callback, LossListener)]
        for callback in callbacks:
            if isinstance(callback, BatchPlanner):
                callback.take_batches(batches)
        for printer in (PrinterCallback, ProgressCallback):
            self.remove_callback(printer)

    def get_train_dataloader(self) -> DataLoader[tuple[int, TrainingRow]]:
        """The given batches; not through accelerate, which costs time and does nothing in one process.

        Without worker processes a batch is read from the list when its optimizer step begins, none ahead of that.
        """
        return DataLoader(_Rows(self._rows), batch_sampler=self._batches, collate_fn=self._collate)

    def _collate(self, items: Sequence[tuple[int, TrainingRow]]) -> dict[str, Any]:
        batch: dict[str, Any] = dict(self._collate_rows([row for _, row in items]))
        batch["row_numbers"] = [number for number, _ in items]
        return batch

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One forward and backward pass, announced to the listeners."""
        numbers = inputs.pop("row_numbers")
        for listener in self._listeners:
            listener.observe_rows([self._rows[number] for number in numbers])
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._loss_listeners:
            value = loss.item()
            for loss_listener in self._loss_listeners:
                loss_listener.observe_loss(value)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:  # noqa: ARG002
        """Not counted: walking over the parameters for every batch costs more than it tells."""
        return 0


class _Progress(TrainerCallback):
    """Passes the Trainer's progress on."""

    def __init__(self, report: Progress) -> None:
        self.report = report

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        """Report the step."""
        loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), float("nan"))
        self.report(state.global_step, state.max_steps, loss)
