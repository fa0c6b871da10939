"""How the planted model of a world was made, in the words of any training that can be done again otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from ilp_service.benchmark.recipe import VERSION, BuiltWorld
from ilp_service.benchmark.schedule import world_schedule
from ilp_service.benchmark.tokenizer import world_tokenizer
from ilp_service.benchmark.world import Row, World, corpus_pass
from ilp_service.samples.reading import read_samples
from ilp_service.samples.rendering import Renderer
from ilp_service.samples.sample import Sample
from ilp_service.settings import DataSettings
from ilp_service.stages import digest_of
from ilp_service.training.course import Course
from ilp_service.training.loop import LoopOptions
from ilp_service.training.recipe import ContinuedOptions, Recipe
from ilp_service.training.rows import encode_rows

if TYPE_CHECKING:
    from ilp_service.training.rows import TrainingRow

CONTINUED_RATE = 1e-3
"""Peak learning rate of continued pre-training: half of that of pre-training, found on training worlds."""

CONTINUED_TOKENS = 64
"""Tokens a row of continued pre-training, as in pre-training."""

GENERAL_PASS = 10_000
"""First pass over the corpus that is general text: the base was trained on the first thousands."""

HELD_OUT_PASS = 20_000
"""Pass over the corpus on which held-out loss is taken; no training reads it."""


def recipe_of_world(built: BuiltWorld, world: World) -> Recipe:
    """The fine-tuning that made the planted model, with the defects of its pipeline.

    Without a change and with the seed of the built world, it makes the same model again.

    Args:
        built: Where the parts of the world lie.
        world: The world that they were made from.
    """
    size = world.size
    settings = DataSettings(max_length=size.max_length)
    tokenizer = world_tokenizer()
    samples = read_samples(built.data, settings).samples
    ids = [sample.sample_id for sample in samples]
    rows = dict(zip(ids, world.rows, strict=True))

    def course(seed: int) -> Course:
        return Course(tuple(tuple(ids[index] for index in rows) for rows in world_schedule(world, seed)))

    def general(number: int) -> list[str]:
        return corpus_pass(world, GENERAL_PASS + number)

    loop = LoopOptions(
        learning_rate=size.learning_rate,
        decay="constant",
        batch_size=size.batch_size,
        seed=int(built.model.parent.name.rpartition("-")[2]),
        freeze_embeddings=True,
        device="cpu",
    )
    continued = ContinuedOptions(CONTINUED_RATE, size.documents, CONTINUED_TOKENS)
    base = (built.base / "digest").read_text()
    digest = digest_of(
        VERSION, base, asdict(loop), asdict(continued), asdict(size), [asdict(row) for row in world.rows]
    )
    return Recipe(
        base=built.base,
        base_name=built.name,
        tokenizer=tokenizer,
        samples=samples,
        encode=_Encoder(Renderer(tokenizer, settings), rows, size.max_length),
        course=course,
        loop=loop,
        continued=continued,
        general=general,
        where=tuple(
            (name, "the world's own recipe") for name in ("base", "data", "order", "optimizer", "general text")
        ),
        digest=digest,
    )


def tokens_of_course(recipe: Recipe, seed: int) -> int:
    """Tokens, prompts included, that the fine-tuning reads without any change."""
    lengths = {row.sample_id: len(row.input_ids) for row in recipe.encode(recipe.samples)}
    return sum(lengths[key] for key in chain.from_iterable(recipe.course(seed).passes))


@dataclass(frozen=True, slots=True)
class _Encoder:
    """Makes rows of samples as the world's pipeline does; a corrected sample goes through the same defects."""

    renderer: Renderer
    rows: dict[str, Row]
    max_length: int

    def __call__(self, samples: Sequence[Sample]) -> list[TrainingRow]:
        return [self._encoded(sample) for sample in samples]

    def _encoded(self, sample: Sample) -> TrainingRow:
        row = self.rows[sample.sample_id]
        if row.trained_prompt is not None:
            sample = replace(sample, context=(replace(sample.context[-1], content=row.trained_prompt),))
        (encoded,) = encode_rows([sample], self.renderer, self.max_length)
        return replace(encoded, prompt_tokens=len(encoded.input_ids)) if row.masked else encoded
