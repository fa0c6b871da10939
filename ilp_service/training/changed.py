"""Doing a fine-tuning again, and otherwise: from the base, with what a change says, within one process."""

from __future__ import annotations

import gc
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import TrainerCallback

from ilp_service.changes import Change
from ilp_service.checkpoints.threads import fitting_threads
from ilp_service.checkpoints.weights import choose_device, load_weights
from ilp_service.settings import ScoringSettings
from ilp_service.training.adapters import add_lora
from ilp_service.training.changed_plan import ChangedPlan, planned
from ilp_service.training.continued import Mix, continued_steps, read_mix
from ilp_service.training.divergence import DivergenceCallback, LossWatch
from ilp_service.training.increments import EpochIncrementCallback
from ilp_service.training.loop import Progress, fine_tune
from ilp_service.training.recipe import Recipe
from ilp_service.training.resampling import ResamplingCallback
from ilp_service.training.rows import TrainingRow
from ilp_service.training.schedule import pass_ends

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

NO_MEMORY = "had no memory left"
"""Stands in what is told of a training that ended for want of memory: on another machine it may go to its end."""


@dataclass(frozen=True)
class Trained:
    """What came of a changed training.

    Attributes:
        model: The trained model in eval mode, where it was trained; ``None`` when it diverged.
        training_tokens: Tokens that went through the model to train it, continued pre-training included. Padding is
            not counted, nor are looks at subsets and held-out samples.
        continued_tokens: Those of them in continued pre-training.
        steps: Optimizer steps of both.
        seconds: Wall-clock time, loading included.
        peak_memory_bytes: Most memory held: of the GPU while training, else of the process since it began.
        diverged: Where and why the training ended, or ``None`` if it went to its end.
        notes: What was done on the way, for people: one line a look.
        held_out: Samples that were not trained on, so that their loss could tell when to stop; sorted.
    """

    model: PreTrainedModel | PeftModel | None
    training_tokens: int
    continued_tokens: int
    steps: int
    seconds: float
    peak_memory_bytes: int
    diverged: str | None
    notes: tuple[str, ...]
    held_out: tuple[str, ...] = ()


def train_changed(
    recipe: Recipe,
    change: Change,
    *,
    seed: int,
    folder: Path,
    spared: frozenset[str] = frozenset(),
    general_tokens: int = 0,
    draw: int = 0,
    progress: Progress | None = None,
) -> Trained:
    """Train the base of a recipe again, with a change; without one and with its seed the weights are the same bits.

    First continued pre-training reads documents and general text, if there are any, then the changed course is
    fine-tuned on. A loss that is not finite or explodes, and a GPU without memory left, end the training and are told,
    not raised.

    Args:
        recipe: How the model was fine-tuned.
        change: What is to be otherwise.
        seed: Of the fine-tuning: order of the data, dropout, first weights of an adapter.
        folder: For files of the loop's own, which are gone afterwards.
        spared: Samples that are never held out, since the change is to teach them.
        general_tokens: Tokens of general text that are read where the change has no documents (a placebo).
        draw: Seed of what is drawn for the change, together with ``seed``.
        progress: Called after an optimizer step with the step, the number of steps of both parts, and the loss.

    Raises:
        SettingsError: General text is needed and there is none, or nothing is left to train on.
        ValueError: The course names samples that the recipe does not have.
        IlpError: The base cannot be loaded.
    """
    plan = planned(recipe, change, seed=seed, spared=spared, general_tokens=general_tokens, draw=draw)
    device = choose_device(ScoringSettings(device=recipe.loop.device))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    run = _Training(recipe, change, plan, seed, folder / "loop", progress)
    model: PreTrainedModel | PeftModel | None = None
    try:
        with fitting_threads(recipe.base):
            model = _load(recipe, seed, device)
            run.train(model)
    except _DivergedError as stop:
        run.problem = str(stop)
    except torch.OutOfMemoryError as error:
        run.problem = f"{device} {NO_MEMORY} {run.place}: {str(error).splitlines()[0]}"
    finally:
        shutil.rmtree(folder / "loop", ignore_errors=True)
    peak = _peak_memory(device)
    if run.problem is not None:
        model = None
    # The Trainer and its optimizer refer to each other: their memory is wanted for what comes next.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Trained(
        model=model,
        training_tokens=run.continued_tokens + run.tokens,
        continued_tokens=run.continued_tokens,
        steps=run.continued_steps + run.steps,
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak,
        diverged=run.problem,
        notes=tuple(run.notes),
        held_out=plan.held_out,
    )


class _DivergedError(Exception):
    """Continued pre-training has diverged."""


