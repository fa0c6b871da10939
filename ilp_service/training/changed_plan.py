"""What a changed training does, decided before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ilp_service.changes import Change
from ilp_service.errors import SettingsError
from ilp_service.training.continued import Mix, mixed
from ilp_service.training.course import changed, lengthened
from ilp_service.training.increments import held_out
from ilp_service.training.recipe import Recipe
from ilp_service.training.rows import TrainingRow
from ilp_service.training.separation import Contradictions


@dataclass(frozen=True)
class ChangedPlan:
    """All that a changed training does.

    Attributes:
        rows: One a sample, corrected ones with their new response.
        subsets: The subset of each.
        schedule: Passes of row indices, further passes included.
        mix: What continued pre-training reads; ``None``: there is none.
        held_out: Samples that are not trained on.
        against: Rows that never share an optimizer step.
        draws: Seed of what is drawn on the way.
    """

    rows: tuple[TrainingRow, ...]
    subsets: tuple[str, ...]
    schedule: tuple[tuple[int, ...], ...]
    mix: Mix | None
    held_out: tuple[str, ...]
    against: Contradictions[int]
    draws: int


def planned(
    recipe: Recipe,
    change: Change,
    *,
    seed: int,
    spared: frozenset[str] = frozenset(),
    general_tokens: int = 0,
    draw: int = 0,
) -> ChangedPlan:
    """What :func:`ilp_service.training.changed.train_changed` will do, as far as it is known before.

    Args:
        recipe: How the model was fine-tuned.
        change: What is to be otherwise.
        seed: Of the fine-tuning.
        spared: Samples that are never held out.
        general_tokens: Tokens of general text that are read where the change has no documents.
        draw: Seed of what is drawn for the change, together with ``seed``.

    Raises:
        SettingsError: General text is needed and there is none, or nothing is left to train on.
        ValueError: The course names samples that the recipe does not have, or it makes no row of one.
    """
    samples = [
        replace(one, response=change.corrected[one.sample_id].response) if one.sample_id in change.corrected else one
        for one in recipe.samples
    ]
    rows = tuple(recipe.encode(samples))
    if len(rows) != len(samples):
        raise ValueError(f"The recipe made {len(rows)} rows of {len(samples)} samples; expected one of each.")
    numbers = {one.sample_id: number for number, one in enumerate(samples)}
    course = recipe.course(seed)
    if unknown := sorted(course.exposures.keys() - numbers.keys()):
        raise ValueError(f"The course trains on {unknown[0]!r}, which is none of the {len(samples)} samples.")
    draws = int(np.random.SeedSequence([seed % 2**32, draw % 2**32]).generate_state(1)[0])
    subsets = {one.sample_id: one.subset for one in samples}
    kept: tuple[str, ...] = ()
    step_rows = recipe.loop.batch_size * recipe.loop.accumulation
    if change.epochs is None:
        course = changed(
            course, change, subsets=subsets, step_rows=step_rows, seed=draws, accumulation=recipe.loop.accumulation
        )
    else:
        treated = spared | change.sample_ids
        fit = [key for key in course.exposures if key not in treated and rows[numbers[key]].trained_tokens > 0]
        kept = held_out(fit, len(samples), draws)
        course = lengthened(
            course,
            replace(change, removed={**change.removed, **dict.fromkeys(kept, "Held out.")}),
            change.epochs.most,
            subsets=subsets,
            step_rows=step_rows,
            seed=draws,
            accumulation=recipe.loop.accumulation,
        )
    schedule = tuple(tuple(numbers[key] for key in ids) for ids in course.passes)
    if not any(schedule):
        raise SettingsError(
            f"Nothing is left to train on: the change removes {len(change.removed)} of the {len(samples)} samples; "
            "expected one to stay at least."
        )
    return ChangedPlan(
        rows=rows,
        subsets=tuple(one.subset for one in samples),
        schedule=schedule,
        mix=mixed(recipe, change, general_tokens=general_tokens, seed=draws),
        held_out=kept,
        against=Contradictions(
            {numbers[key]: bucket for key, bucket in change.buckets.items() if key in numbers},
            [(numbers[one], numbers[other]) for one, other in change.apart if {one, other} <= numbers.keys()],
        ),
        draws=draws,
    )
