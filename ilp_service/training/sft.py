"""Supervised fine-tuning of a base on a data file, recorded, logged and registered."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ilp_service import __version__
from ilp_service.checkpoints.reference import ModelReference, resolve
from ilp_service.checkpoints.threads import fitting_threads
from ilp_service.checkpoints.tokenizer import load_tokenizer
from ilp_service.checkpoints.weights import choose_device, load_weights, quiet
from ilp_service.errors import AdapterBaseError, IlpWarning, SettingsError
from ilp_service.samples.reading import DataSet, read_samples
from ilp_service.samples.rendering import Renderer, renderable
from ilp_service.samples.sample import Sample
from ilp_service.settings import DataSettings, ScoringSettings
from ilp_service.tables import atomic_path, storage_errors
from ilp_service.tracking.run import Run
from ilp_service.tracking.store import Tracking
from ilp_service.training.adapters import LoraOptions, add_lora
from ilp_service.training.loop import LoopOptions, LoopResult, fine_tune
from ilp_service.training.rows import TrainingRow, encode_rows
from ilp_service.training.schedule import in_blocks, shuffled
from ilp_service.training.trajectory import TrajectoryCallback
from ilp_service.training.trajectory_file import add_facts

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """A fine-tuning.

    Attributes:
        base: What is fine-tuned: a folder, a registry URI or a hub id that is in the local cache.
        data: The data file.
        output: Folder for the model, the trajectory and ``train.json``.
        register_as: Name of the registered model that gets a new version; ``None`` registers nothing.
        order: ``shuffled`` mixes all rows anew in every epoch; ``sequential`` trains one subset after the other.
        shuffle_inside: Within its subset a sequential row has no fixed place.
        epochs: Passes over the data; for sequential training over each subset before the next.
        loop: How the optimizer runs.
        lora: Train an adapter of this shape; ``None`` trains all weights.
        data_settings: How rows become samples and tokens, the training length among it.
        limit: Only the first so many samples.
        points: Measurements of the trajectory.
        max_measured: Samples measured for the trajectory, ``None`` for all.
        resume: Go on from the last checkpoint of the same training in ``output``.
        overwrite: Replace a model that is in ``output`` already.
        work_dir: Where downloads are kept.
    """

    base: str
    data: Path
    output: Path
    register_as: str | None = None
    order: Literal["shuffled", "sequential"] = "shuffled"
    shuffle_inside: bool = True
    epochs: int = 3
    loop: LoopOptions = field(default_factory=LoopOptions)
    lora: LoraOptions | None = None
    data_settings: DataSettings = field(default_factory=DataSettings)
    limit: int | None = None
    points: int = 20
    max_measured: int | None = 10_000
    resume: bool = False
    overwrite: bool = False
    work_dir: Path = Path("mlruns/ilp-work")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a fine-tuning left behind.

    Attributes:
        run_id: The MLflow run.
        model: Folder with the model, or with the adapter.
        trajectory: The training record.
        model_uri: ``models:/name/version`` when it was registered, else ``None``.
        samples: Samples trained on.
        untrained: Samples whose prompt alone fills the training length, so that nothing of them enters the loss.
        quarantined: Rows of the data that could not be used.
        loop: Steps, loss and time of the optimizer.
        measuring_seconds: Time spent on the trajectory, part of the loop's.
        artifacts: URIs of what was logged, by name.
    """

    run_id: str
    model: Path
    trajectory: Path
    model_uri: str | None
    samples: int
    untrained: int
    quarantined: int
    loop: LoopResult
    measuring_seconds: float
    artifacts: dict[str, str]

    def public(self) -> dict[str, object]:
        """The one JSON object that ``ilp train --json`` prints."""
        return {
            "run_id": self.run_id,
            "model": str(self.model),
            "model_uri": self.model_uri,
            "trajectory": str(self.trajectory),
            "samples": self.samples,
            "untrained": self.untrained,
            "quarantined": self.quarantined,
            "steps": self.loop.steps,
            "loss": self.loop.loss,
            "seconds": round(self.loop.seconds, 2),
            "measuring_seconds": round(self.measuring_seconds, 2),
            "resumed_from": self.loop.resumed_from,
            "artifacts": self.artifacts,
        }


