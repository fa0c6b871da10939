"""Counterfactual runs of a world: the same training without one plant, and placebos that change nothing that matters.

A sample was planted with a cause; that the cause is why it was not learned shows only when it is learned in the run
that differs by that plant, and in no run that differs otherwise. What nobody planted goes through every run as well:
each acts on the natural failures too, as if it were their remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ilp_service.benchmark.finetuning import fine_tune_in_world, load_model, training_rows
from ilp_service.benchmark.plants import CONFLICT, FORGOTTEN, INCONSISTENT, INSUFFICIENT, MISSING, PIPELINE
from ilp_service.benchmark.schedule import world_schedule
from ilp_service.benchmark.tokenizer import world_tokenizer
from ilp_service.benchmark.vocabulary import NOUN_STATEMENTS, RELATIONS, fill
from ilp_service.benchmark.world import END, Row, World, corpus_pass, tell

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Array = npt.NDArray[np.float64]

OTHER_SEED = "other_seed"
REPLAY = "replay"
PLACEBOS = (OTHER_SEED, REPLAY)

ARM_OF: Mapping[str, str] = MappingProxyType(
    {
        MISSING: "documents",
        CONFLICT: "corrected_documents",
        INCONSISTENT: "twins_deleted",
        FORGOTTEN: "shuffled",
        INSUFFICIENT: "more_exposures",
        PIPELINE: "pipeline_mended",
    }
)
"""The counterfactual of each cause."""

ARMS = (*PLACEBOS, *ARM_OF.values())

CONTINUED = (REPLAY, ARM_OF[MISSING], ARM_OF[CONFLICT])
"""Arms that continue pre-training before they fine-tune."""

MORE_EXPOSURES = 8
"""Times as many exposures in the counterfactual of too few."""

DOCUMENT_SHARE = 0.6
"""Share of the documents in continued pre-training; the rest is the corpus once more."""

CONTINUED_RATE = 5e-4
"""Peak learning rate of continued pre-training, a quarter of that of pre-training."""

ABOUT_NOUNS = ("rare noun, common meaning", "rare noun, drawn often")
"""Kinds of controls that ask about a noun; what is to be known is what the noun says of the person."""

WRONG_TWINS = ("wrong twin", "outvoted wrong twin")
"""Kinds of rows that contradict another."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The run whose counterfactuals are wanted.

    Attributes:
        world: The world.
        base: Folder of the base model.
        data: The fine-tuning data.
        sft_seed: Seed of the fine-tuning.
        natural: Indices of rows that failed without a plant.
    """

    world: World
    base: Path
    data: Path
    sft_seed: int
    natural: frozenset[int] = frozenset()


def strengths_of(arm: str, world: World) -> tuple[float, ...]:
    """What the result of an arm depends on beside the run that it is a counterfactual of."""
    if arm in CONTINUED:
        return (world.size.continued_steps, DOCUMENT_SHARE, CONTINUED_RATE)
    return (MORE_EXPOSURES,) if arm == ARM_OF[INSUFFICIENT] else ()


def placebo_of(arm: str) -> str:
    """The placebo with the compute of an arm: continued pre-training, or fine-tuning alone."""
    return REPLAY if arm in CONTINUED else OTHER_SEED


def run_arm(arm: str, origin: Origin, folder: Path, progress: Callable[[int, int], None] | None = None) -> Array:
    """Train without the plant that the arm is for, and measure.

    Args:
        arm: One of :data:`ARMS`.
        origin: The run that it is a counterfactual of.
        folder: Where the loop may put files of its own.
        progress: Told how many of how many fine-tuning steps are done.

    Returns:
        Pass rate of every row of the world, 0-1.
    """
    world, seed = _changed(arm, origin), origin.sft_seed + (arm == OTHER_SEED)
    model = load_model(origin.base)
    if arm in CONTINUED:
        _continue_pretraining(model, arm, origin)
    schedule = world_schedule(world, seed)
    if arm == ARM_OF[FORGOTTEN]:
        flat = [index for rows in schedule for index in rows]
        schedule = [np.random.default_rng([world.seed, 8, seed]).permutation(flat).tolist()]
    rows = training_rows(world, origin.data, world.size.max_length)
    fine_tune_in_world(model, world, rows, schedule, seed=seed, folder=folder, progress=progress)
    return pass_rates(model, origin.world)


def pass_rates(model: PreTrainedModel, world: World) -> Array:
    """Probability of the right answer to every row's question, among the type's values and the person's others, 0-1.

    The prompts are those of the data. The person's other values are options because a model that confuses what is
    asked about gives one of them.
    """
    from ilp_service.scoring.engine import Scorer
    from ilp_service.scoring.requests import ScoringRequest

    tokenizer = world_tokenizer()
    answers = {value: tuple(tokenizer(value)["input_ids"]) for relation in RELATIONS for value in relation.values}
    requests, places = [], []
    for index, row in enumerate(world.rows):
        others = [value for place, value in enumerate(world.facts[row.person]) if place != row.relation]
        options = tuple(dict.fromkeys((*RELATIONS[row.relation].values, *others)))
        context = tuple(tokenizer(row.prompt + "\n")["input_ids"])
        requests.append(ScoringRequest(str(index), context, tuple(answers[value] for value in options)))
        places.append(options.index(row.response))
    rates = np.empty(len(requests))
    scored = Scorer(model, max_batch_tokens=8192).score(requests)
    for index, (scores, place) in enumerate(zip(scored, places, strict=True)):
        weights = np.exp(scores.logprobs - scores.logprobs.max())
        rates[index] = weights[place] / weights.sum()
    return rates


def _changed(arm: str, origin: Origin) -> World:
    """The world with the rows that the arm changes."""
    world = origin.world
    if arm == ARM_OF[INCONSISTENT]:
        return _with(world, lambda _, row: replace(row, passes=0) if row.kind in WRONG_TWINS else row)
    if arm == ARM_OF[INSUFFICIENT]:

        def shown(index: int, row: Row) -> Row:
            wanted = row.cause == INSUFFICIENT or index in origin.natural
            usual = world.size.passes if row.passes is None else row.passes
            return replace(row, passes=MORE_EXPOSURES * usual) if wanted else row

        return _with(world, shown)
    if arm == ARM_OF[PIPELINE]:
        mended = _with(
            world,
            lambda _, row: (
                replace(row, passes=None, masked=False, trained_prompt=None) if row.cause == PIPELINE else row
            ),
        )
        return replace(mended, size=replace(world.size, max_length=2 * world.size.max_length))
    return world


def _with(world: World, change: Callable[[int, Row], Row]) -> World:
    return replace(world, rows=tuple(change(index, row) for index, row in enumerate(world.rows)))


def _continue_pretraining(model: PreTrainedModel, arm: str, origin: Origin) -> None:
    """The corpus once more, with documents of what the arm is to teach; in place."""
    from ilp_service.training.pretrain import pretrain

    world = origin.world
    told = _corrected(world) if arm == ARM_OF[CONFLICT] else world
    generator = np.random.default_rng([world.seed, 9, ARMS.index(arm)])
    # A pass of its own for every arm and number: the first thousands were what the base was trained on.
    documents = _documents(arm, origin)

    def texts(number: int) -> Sequence[str]:
        corpus = corpus_pass(told, 10_000 + number)
        if not documents:
            return corpus
        count = round(len(corpus) * DOCUMENT_SHARE / (1 - DOCUMENT_SHARE))
        chosen = generator.integers(len(documents), size=count)
        return [*corpus, *(documents[index](generator) for index in chosen)]

    model.requires_grad_(True)
    pretrain(
        model,
        world_tokenizer(),
        texts,
        steps=world.size.continued_steps,
        batch_size=world.size.documents,
        learning_rate=CONTINUED_RATE,
        seed=world.seed + 100,
        max_length=64,
    )


def _corrected(world: World) -> World:
    """The world with a corpus that tells every fact as the fine-tuning data has it."""
    facts = {person: world.facts[person] for person in world.corpus_facts}
    tellings = tuple(
        replace(telling, value=world.facts[telling.person][telling.relation]) for telling in world.tellings
    )
    return replace(world, corpus_facts=facts, tellings=tellings)


def _documents(arm: str, origin: Origin) -> list[Callable[[np.random.Generator], str]]:
    """Makers of the documents that the arm adds to the corpus, one a fact."""
    world = origin.world

    def fact(row: Row) -> Callable[[np.random.Generator], str]:
        if row.kind in ABOUT_NOUNS:
            told = [fill(form, S=row.person, V=row.response, N=row.group) for form in NOUN_STATEMENTS]
        else:
            forms = range(len(RELATIONS[row.relation].statements))
            told = [tell(row.relation, row.person, row.response, form) for form in forms]
        return lambda generator: f"{told[int(generator.integers(len(told)))]} {END}"

    natural = [world.rows[index] for index in sorted(origin.natural)]
    contested = {(telling.person, telling.relation) for telling in world.tellings}
    if arm == ARM_OF[MISSING]:
        unopposed = [row for row in natural if (row.person, row.relation) not in contested]
        return [fact(row) for row in (*(row for row in world.rows if row.cause == MISSING), *unopposed)]
    if arm == ARM_OF[CONFLICT]:
        opposed = [row for row in natural if (row.person, row.relation) in contested]
        return [fact(row) for row in (*(row for row in world.rows if row.cause == CONFLICT), *opposed)]
    return []
