"""The whole benchmark: worlds, labels that hold, the ordinary diagnosis, every method, and the figures.

Worlds, counterfactuals and diagnoses are kept under what they were made from, so that a run that was stopped, or
that asks for one more world, does only what is missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ilp_service.benchmark.crossing import CLASSIFIER, PAPER_RULES, Examined, cross
from ilp_service.benchmark.families import FAMILIES, is_seed
from ilp_service.benchmark.folds import kept_in
from ilp_service.benchmark.handed_in import LABELS_FILE
from ilp_service.benchmark.plots import plot_reliability, plot_risk_coverage
from ilp_service.benchmark.recipe import BuiltWorld, build_world
from ilp_service.benchmark.signals import examine, work_dir
from ilp_service.benchmark.summary import report_of, scores_of
from ilp_service.errors import SettingsError
from ilp_service.plugin import Cause
from ilp_service.settings import Settings
from ilp_service.tables import atomic_path, write_table

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
Place = tuple[str, int]
"""A family and a seed."""

SHOWN = (CLASSIFIER, "no_order_rarity", "no_trajectory", PAPER_RULES)
"""Methods whose risk-coverage curves are drawn."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of the benchmark is made of.

    Attributes:
        held_out: Worlds that are scored.
        training: Worlds that the classifiers may be trained on.
        size: Name of the size of all of them.
        out: Folder of the worlds and of what comes out.
        seed: Of classifiers and intervals.
    """

    held_out: tuple[Place, ...]
    training: tuple[Place, ...]
    size: str
    out: Path
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Steps:
    """How a world comes to be and is looked at; a test puts others in their place.

    Attributes:
        build: The world of a family and a seed.
        label: Its verified labels.
        examine: What the ordinary diagnosis finds in it, with those labels.
    """

    build: Callable[[Place], BuiltWorld]
    label: Callable[[BuiltWorld], pa.Table]
    examine: Callable[[BuiltWorld, pa.Table], Examined]


def deal(families: Sequence[str], seeds: Sequence[str]) -> tuple[Place, ...]:
    """Families and seeds of worlds: seeds are dealt out to the families in turn, so that no two share one.

    The first seed goes to the first family, the second to the second, and around. A seed written
    ``family:seed`` goes where it says and takes no turn.

    Raises:
        SettingsError: A family is unknown, a seed is no whole number, or a world is named twice.
    """
    for family in families:
        if family not in FAMILIES:
            raise SettingsError(f"Family {family!r} is unknown; expected some of {', '.join(FAMILIES)}.")
    if not families:
        raise SettingsError(f"No family is named; expected some of {', '.join(FAMILIES)}.")
    worlds: list[Place] = []
    turn = 0
    for text in seeds:
        named, colon, seed = text.rpartition(":")
        if not is_seed(seed) or (colon and named not in families):
            raise SettingsError(f"Seed {text!r} is neither a whole number nor family:seed with a family of this run.")
        worlds.append((named if colon else families[turn % len(families)], int(seed)))
        turn += not colon
    twice = next((world for world in worlds if worlds.count(world) > 1), None)
    if twice:
        raise SettingsError(f"World {twice[0]}:{twice[1]} is named twice; every seed is one world.")
    return tuple(worlds)


def run_benchmark(plan: Plan, causes: Sequence[Cause], steps: Steps, say: Say) -> dict[str, Any]:
    """Run the benchmark, and leave its tables, plots and figures in ``plan.out``.

    Args:
        plan: What to run.
        causes: Causes whose evidence is collected.
        steps: How worlds are built, labelled and diagnosed.
        say: Takes one line of progress for people.

    Returns:
        The object that ``--json`` prints.

    Raises:
        SettingsError: Nothing is left to train on for a family, or a held-out world is a training world.
        IlpError: Anything else that a user can mend.
    """
    started = time.monotonic()
    both = sorted(set(plan.held_out) & set(plan.training))
    if both:
        raise SettingsError(f"World {both[0][0]}:{both[0][1]} is to be trained on and scored; give it to one of them.")
    _check_enough(plan)
    settings = Settings()
    # Before hours of building: what is kept is kept under the code that was loaded, not under what was edited since.
    keep = kept_in(plan.out / "folds", causes, settings, plan.seed)
    examined: dict[Place, Examined] = {}
    places = (*plan.training, *plan.held_out)
    for number, place in enumerate(places, 1):
        say(f"world {number} of {len(places)}: {place[0]}:{place[1]}")
        built = steps.build(place)
        examined[place] = steps.examine(built, steps.label(built))
    held_out = [examined[place] for place in sorted(plan.held_out)]
    training = [examined[place] for place in sorted(plan.training)]
    crossed = cross(training, held_out, causes, settings, say, seed=plan.seed, keep=keep)
    scores = scores_of(crossed, held_out, plan.seed)
    report = report_of(crossed, scores, training, held_out, plan.seed)
    report["seconds"] = round(time.monotonic() - started, 1)
    report["seconds_building"] = {
        world.findings.built.name: round(sum(v for k, v in world.findings.built.facts.items() if "seconds" in k), 1)
        for world in (*training, *held_out)
    }
    labels = pa.concat_tables([world.labels for world in held_out], promote_options="default")
    write_table(labels, plan.out / LABELS_FILE)
    for method, table in crossed.predictions.items():
        write_table(table, plan.out / "predictions" / f"{method}.parquet")
    plot_reliability(scores[CLASSIFIER].verdicts, plan.out / "reliability.svg")
    shown = {name: scores[name].verdicts for name in SHOWN if name in scores}
    plot_risk_coverage(shown, plan.out / "risk_coverage.svg")
    with atomic_path(plan.out / "scores.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    return report


def ordinary_steps(plan: Plan, causes: Sequence[Cause], say: Say, progress: Callable[[str], Progress]) -> Steps:
    """Worlds as :func:`~ilp_service.benchmark.recipe.build_world` builds them, diagnosed as any checkpoint.

    Args:
        plan: What is run.
        causes: Causes whose evidence is collected.
        say: Takes one line of progress for people.
        progress: Gives, for the name of a world, what is told how far each stage is.
    """
    from ilp_service.benchmark.verification import verified_labels

    def build(place: Place) -> BuiltWorld:
        family, seed = place
        name = f"{family}-{plan.size}-{seed}"
        return build_world(plan.out / name, family=family, seed=seed, size=plan.size, progress=progress(name))

    def label(built: BuiltWorld) -> pa.Table:
        labels = verified_labels(built, progress=progress(built.name))
        write_table(labels, plan.out / built.name / LABELS_FILE)
        return labels

    def look(built: BuiltWorld, labels: pa.Table) -> Examined:
        settings = Settings(work_dir=work_dir(plan.out))
        found = examine(built, causes, settings, lambda line: say(f"{built.name}: {line}"), progress=True)
        return Examined(found, labels)

    return Steps(build, label, look)


def _check_enough(plan: Plan) -> None:
    """Refuse at once what would fail after hours of building."""
    if not plan.held_out:
        raise SettingsError("No seed of a world to score is named; name some with --seeds.")
    for family in sorted({family for family, _ in plan.held_out}):
        seeds = {seed for other, seed in plan.held_out if other == family}
        left = [place for place in plan.training if place[0] != family and place[1] not in seeds]
        if len(left) < 2:
            raise SettingsError(
                f"Without {family} and its seeds {len(left)} training worlds are left, and two are needed; name more "
                "--train-seeds or more --families."
            )
