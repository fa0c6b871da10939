"""A run of the intervention experiments: which worlds, in which order, and what is left of it.

Worlds, diagnoses and every arm under every seed are kept under what they were made from, so that a run that was
stopped goes on at the next arm.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ilp_service.benchmark.blind import diagnose_blind
from ilp_service.benchmark.crossing import Examined
from ilp_service.benchmark.intervention_report import report_of
from ilp_service.benchmark.interventions import (
    Treated,
    crossed_effects_in,
    effectiveness_of,
    effects_in,
    headline_in,
    treated_world,
)
from ilp_service.benchmark.plants import make_world
from ilp_service.benchmark.run import Place, Steps
from ilp_service.benchmark.sizes import SIZES, WorldSize
from ilp_service.errors import SettingsError
from ilp_service.intervention.effectiveness import Effectiveness, read_effectiveness
from ilp_service.plugin_loading import Plugins
from ilp_service.tables import atomic_path

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]

EFFECTIVENESS_FILE = "effectiveness.json"
RESULT_FILE = "interventions.json"

PARTS = ("effects", "headline", "all")

FIRST_SEED = 1
"""Of the fine-tunings: never that of the diagnosed model, whose very order would be no other draw."""


@dataclass(frozen=True, slots=True)
class InterventionPlan:
    """What a run of the interventions is made of.

    Attributes:
        held_out: Worlds that effects are measured on.
        training: Worlds that classifiers are trained on; those of the family or seed of a held-out world are left out.
        measured: Those of the training worlds on which the remedies' effectiveness is measured for the prescription.
        size: Of all worlds: a name, or a size.
        out: Folder of the worlds and of what comes out.
        seeds: How many seeds of fine-tuning each arm is run under.
        part: What is run: one of :data:`PARTS`.
        budgets: Budgets of the headline, in parts of what the prescription takes by itself.
        headline_on: Worlds that the headline is measured on, where they are others than ``held_out``: a decision that
            was developed after a look at some worlds is to be shown on fresh ones.
        headline_seeds: Seeds of fine-tuning of the headline, where they are not as many as ``seeds``.
    """

    held_out: tuple[Place, ...]
    training: tuple[Place, ...]
    measured: tuple[Place, ...]
    size: str | WorldSize
    out: Path
    seeds: int = 2
    part: str = "all"
    budgets: tuple[float, ...] = (0.5, 1.0, 2.0)
    headline_on: tuple[Place, ...] = ()
    headline_seeds: int | None = None

    @property
    def effects_worlds(self) -> tuple[Place, ...]:
        """Where effects are measured."""
        return self.held_out if self.part in ("effects", "all") else ()

    @property
    def headline_worlds(self) -> tuple[Place, ...]:
        """Where the headline is measured."""
        return (self.headline_on or self.held_out) if self.part in ("headline", "all") else ()

    @property
    def measured_worlds(self) -> tuple[Place, ...]:
        """All that are measured, in the order of the work."""
        return tuple(dict.fromkeys((*self.effects_worlds, *self.headline_worlds)))


def run_interventions(
    plan: InterventionPlan,
    plugins: Plugins,
    steps: Steps,
    say: Say,
    progress: Callable[[str], Progress] | None = None,
) -> dict[str, Any]:
    """Run the experiments, and leave ``interventions.json`` and ``effectiveness.json`` in ``plan.out``.

    Args:
        plan: What to run.
        plugins: Causes, remedies, sources and judges.
        steps: How worlds are built, labelled and diagnosed.
        say: Takes one line of progress for people.
        progress: Gives, for the name of a world, what is told how far a training is.

    Returns:
        The object of ``interventions.json``.

    Raises:
        SettingsError: A held-out world is a training world, or too few training worlds are left for one.
        IlpError: Anything else that a user can mend.
    """
    started = time.monotonic()
    _check(plan)
    examined: dict[Place, Examined] = {}
    places = (*plan.training, *plan.measured_worlds)
    for number, place in enumerate(places, 1):
        say(f"world {number} of {len(places)}: {place[0]}:{place[1]}")
        built = steps.build(place)
        examined[place] = steps.examine(built, steps.label(built))
    training = [examined[place] for place in plan.training]
    size = SIZES[plan.size] if isinstance(plan.size, str) else plan.size
    seeds = range(FIRST_SEED, FIRST_SEED + plan.seeds)
    headline_seeds = range(FIRST_SEED, FIRST_SEED + (plan.headline_seeds or plan.seeds))

    def treated(place: Place) -> Treated:
        world = make_world(place[1], size)
        blind = diagnose_blind(examined[place], world, training, plugins, say)
        return treated_world(blind, examined[place].findings.truth, plan.out)

    def tell(place: Place) -> tuple[Say, Progress | None]:
        name = examined[place].findings.built.name
        return (lambda line: say(f"{name}: {line}")), None if progress is None else progress(name)

    effectiveness = _effectiveness(plan, treated, tell) if plan.headline_worlds else read_effectiveness()
    effects, headlines = [], []
    for place in plan.measured_worlds:
        world = treated(place)
        line, bar = tell(place)
        if place in plan.effects_worlds:
            effects.append(effects_in(world, seeds, line, progress=bar)[1])
        if place in plan.headline_worlds:
            planted = examined[place].findings.truth
            truth = dict(zip(planted["sample_id"].to_pylist(), planted["cause"].to_pylist(), strict=True))
            headlines.append(headline_in(world, truth, effectiveness, headline_seeds, plan.budgets, line, bar))
        _leave(plan, effects, headlines, effectiveness, started)
    return _leave(plan, effects, headlines, effectiveness, started)


def _effectiveness(
    plan: InterventionPlan,
    treated: Callable[[Place], Treated],
    tell: Callable[[Place], tuple[Say, Progress | None]],
) -> Effectiveness:
    """What remedies do on training worlds; without any, what comes with the project."""
    if not plan.measured:
        return read_effectiveness()
    found = {}
    for place in plan.measured:
        line, bar = tell(place)
        world = treated(place)
        found[world.blind.built.name] = crossed_effects_in(world, [FIRST_SEED], line, bar)
    made = effectiveness_of(found)
    with atomic_path(plan.out / EFFECTIVENESS_FILE) as temporary:
        temporary.write_text(json.dumps(made.public(), indent=1) + "\n")
    return made


def _leave(
    plan: InterventionPlan,
    effects: Sequence[dict[str, Any]],
    headlines: Sequence[dict[str, Any]],
    effectiveness: Effectiveness,
    started: float,
) -> dict[str, Any]:
    """Write what is known by now; a run that is stopped has left the worlds that were done."""
    report = report_of(effects, headlines)
    report["seeds"] = plan.seeds
    report["headline_seeds"] = plan.headline_seeds or plan.seeds
    report["trained_on"] = {one["world"]: one["trained_on"] for one in (*effects, *headlines)}
    report["effects_worlds"] = sorted(one["world"] for one in effects)
    report["headline_worlds"] = sorted(one["world"] for one in headlines)
    report["effectiveness"] = effectiveness.public()
    report["seconds"] = round(time.monotonic() - started, 1)
    with atomic_path(plan.out / RESULT_FILE) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    return report


def _check(plan: InterventionPlan) -> None:
    """Refuse at once what would fail after hours."""
    measured = (*plan.held_out, *plan.headline_on)
    both = sorted(set(measured) & set(plan.training))
    if both:
        raise SettingsError(
            f"World {both[0][0]}:{both[0][1]} is to be trained on and measured; give it to one of them."
        )
    if not plan.held_out:
        raise SettingsError("No seed of a world to measure is named; name some with --seeds.")
    strange = sorted(set(plan.measured) - set(plan.training))
    if strange:
        raise SettingsError(
            f"World {strange[0][0]}:{strange[0][1]} is to tell what remedies do and is no training world; add it to "
            "--train-seeds."
        )
    for family, seed in (*measured, *plan.measured):
        left = [place for place in plan.training if place[0] != family and place[1] != seed]
        if len(left) < 2:
            raise SettingsError(
                f"Without {family} and seed {seed} {len(left)} training worlds are left, and two are needed; name more "
                "--train-seeds or more --families."
            )
