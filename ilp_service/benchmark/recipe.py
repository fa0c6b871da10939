"""Builds a planted world: pre-trains a base on its corpus, fine-tunes it on its rows, records the training.

Every stage is written whole or not at all and is kept under the digest of all that went into it, so that
building again does only what is missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.benchmark.families import tiny_model
from ilp_service.benchmark.finetuning import fine_tune_in_world, load_model, training_rows
from ilp_service.benchmark.plants import make_world
from ilp_service.benchmark.schedule import world_schedule
from ilp_service.benchmark.sizes import SIZES, WorldSize
from ilp_service.benchmark.tokenizer import world_tokenizer
from ilp_service.benchmark.world import BLOCKS, World, corpus_pass, tell
from ilp_service.checkpoints.weights import quiet
from ilp_service.samples.reading import read_samples
from ilp_service.settings import DataSettings
from ilp_service.stages import digest_of, stage
from ilp_service.tables import atomic_path, write_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel


VERSION = 3
"""Of the recipe; a change makes every world anew."""

CLOZE_GATE = 0.98
"""Share of the corpus's facts that a base must complete before it is fine-tuned."""

POINTS = 13
"""Measurements of every sample while it is fine-tuned; more cost more than the training."""

Progress = Callable[[str, int, int], None]
"""Told the stage, and how much of how much of it is done."""

TRUTH = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("cause", pa.string(), metadata={"meaning": "planted cause, 'control' or 'set_aside'"}),
        pa.field("kind", pa.string(), metadata={"meaning": "how it was planted, or which sort of control"}),
        pa.field("block", pa.int64(), metadata={"meaning": "index of the block it was trained in"}),
        pa.field("group", pa.string(), metadata={"meaning": "rows that stand or fall together"}),
        pa.field("grade", pa.float64(), metadata={"meaning": "strength of the plant, where there are grades"}),
    ]
)


@dataclass(frozen=True, slots=True)
class BuiltWorld:
    """Where the parts of a built world lie.

    Attributes:
        family: Family of its models.
        seed: Seed of the world.
        size: Name of its size.
        base: Folder of the base model.
        model: Folder of the fine-tuned model.
        data: The fine-tuning data, JSONL with ``prompt, response, subset``.
        trajectory: The training record.
        truth: What was planted (schema :data:`TRUTH`); no part of a diagnosis.
        max_length: Training length in tokens, for ``data.max_length``.
        facts: What was measured while building: steps, cloze accuracy, seconds.
    """

    family: str
    seed: int
    size: str
    base: Path
    model: Path
    data: Path
    trajectory: Path
    truth: Path
    max_length: int
    facts: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The folder that all parts lie in."""
        return self.data.parent

    @property
    def name(self) -> str:
        """Family, size and seed in one word."""
        return f"{self.family}-{self.size}-{self.seed}"


def build_world(
    out: Path,
    *,
    family: str = "qwen2",
    seed: int = 0,
    size: str | WorldSize = "small",
    sft_seed: int = 0,
    progress: Progress | None = None,
) -> BuiltWorld:
    """Build a world into a folder, or what is missing of it.

    Args:
        out: The folder; another world in it is replaced.
        family: Family of the models (``ilp_service.benchmark.families.FAMILIES``).
        seed: Seed of the world and of the base's weights.
        size: Name of a size, or a size.
        sft_seed: Seed of the fine-tuning: the order of the rows.
        progress: Told how far each stage is.

    Raises:
        StorageError: The folder cannot be written.
        ValueError: The family or the size is unknown.
    """
    if isinstance(size, str):
        if size not in SIZES:
            raise ValueError(f"Size {size!r} is not one of {', '.join(SIZES)}.")
        size = SIZES[size]
    report = progress or (lambda _stage, _done, _all: None)
    world = make_world(seed, size)
    data, truth = out / "sft.jsonl", out / "truth.parquet"
    _write_data(world, data, truth)
    pretraining = (size.documents, size.pretraining_steps, size.pretraining_rate)
    base_digest = digest_of(VERSION, family, seed, pretraining, corpus_pass(world, 0))
    base = out / "base"
    with stage(base, base_digest) as folder:
        if folder is not None:
            _build_base(world, family, folder, report)
    tuned = out / f"sft-{sft_seed}"
    fine_tuning = (sft_seed, size.passes, size.batch_size, size.learning_rate, size.max_length)
    with stage(tuned, digest_of(base_digest, fine_tuning, [asdict(row) for row in world.rows])) as folder:
        if folder is not None:
            _fine_tune(world, base, data, sft_seed, folder, report)
    facts = {
        "rows": len(world.rows),
        **json.loads((base / "facts.json").read_text()),
        **json.loads((tuned / "facts.json").read_text()),
    }
    _describe(out, world, family, facts)
    return BuiltWorld(
        family,
        seed,
        size.name,
        base,
        tuned / "model",
        data,
        tuned / "trajectory.parquet",
        truth,
        size.max_length,
        facts,
    )


def read_truth(path: Path) -> pa.Table:
    """The planted truth of a built world (schema :data:`TRUTH`)."""
    return pq.read_table(path, schema=TRUTH)


def cloze_accuracy(model: PreTrainedModel, world: World) -> float:
    """Share of the corpus's facts whose value the model names first after their statement."""
    from ilp_service.scoring.engine import Scorer
    from ilp_service.scoring.requests import ScoringRequest

    tokenizer = world_tokenizer()

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    requests = [
        ScoringRequest(f"{person}/{relation}", ids(tell(relation, person, "", 0).removesuffix(" .")), (ids(value),))
        for person, facts in world.corpus_facts.items()
        for relation, value in enumerate(facts)
    ]
    return float(np.mean([bool(scores.greedy[0]) for scores in Scorer(model, max_batch_tokens=8192).score(requests)]))