def train(request: TrainRequest, tracking: Tracking, progress: Progress | None = None) -> TrainResult:
    """Fine-tune, with the loss on the responses alone and every sample's loss recorded on the way.

    Args:
        request: What to do.
        tracking: The store that the run and the model version go to.
        progress: Called after every optimizer step with the step, the number of steps and the last logged loss.

    Raises:
        IlpError: Anything that a user can mend; see :mod:`ilp_service.errors`.
    """
    final = request.output / ("model" if request.lora is None else "adapter")
    with storage_errors(final):
        there = final.exists()
    if there and not request.overwrite:
        raise SettingsError(f"{final} is there already; choose another --output, or replace it with --overwrite.")
    if request.register_as is not None and set(request.register_as) & set("/:"):
        raise SettingsError(f"The name {request.register_as!r} holds '/' or ':'; --register takes a name without them.")
    data = read_samples(request.data, request.data_settings, request.limit)
    reference = resolve(request.base, base=None, tracking=tracking, work_dir=request.work_dir)
    if reference.kind == "adapter":
        raise AdapterBaseError(f"{request.base} is an adapter; expected full weights to train on: merge it first.")
    tokenizer = load_tokenizer(reference.tokenizer_dir)
    renderer = Renderer(tokenizer, request.data_settings)
    renderer.check_round_trip(data.samples)
    samples, refused = renderable(data.samples, renderer)
    rows = encode_rows(samples, renderer, request.data_settings.max_length)
    untrained = sum(row.trained_tokens == 0 for row in rows)
    _check_rows(rows, untrained, request.data_settings)
    schedule = _schedule(request, samples)
    tags = {"ilp.kind": "train", "ilp.base_model": reference.resolved, "ilp.data": str(request.data.absolute())}
    with tracking.run(f"train {request.data.stem}", tags) as run:
        run.log_params(_params(request, reference))
        run.log_inputs(data=request.data, digest=data.digest, rows=data.rows)
        recorder = TrajectoryCallback(
            request.output / "trajectory.parquet",
            samples,
            points=request.points,
            tokenizer=tokenizer,
            settings=request.data_settings,
            max_samples=request.max_measured,
            passes=sum(map(len, schedule)) / len(rows),
        )
        checkpoints = request.output / "checkpoints"
        _check_plan(checkpoints, _plan_digest(request, reference, rows, schedule), resume=request.resume)
        model = _load(request, reference)
        with fitting_threads(reference.model_dir):
            result = fine_tune(
                model,
                rows,
                schedule,
                request.loop,
                output_dir=checkpoints,
                callbacks=[recorder],
                resume=request.resume,
                pad_token_id=int(tokenizer.pad_token_id or 0),
                progress=progress,
            )
        save_model(model, tokenizer, final)
        done = TrainResult(
            run_id=run.run_id,
            model=final,
            trajectory=recorder.path,
            model_uri=None,
            samples=len(rows),
            untrained=untrained,
            quarantined=data.quarantine.num_rows + len(refused),
            loop=result,
            measuring_seconds=recorder.seconds,
            artifacts={},
        )
        done = _publish(request, reference, data, done, tracking, run)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return done


def _check_rows(rows: Sequence[TrainingRow], untrained: int, settings: DataSettings) -> None:
    if untrained == len(rows):
        raise SettingsError(
            f"With data.max_length={settings.max_length} no sample has a response token left to train on; raise it."
        )
    if untrained:
        warnings.warn(
            f"{untrained} of {len(rows)} samples have prompts that fill the training length of {settings.max_length} "
            "tokens, so nothing of them is trained.",
            IlpWarning,
            stacklevel=3,
        )


def _schedule(request: TrainRequest, samples: Sequence[Sample]) -> list[list[int]]:
    if request.epochs < 1:
        raise SettingsError(f"{request.epochs} epochs were asked for; expected at least 1.")
    if request.order == "shuffled":
        return shuffled(len(samples), request.epochs, request.loop.seed)
    seed = request.loop.seed if request.shuffle_inside else None
    return in_blocks([sample.subset for sample in samples], request.epochs, seed)


def _load(request: TrainRequest, reference: ModelReference) -> PreTrainedModel | PeftModel:
    # Full training needs float32 weights to add small updates to; under an adapter the base only has to be read.
    dtype: Literal["auto", "float32"] = "float32" if request.lora is None else "auto"
    settings = ScoringSettings(device=request.loop.device, dtype=dtype)
    model = load_weights(reference.model_dir, settings, choose_device(settings))
    if request.lora is None:
        return model.requires_grad_(requires_grad=True)
    return add_lora(model, request.lora, base=str(reference.model_dir), seed=request.loop.seed)


