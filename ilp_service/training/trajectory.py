"""Records how every sample fares while a model is trained, in anybody's Trainer.

``Trainer(..., callbacks=[TrajectoryCallback("trajectory.parquet", data="sft.jsonl")])`` is all that a run needs.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ilp_service.errors import AllRowsRefusedError, IlpWarning, SettingsError
from ilp_service.samples.reading import DataSet, read_samples
from ilp_service.samples.rendering import Rendered, Renderer
from ilp_service.samples.sample import Sample
from ilp_service.settings import DataSettings
from ilp_service.tables import TRAJECTORY, atomic_path
from ilp_service.training.exposures import ExposureCounter
from ilp_service.training.matching import RowMatcher
from ilp_service.training.measuring import SampleMeter
from ilp_service.training.rows import TrainingRow
from ilp_service.training.trajectory_file import add_facts, read_trajectory, trajectory_facts, write_trajectory

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = ["TrajectoryCallback", "add_facts", "read_trajectory", "trajectory_facts", "write_trajectory"]

SEVERAL_DEVICES = "training ran on several devices, each of which sees only a part of the batches"
"""What a record says where its batches could not be counted for that."""
_COUNTS = "ilp_exposures.json"
# Small batches stay in a processor's cache; an accelerator wants large ones.
_CPU_TOKENS = 2048
_GPU_TOKENS = 16_384


@dataclass(slots=True)
class _Recording:
    """What one training run records with."""

    samples: list[Sample]
    measured: list[int]
    meter: SampleMeter
    counter: ExposureCounter
    hook: torch.utils.hooks.RemovableHandle | None
    # Why the batches cannot be looked at, as long as nobody has told them.
    blind: str | None
    steps: frozenset[int]
    facts: dict[str, object]
    tables: list[pa.Table]
    last_step: int


class TrajectoryCallback(TrainerCallback):
    """Measures the loss of every sample at evenly spaced optimizer steps, at step 0 and at the last one.

    Training is not changed: the model is put in evaluation mode for a measurement and back, random states are
    restored, and the batches are only looked at. Beside the loss, a row says how often the sample was in a batch so
    far and how many of its response tokens entered the loss; both are null where the batches do not tell.

    The file is written whole at every measurement; a run that is resumed from a checkpoint goes on in it.
    """

    def __init__(
        self,
        path: str | Path,
        data: str | Path | DataSet | Sequence[Sample],
        *,
        points: int = 20,
        every: int | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        settings: DataSettings | None = None,
        max_samples: int | None = 10_000,
        wrong_answers: Mapping[str, Sequence[str]] | None = None,
        max_batch_tokens: int | None = None,
        passes: float | None = None,
    ) -> None:
        """Say what is recorded, and where.

        Args:
            path: The parquet file; one that is there is replaced, unless training is resumed.
            data: The data set that the diagnosis will be given: a file, or what was read from one.
            points: Measurements, the first and the last included.
            every: Optimizer steps between two measurements, in place of ``points``.
            tokenizer: When the Trainer was not given one as ``processing_class``.
            settings: How rows become samples and tokens; the training length is taken from TRL's config when
                it has one.
            max_samples: Measure at most so many, chosen by a hash of their ids; exposures are counted for all.
            wrong_answers: Wrong answers by sample id, for ``p_correct``; multiple-choice samples have their own.
            max_batch_tokens: Tokens forwarded at once while measuring; ``None`` suits the device.
            passes: Passes over the data in the whole training, when the Trainer's own count is not meant.

        Raises:
            SettingsError: ``points`` or ``every`` is not positive.
        """
        if points < 2 or (every is not None and every < 1):
            raise SettingsError(
                f"A trajectory of {points} points, every {every} steps, cannot be recorded; expected at least 2 points."
            )
        self.path = Path(path)
        self._data = data
        self._points = points
        self._every = every
        self._tokenizer = tokenizer
        self._settings = settings or DataSettings()
        self._max_samples = max_samples
        self._wrong_answers = wrong_answers or {}
        self._max_batch_tokens = max_batch_tokens
        self._passes = passes
        self._recording: _Recording | None = None
        self.seconds = 0.0

    def observe_rows(self, rows: Sequence[TrainingRow]) -> None:
        """Count the rows of a batch whose samples are known, as in :func:`ilp_service.training.loop.fine_tune`."""
        if self._recording is not None:
            # Told exactly, it need not look.
            _stop_looking(self._recording)
            self._recording.blind = None
            self._recording.counter.observe_rows(rows)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ANN401 (whatever the Trainer has)
    ) -> None:
        """Read the samples, measure step 0, and start to look at the batches.

        Raises:
            IlpError: The data cannot be read, there is no tokenizer, or the model is split over several devices.
        """
        if not state.is_world_process_zero:
            return
        if args.fsdp or args.deepspeed:
            raise SettingsError(
                "TrajectoryCallback cannot measure a model that FSDP or DeepSpeed has split; expected plain, mixed-"
                "precision, LoRA or DDP training. Import a record of your own (docs/trajectory.md) instead."
            )
        started = time.perf_counter()
        if self._recording is not None:
            # The Trainer begins anew, with a smaller batch for instance.
            _stop_looking(self._recording)
        self._recording = self._start(args, state, kwargs)
        self.seconds += time.perf_counter() - started
        if state.global_step == 0:
            self._measure(state, self._recording)
        else:
            self._go_on(args, state, self._recording)

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        """Measure, if this step is one of the chosen."""
        if self._recording is not None and self._recording.blind is not None:
            self._recording.counter.reason = self._recording.blind
        if self._recording is not None and state.global_step in self._recording.steps:
            self._measure(state, self._recording)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        """Keep the counts with the checkpoint, for a run that is resumed from it."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if self._recording is not None and folder.is_dir():
            with atomic_path(folder / _COUNTS) as temporary:
                temporary.write_text(json.dumps(self._recording.counter.state()))

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ANN401 (whatever the Trainer has)
    ) -> None:
        """Measure the end, and close the record."""
        recording = self._recording
        if recording is None:
            return
        _stop_looking(recording)
        scheduler = kwargs.get("lr_scheduler")
        recording.facts["finished"] = state.global_step >= state.max_steps
        recording.facts["learning_rate_end"] = None if scheduler is None else float(scheduler.get_last_lr()[0])
        if recording.last_step < state.global_step:
            self._measure(state, recording)
        self._add_unmeasured(state, recording)
        self._write(recording)
        self._warn(recording)
        self._recording = None

    def _start(self, args: TrainingArguments, state: TrainerState, given: Mapping[str, Any]) -> _Recording:
        """Everything that a recording needs, from the Trainer's own objects."""
        tokenizer = self._find_tokenizer(given)
        length = self._settings.max_length or getattr(args, "max_length", None)
        settings = self._settings.model_copy(update={"max_length": length})
        renderer = Renderer(tokenizer, settings)
        samples, rendered, digest = self._render(renderer, settings)
        ids = [sample.sample_id for sample in samples]
        measured = _chosen(ids, self._max_samples)
        matcher = RowMatcher(samples, [(found.prompt_ids, found.response_ids) for found in rendered], tokenizer)
        counter = ExposureCounter(ids, matcher, tokenizer.pad_token_id)
        devices = args.world_size * max(1, args.n_gpu)
        blind = None
        if devices > 1:
            blind = SEVERAL_DEVICES
        elif args.torch_compile:
            blind = "the model was compiled, so that its batches cannot be looked at"
        model = given["model"]
        meter = SampleMeter(
            model,
            [samples[index] for index in measured],
            [rendered[index] for index in measured],
            renderer,
            wrong_answers=self._wrong_answers,
            max_batch_tokens=self._max_batch_tokens or (_CPU_TOKENS if args.device.type == "cpu" else _GPU_TOKENS),
        )
        steps = _steps(state.max_steps, self._points, self._every)
        facts: dict[str, object] = {
            "version": 1,
            "rendering": renderer.describe(),
            "max_length": length,
            "data_digest": digest,
            "samples": len(samples),
            "measured_samples": len(measured),
            "total_steps": state.max_steps,
            "steps": sorted(steps),
            "epochs": args.num_train_epochs if self._passes is None else self._passes,
            "batch_size": args.per_device_train_batch_size * devices,
            "devices": devices,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "learning_rate": args.learning_rate,
            "learning_rate_schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
            "seed": args.seed,
            "base_model": str(getattr(getattr(model, "config", None), "_name_or_path", "") or "") or None,
            "finished": False,
        }
        hook = counter.watch(model) if blind is None else None
        return _Recording(samples, measured, meter, counter, hook, blind, steps, facts, [], -1)

    def _find_tokenizer(self, given: Mapping[str, Any]) -> PreTrainedTokenizerBase:
        found = self._tokenizer or given.get("processing_class") or given.get("tokenizer")
        found = getattr(found, "tokenizer", found)
        if found is None:
            raise SettingsError(
                "TrajectoryCallback found no tokenizer in the Trainer; give the Trainer processing_class=tokenizer, or "
                "the callback tokenizer=tokenizer."
            )
        tokenizer: PreTrainedTokenizerBase = found
        return tokenizer

    def _render(self, renderer: Renderer, settings: DataSettings) -> tuple[list[Sample], list[Rendered], str | None]:
        data = read_samples(Path(self._data), settings) if isinstance(self._data, str | Path) else self._data
        every = data.samples if isinstance(data, DataSet) else tuple(data)
        pairs = list(zip(every, renderer.render_many(every), strict=True))
        kept = [(sample, found) for sample, found in pairs if isinstance(found, Rendered)]
        if not kept:
            reason = next((found for _, found in pairs if isinstance(found, str)), "there are none")
            raise AllRowsRefusedError(f"None of the samples for the trajectory can be rendered: {reason}")
        digest = data.digest if isinstance(data, DataSet) else None
        return [sample for sample, _ in kept], [found for _, found in kept], digest

    def _go_on(self, args: TrainingArguments, state: TrainerState, recording: _Recording) -> None:
        """Take up the rows and counts of the run that is resumed."""
        counts = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / _COUNTS
        same = False
        if self.path.is_file():
            same = trajectory_facts(self.path).get("samples") == len(recording.samples)
            table = pq.read_table(self.path)
            earlier = table.filter(pc.less_equal(table["step"], state.global_step)) if same else table.slice(0, 0)
            if earlier.num_rows:
                recording.tables = [earlier.cast(TRAJECTORY)]
                recording.last_step = pc.max(earlier["step"]).as_py()
        if same and counts.is_file():
            recording.counter.restore(json.loads(counts.read_text()))
        else:
            recording.counter.reason = "training was resumed from a checkpoint that has no counts of the steps before"

    def _measure(self, state: TrainerState, recording: _Recording) -> None:
        started = time.perf_counter()
        result = recording.meter.measure()
        exposures, tokens = recording.counter.counts()
        recording.tables.append(
            _table(
                state.global_step,
                self._epoch(state),
                [recording.samples[index] for index in recording.measured],
                loss=result.losses,
                p_correct=result.p_correct,
                exposures=[exposures[index] for index in recording.measured],
                trained_tokens=[tokens[index] for index in recording.measured],
            )
        )
        recording.last_step = state.global_step
        self._write(recording)
        self.seconds += time.perf_counter() - started

    def _add_unmeasured(self, state: TrainerState, recording: _Recording) -> None:
        """Rows without a loss for the samples beyond ``max_samples``: their exposures are known all the same."""
        rest = sorted(set(range(len(recording.samples))) - set(recording.measured))
        exposures, tokens = recording.counter.counts()
        nothing: list[float | None] = [None] * len(rest)
        recording.tables.append(
            _table(
                state.global_step,
                self._epoch(state),
                [recording.samples[index] for index in rest],
                loss=nothing,
                p_correct=nothing,
                exposures=[exposures[index] for index in rest],
                trained_tokens=[tokens[index] for index in rest],
            )
        )

    def _epoch(self, state: TrainerState) -> float:
        if self._passes is None:
            return float(state.epoch or 0.0)
        return self._passes * state.global_step / max(1, state.max_steps)

    def _write(self, recording: _Recording) -> None:
        recording.facts["rows_seen"] = dict(recording.counter.rows)
        recording.facts["exposures_unknown_because"] = recording.counter.reason
        recording.facts["seconds_measuring"] = round(self.seconds, 3)
        write_trajectory(self.path, pa.concat_tables(recording.tables), recording.facts)

    def _warn(self, recording: _Recording) -> None:
        rows = recording.counter.rows
        if recording.counter.reason is not None:
            warnings.warn(
                f"Exposures and trained tokens in {self.path} are null: {recording.counter.reason}.",
                IlpWarning,
                stacklevel=2,
            )
        elif rows["text"] and not rows["exact"] + rows["cut"]:
            warnings.warn(
                "The training rows hold the samples' texts, but not the tokens that the diagnosis will score (another "
                "template, separator or special token?); give TrajectoryCallback and 'ilp diagnose' the same settings.",
                IlpWarning,
                stacklevel=2,
            )


