"""Fine-tuning in a world: the run that is diagnosed, and the runs that check its labels."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ilp_service.benchmark.tokenizer import world_tokenizer
from ilp_service.benchmark.world import World
from ilp_service.checkpoints.weights import quiet
from ilp_service.samples.reading import read_samples
from ilp_service.settings import DataSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel, TrainerCallback

    from ilp_service.training.loop import LoopResult
    from ilp_service.training.rows import TrainingRow


def load_model(folder: Path) -> PreTrainedModel:
    """The model of a folder, on the CPU."""
    from transformers import AutoModelForCausalLM

    with quiet():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return model


def training_rows(world: World, data: Path, max_length: int) -> list[TrainingRow]:
    """The rows as the world's training pipeline makes them, its defects included.

    Args:
        world: The world.
        data: Its fine-tuning data, for the ids of the rows.
        max_length: Training length in tokens.
    """
    from ilp_service.samples.rendering import Renderer
    from ilp_service.training.rows import encode_rows

    settings = DataSettings(max_length=max_length)
    renderer = Renderer(world_tokenizer(), settings)
    samples = read_samples(data, settings).samples
    made = []
    for sample, row in zip(samples, world.rows, strict=True):
        if row.trained_prompt is not None:
            message = replace(sample.context[-1], content=row.trained_prompt)
            # Under another name: the record of the training cannot know it for this sample.
            sample = replace(sample, context=(message,), sample_id=f"rewritten:{sample.sample_id}")
        (encoded,) = encode_rows([sample], renderer, max_length)
        made.append(replace(encoded, prompt_tokens=len(encoded.input_ids)) if row.masked else encoded)
    return made


def fine_tune_in_world(
    model: PreTrainedModel,
    world: World,
    rows: Sequence[TrainingRow],
    schedule: Sequence[Sequence[int]],
    *,
    seed: int,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Callable[[int, int], None] | None = None,
) -> LoopResult:
    """Fine-tune a base in place as the world prescribes.

    Args:
        model: The base.
        world: The world, for the size of its batches and its learning rate.
        rows: The rows that the schedule's indices mean.
        schedule: Passes of row indices.
        seed: Seed of the fine-tuning.
        folder: Where the loop may put files of its own.
        callbacks: Trainer callbacks.
        progress: Told how many of how many steps are done.
    """
    from ilp_service.training.loop import LoopOptions, fine_tune

    size = world.size
    result = fine_tune(
        model,
        rows,
        [list(rows) for rows in schedule],
        LoopOptions(
            learning_rate=size.learning_rate,
            decay="constant",
            batch_size=size.batch_size,
            seed=seed,
            freeze_embeddings=True,
            device="cpu",
        ),
        output_dir=folder / "checkpoints",
        callbacks=callbacks,
        pad_token_id=int(world_tokenizer().pad_token_id),
        progress=None if progress is None else lambda done, planned, _loss: progress(done, planned),
    )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return result
