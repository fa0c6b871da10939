"""The command ``ilp train``."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from ilp_service.errors import IlpWarning


@click.command()
@click.argument("base")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Training data: JSONL, JSON or parquet.")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="Folder for model, trajectory, train.json."
)
@click.option("--register", "register_as", metavar="NAME", help="Register the result as the next version of NAME.")
@click.option(
    "--order",
    type=click.Choice(["shuffled", "sequential"]),
    default="shuffled",
    show_default=True,
    help="All rows mixed in every epoch, or one subset after the other in file order.",
)
@click.option(
    "--shuffle-inside/--file-order",
    default=True,
    show_default=True,
    help="Order inside a subset when training is sequential.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Passes over the data; with --order sequential over each subset before the next.",
)
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=1e-4, show_default=True, help="Peak.")
@click.option(
    "--schedule",
    "decay",
    type=click.Choice(["linear", "cosine", "constant"]),
    default="linear",
    show_default=True,
    help="Course of the learning rate; linear and cosine end at zero.",
)
@click.option(
    "--warmup",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the steps over which the learning rate rises.",
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Rows a forward pass.")
@click.option(
    "--accumulation", type=click.IntRange(1), default=1, show_default=True, help="Forward passes an optimizer step."
)
@click.option(
    "--max-length", type=click.IntRange(2), help="Training length in tokens; longer rows are cut on the right."
)
@click.option("--weight-decay", type=click.FloatRange(0), default=0.0, show_default=True, help="AdamW's.")
@click.option(
    "--clip",
    "max_grad_norm",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Largest norm of the gradient; 0 leaves it.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order and of dropout.")
@click.option("--bf16", is_flag=True, help="Forward and backward in bfloat16.")
@click.option("--freeze-embeddings", is_flag=True, help="Leave the embeddings as they are.")
@click.option("--lora", is_flag=True, help="Train an adapter instead of all weights.")
@click.option("--lora-rank", type=click.IntRange(1), default=16, show_default=True, help="Rank of the adapter.")
@click.option(
    "--lora-alpha",
    type=click.FloatRange(0, min_open=True),
    default=32.0,
    show_default=True,
    help="Scale of the adapter, over its rank.",
)
@click.option(
    "--lora-dropout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Dropout on the adapter's input.",
)
@click.option(
    "--lora-targets",
    default="all-linear",
    show_default=True,
    metavar="NAMES",
    help="Layers that get an adapter, e.g. q_proj,v_proj.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A data setting, e.g. data.separator=' '; see 'ilp settings'.",
)
@click.option("--limit", type=click.IntRange(1), help="Only the first N samples.")
@click.option("--points", type=click.IntRange(2), default=20, show_default=True, help="Measurements of the trajectory.")
@click.option(
    "--max-measured", type=click.IntRange(1), default=10_000, show_default=True, help="Samples whose loss is followed."
)
@click.option("--save-every", type=click.IntRange(1), metavar="STEPS", help="Save checkpoints that --resume takes up.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --output.")
@click.option("--overwrite", is_flag=True, help="Replace the model that is in --output.")
@click.option("--device", type=click.Choice(["auto", "cpu"]), default="auto", show_default=True, help="Where to train.")
@click.option("--experiment", default="ilp", show_default=True, help="MLflow experiment.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
def train(
    base: str,
    data: Path,
    output: Path,
    register_as: str | None,
    order: Literal["shuffled", "sequential"],
    shuffle_inside: bool,
    epochs: int,
    lora: bool,
    lora_rank: int,
    lora_alpha: float,
    lora_dropout: float,
    lora_targets: str,
    max_length: int | None,
    overrides: tuple[str, ...],
    limit: int | None,
    points: int,
    max_measured: int,
    resume: bool,
    overwrite: bool,
    experiment: str,
    as_json: bool,
    **loop: Any,  # noqa: ANN401 - the options of LoopOptions
) -> None:
    """Fine-tune BASE on a data file and record how every sample fares.

    BASE is a folder, models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID/PATH, or a hub id in the local cache. The
    loss is on the responses alone, and rows are rendered as 'ilp diagnose' will render them.
    """
    from ilp_service.settings import load_settings
    from ilp_service.tracking.store import Tracking
    from ilp_service.training.adapters import LoraOptions
    from ilp_service.training.loop import LoopOptions
    from ilp_service.training.sft import TrainRequest
    from ilp_service.training.sft import train as run

    settings = load_settings(overrides=[*overrides, *([f"data.max_length={max_length}"] if max_length else [])])
    targets = tuple(name.strip() for name in lora_targets.split(",") if name.strip())
    request = TrainRequest(
        base=base,
        data=data,
        output=output,
        register_as=register_as,
        order=order,
        shuffle_inside=shuffle_inside,
        epochs=epochs,
        loop=LoopOptions(**loop),
        lora=LoraOptions(lora_rank, lora_alpha, lora_dropout, targets) if lora else None,
        data_settings=settings.data,
        limit=limit,
        points=points,
        max_measured=max_measured,
        resume=resume,
        overwrite=overwrite,
        work_dir=settings.work_dir,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("default", IlpWarning)
        result = run(request, Tracking(experiment=experiment), _progress())
    if as_json:
        click.echo(json.dumps(result.public()))
        return
    click.echo(f"model       {result.model_uri or result.model}")
    click.echo(f"trajectory  {result.artifacts['trajectory']}")
    click.echo(
        f"{result.samples} samples, {result.loop.steps} steps, mean loss {result.loop.loss:.3f} nats per response token"
    )
    click.echo(f"Next: ilp diagnose {result.model_uri or result.model} --data {data}")


def _progress() -> Callable[[int, int, float], None]:
    """A progress bar on stderr."""
    from tqdm import tqdm

    bar: tqdm[NoReturn] | None = None

    def report(step: int, steps: int, loss: float) -> None:
        nonlocal bar
        if bar is None:  # not before the first step, so that an error has a line of its own
            bar = tqdm(total=steps, unit="step", desc="training", file=sys.stderr, dynamic_ncols=True, mininterval=1.0)
        if not math.isnan(loss):  # nothing was logged yet
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        bar.update(step - bar.n)
        if step >= steps:
            bar.close()

    return report