def save_model(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write beside the final place and move there, so that half a model is never taken for a whole one."""
    partial = folder.with_name(f".{folder.name}.part")
    with storage_errors(folder), quiet():
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(str(partial))
        tokenizer.save_pretrained(str(partial))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def _plan_digest(
    request: TrainRequest, reference: ModelReference, rows: Sequence[TrainingRow], schedule: Sequence[Sequence[int]]
) -> str:
    lora = None if request.lora is None else asdict(request.lora)
    loop = {name: value for name, value in asdict(request.loop).items() if name not in ("save_every", "device")}
    plan = [reference.digest, [(row.sample_id, row.input_ids, row.prompt_tokens) for row in rows], schedule, loop, lora]
    return hashlib.sha256(json.dumps(plan).encode()).hexdigest()


def _check_plan(checkpoints: Path, digest: str, *, resume: bool) -> None:
    """A training goes on only from checkpoints of its own; a fresh start throws older ones away.

    Raises:
        SettingsError: The checkpoints belong to another base, data file or setting.
    """
    note = checkpoints / "plan.txt"
    if resume and note.is_file() and note.read_text() != digest:
        raise SettingsError(
            f"The checkpoints in {checkpoints} belong to another base, data or setting; repeat the command that made "
            "them with --resume, or start anew without it."
        )
    if not resume:
        shutil.rmtree(checkpoints, ignore_errors=True)
    with atomic_path(note) as temporary:
        temporary.write_text(digest)


def _params(request: TrainRequest, reference: ModelReference) -> dict[str, object]:
    params: dict[str, object] = {f"loop.{name}": value for name, value in asdict(request.loop).items()}
    params |= {f"data.{name}": value for name, value in request.data_settings.model_dump(mode="json").items()}
    if request.lora is not None:
        params |= {f"lora.{name}": value for name, value in asdict(request.lora).items()}
    return params | {
        "base": reference.resolved,
        "base_digest": reference.digest,
        "order": request.order,
        "shuffle_inside": request.shuffle_inside,
        "epochs": request.epochs,
        "limit": request.limit,
        "method": "full" if request.lora is None else "lora",
    }


def _publish(
    request: TrainRequest, reference: ModelReference, data: DataSet, done: TrainResult, tracking: Tracking, run: Run
) -> TrainResult:
    """Log the record and the figures, and register the model."""
    for entry in done.loop.history:
        values = {f"ilp.train.{name}": entry[name] for name in ("loss", "learning_rate") if name in entry}
        run.log_metrics(values, step=int(entry["step"]))
    run.log_metrics({"ilp.train.seconds": done.loop.seconds, "ilp.train.mean_loss": done.loop.loss})
    digest = resolve(str(done.model), base=None, tracking=tracking, work_dir=request.work_dir).digest
    add_facts(done.trajectory, {"model_digest": digest, "base_digest": reference.digest, "data_digest": data.digest})
    artifacts = {"trajectory": run.log_file(done.trajectory)}
    model_uri = None
    if request.register_as is not None:
        tags = {
            "ilp.data": str(request.data.absolute()),
            "ilp.data_digest": data.digest,
            "ilp.trajectory": artifacts["trajectory"],
        }
        version = run.register(request.register_as, folder=done.model, base=reference.resolved, tags=tags)
        model_uri = f"models:/{version.name}/{version.version}"
        artifacts["model"] = model_uri
    finished = TrainResult(**{**_fields(done), "model_uri": model_uri, "artifacts": artifacts})
    record = {"version": __version__, "request": _plain(request), "result": finished.public()}
    with atomic_path(request.output / "train.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2, default=str) + "\n")
    finished.artifacts["train.json"] = run.log_file(request.output / "train.json")
    return finished


def _fields(result: TrainResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in TrainResult.__dataclass_fields__}


def _plain(request: TrainRequest) -> dict[str, object]:
    values = {name: getattr(request, name) for name in TrainRequest.__dataclass_fields__}
    values["loop"] = asdict(request.loop)
    values["lora"] = None if request.lora is None else asdict(request.lora)
    values["data_settings"] = request.data_settings.model_dump(mode="json")
    return values