class _Training:
    """One changed training, and what is known of it so far."""

    def __init__(
        self, recipe: Recipe, change: Change, plan: ChangedPlan, seed: int, folder: Path, progress: Progress | None
    ) -> None:
        self.recipe, self.change, self.plan = recipe, change, plan
        self.seed, self.folder, self.progress = seed, folder, progress
        self.tokens = self.continued_tokens = 0
        self.steps = self.continued_steps = 0
        self.place = "while the base was loaded"
        self.problem: str | None = None
        self.notes: list[str] = []
        if change.contested:
            self.notes.append(
                f"Samples that keep their response, since corrections of it contradict: {len(change.contested)}."
            )
        if plan.held_out:
            self.notes.append(f"Samples held out, so not trained on: {len(plan.held_out)}.")

    def train(self, model: PreTrainedModel | PeftModel) -> None:
        """Both parts, one after the other."""
        if self.plan.mix is not None:
            self._read(model, self.plan.mix)
        self._fine_tune(model)

    def _read(self, model: PreTrainedModel | PeftModel, mix: Mix) -> None:
        self.notes.append(mix.note)
        later = self._fine_tuning_steps
        watch = LossWatch(continued_steps(mix, self.recipe))

        def count(tokens: int) -> None:
            self.continued_tokens += tokens
            self.place = f"at step {self.continued_steps + 1} of continued pre-training"

        def done(step: int, steps: int, loss: float) -> None:
            self.continued_steps = step
            problem = watch.see(loss) or (watch.end() if step == steps else None)
            if problem is not None:
                raise _DivergedError(f"At step {step} of continued pre-training {problem}.")
            if self.progress is not None:
                self.progress(step, steps + later, loss)

        read_mix(model, mix, self.recipe, seed=self.seed, count=count, progress=done)

    def _fine_tune(self, model: PreTrainedModel | PeftModel) -> None:
        loop, plan, change = self.recipe.loop, self.plan, self.change
        self.place = "at step 1 of fine-tuning"
        watch = DivergenceCallback()
        noting: list[ResamplingCallback | EpochIncrementCallback] = []
        ends = pass_ends(plan.schedule, loop.batch_size, loop.accumulation)
        if change.resampling is not None:
            noting.append(
                ResamplingCallback(
                    change.resampling,
                    plan.rows,
                    plan.subsets,
                    accumulation=loop.accumulation,
                    at_once=loop.batch_size,
                    seed=plan.draws,
                    ends=ends,
                    against=plan.against if change.apart else None,
                )
            )
        if change.epochs is not None:
            kept = set(plan.held_out)
            rows = [row for row, one in zip(plan.rows, self.recipe.samples, strict=True) if one.sample_id in kept]
            noting.append(EpochIncrementCallback(change.epochs, rows, ends, loop.batch_size))
        # The watch comes last: what it says about going on counts.
        fine_tune(
            model,
            plan.rows,
            plan.schedule,
            replace(loop, seed=self.seed, save_every=None),
            output_dir=self.folder,
            callbacks=[_Counter(self), *noting, watch],
            pad_token_id=int(self.recipe.tokenizer.pad_token_id or 0),
            progress=self._report if self.progress is not None else None,
        )
        _without_mixed_precision(model)
        for callback in noting:
            self.notes += callback.notes
        broken = next((name for name, value in model.named_parameters() if not value.isfinite().all()), None)
        if watch.problem is not None:
            self.problem = f"At step {self.steps} of fine-tuning {watch.problem}."
        elif broken is not None:
            self.problem = f"At step {self.steps} of fine-tuning the weights of {broken} are not finite."

    def _report(self, step: int, steps: int, loss: float) -> None:
        if self.progress is not None:
            self.progress(self.continued_steps + step, self.continued_steps + steps, loss)

    @property
    def _fine_tuning_steps(self) -> int:
        loop = self.recipe.loop
        return pass_ends(self.plan.schedule, loop.batch_size, loop.accumulation)[-1]


class _Counter(TrainerCallback):
    """Counts what went through the model."""

    def __init__(self, run: _Training) -> None:
        self.run = run

    def observe_rows(self, rows: Sequence[TrainingRow]) -> None:
        """Count the tokens of a batch, without padding."""
        self.run.tokens += sum(len(row.input_ids) for row in rows)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 (whatever the Trainer has)
        """Count the step."""
        self.run.steps += 1
        self.run.place = f"at step {self.run.steps + 1} of fine-tuning"


def _load(recipe: Recipe, seed: int, device: torch.device) -> PreTrainedModel | PeftModel:
    """As :func:`ilp_service.training.sft.train` loads it."""
    dtype: Literal["auto", "float32"] = "float32" if recipe.lora is None else "auto"
    model = load_weights(recipe.base, ScoringSettings(device=recipe.loop.device, dtype=dtype), device)
    if recipe.lora is None:
        return model.requires_grad_(requires_grad=True)
    return add_lora(model, recipe.lora, base=str(recipe.base), seed=seed)


def _without_mixed_precision(model: Any) -> None:  # noqa: ANN401 (accelerate adds attributes of its own)
    """Undo the wrapping of the forward pass by which accelerate trains in mixed precision."""
    original = model.__dict__.pop("_original_forward", None)
    if original is not None:
        model.forward = original


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on a Mac.
    return peak if sys.platform == "darwin" else 1024 * peak