def _build_base(world: World, family: str, folder: Path, report: Progress) -> None:
    from ilp_service.training.pretrain import pretrain

    size = world.size
    tokenizer = world_tokenizer()
    model = tiny_model(
        family,
        vocabulary=len(tokenizer),
        pad=int(tokenizer.pad_token_id),
        end=int(tokenizer.eos_token_id),
        seed=world.seed,
    )
    started = time.monotonic()
    steps = 0
    accuracy = 0.0
    passes: list[int] = []

    def documents(number: int) -> list[str]:
        passes.append(number)
        return corpus_pass(world, number)

    # A base that did not get through the gate goes on for a third of its training, at most twice.
    for number, share in enumerate((1.0, 1 / 3, 1 / 3)):
        planned = round(share * size.pretraining_steps)
        pretrain(
            model,
            tokenizer,
            lambda passed, number=number: documents(1000 * number + passed),  # type: ignore[misc]
            steps=planned,
            batch_size=size.documents,
            learning_rate=size.pretraining_rate if number == 0 else size.pretraining_rate / 2,
            seed=world.seed + number,
            max_length=64,
            progress=lambda done, planned, _loss: report("pre-training", done, planned),
        )
        steps += planned
        accuracy = cloze_accuracy(model, world)
        if accuracy >= CLOZE_GATE:
            break
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    seconds = round(time.monotonic() - started, 1)
    facts = {
        "pretraining_steps": steps,
        "cloze_accuracy": accuracy,
        "pretraining_seconds": seconds,
        "corpus_passes": passes,
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def _fine_tune(world: World, base: Path, data: Path, sft_seed: int, folder: Path, report: Progress) -> None:
    from ilp_service.training.trajectory import TrajectoryCallback

    size = world.size
    settings = DataSettings(max_length=size.max_length)
    tokenizer = world_tokenizer()
    model = load_model(base)
    recorder = TrajectoryCallback(
        folder / "trajectory.parquet", data, points=POINTS, tokenizer=tokenizer, settings=settings, passes=size.passes
    )
    result = fine_tune_in_world(
        model,
        world,
        training_rows(world, data, size.max_length),
        world_schedule(world, sft_seed),
        seed=sft_seed,
        folder=folder,
        callbacks=[recorder],
        progress=lambda done, planned: report("fine-tuning", done, planned),
    )
    with quiet():
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    (folder / "facts.json").write_text(json.dumps({"sft_steps": result.steps, "sft_seconds": round(result.seconds, 1)}))


def _describe(out: Path, world: World, family: str, facts: Mapping[str, Any]) -> None:
    """What a stranger needs to use the world as a data set: how it was made, and the corpus as it was read."""
    described = {"recipe": VERSION, "family": family, "seed": world.seed, "size": asdict(world.size), "facts": facts}
    text = json.dumps(described, indent=1, sort_keys=True) + "\n"
    mark = out / "world.json"
    if mark.is_file() and mark.read_text() == text:
        return
    corpus = [(number, text) for number in facts["corpus_passes"] for text in corpus_pass(world, number)]
    numbers, texts = zip(*corpus, strict=True)
    write_table(pa.table({"pass": pa.array(numbers, pa.int32()), "text": pa.array(texts)}), out / "corpus.parquet")
    with atomic_path(mark) as temporary:
        temporary.write_text(text)


def _write_data(world: World, data: Path, truth: Path) -> None:
    lines = [
        json.dumps({"prompt": row.prompt, "response": row.response, "subset": BLOCKS[row.block]}) + "\n"
        for row in world.rows
    ]
    with atomic_path(data) as temporary:
        temporary.write_text("".join(lines))
    samples = read_samples(data, DataSettings()).samples
    columns = {
        "sample_id": [sample.sample_id for sample in samples],
        **{name: [getattr(row, name) for row in world.rows] for name in ("cause", "kind", "block", "group", "grade")},
    }
    write_table(pa.Table.from_pydict(columns, schema=TRUTH), truth)