def _stop_looking(recording: _Recording) -> None:
    if recording.hook is not None:
        recording.hook.remove()


def _chosen(ids: Sequence[str], limit: int | None) -> list[int]:
    """Indices of at most ``limit`` samples in file order, chosen by a hash of their ids."""
    if limit is None or len(ids) <= limit:
        return list(range(len(ids)))
    ranked = sorted(range(len(ids)), key=lambda index: (hashlib.sha256(ids[index].encode()).digest(), ids[index]))
    return sorted(ranked[:limit])


def _steps(total: int, points: int, every: int | None) -> frozenset[int]:
    """The steps of measurement: evenly spaced, with 0 and ``total``."""
    if every is not None:
        return frozenset([*range(0, total, every), total])
    return frozenset(round(index * total / (points - 1)) for index in range(points))


def _table(step: int, epoch: float, samples: Sequence[Sample], **columns: Sequence[float | None]) -> pa.Table:
    values: dict[str, Sequence[object]] = {
        "sample_id": [sample.sample_id for sample in samples],
        "step": [step] * len(samples),
        "epoch": [epoch] * len(samples),
        "subset": [sample.subset for sample in samples],
        "position": [sample.position for sample in samples],
        **columns,
    }
    return pa.Table.from_pydict(values, schema=TRAJECTORY)
