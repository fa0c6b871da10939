"""``ilp benchmark``: worlds in which causes were planted, the labels that hold in them, and scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ilp_service.benchmark.families import FAMILIES, is_seed
from ilp_service.benchmark.sizes import SIZES

if TYPE_CHECKING:
    import pyarrow as pa

    from ilp_service.benchmark.recipe import BuiltWorld
    from ilp_service.benchmark.run import Place, Plan, Progress
    from ilp_service.benchmark.signals import Findings
    from ilp_service.plugin import Cause

TRAINING_WORLDS = ("qwen2:0", "llama:1", "olmo2:2", "qwen2:3", "llama:4", "olmo2:5")
"""Worlds of the training table; scores are taken on worlds with other seeds."""

HELD_OUT_WORLDS = ("qwen2:100", "llama:101", "olmo2:102", "qwen2:103", "llama:104", "olmo2:105")

_OUT = Path("mlruns/worlds")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _words(_context: click.Context, _parameter: click.Parameter, value: str) -> list[str]:
    """A comma-separated list; empty parts are left out."""
    return [word.strip() for word in value.split(",") if word.strip()]


def _worlds(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, int]]:
    """``family:seed``, checked."""
    worlds: list[tuple[str, int]] = []
    for value in values:
        family, _, seed = value.partition(":")
        if family not in FAMILIES or not is_seed(seed):
            raise click.BadParameter(f"{value!r} is no world; write family:seed with a family of {', '.join(FAMILIES)}")
        if (family, int(seed)) in worlds:
            raise click.BadParameter(f"{value!r} is named twice; every seed is one world")
        worlds.append((family, int(seed)))
    return worlds


def _world_options(worlds: Sequence[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option("--world", "worlds", multiple=True, default=worlds, show_default=True, callback=_worlds),
            click.option("--size", type=click.Choice(sorted(SIZES)), default="small", show_default=True),
            click.option(
                "--folder",
                type=click.Path(path_type=Path),
                default=_OUT,
                show_default=True,
                help="Where worlds are built and kept.",
            ),
        ):
            command = option(command)
        return command

    return add


def _seeds(worlds: Sequence[str]) -> str:
    return ",".join(world.partition(":")[2] for world in worlds)


@click.group(invoke_without_command=True)
@click.option("--families", default="qwen2,llama,olmo2", show_default=True, callback=_words, help="Families, in turn.")
@click.option(
    "--seeds",
    default=_seeds(HELD_OUT_WORLDS),
    show_default=True,
    callback=_words,
    help="Seeds of the worlds that are scored, dealt out to the families in turn; family:seed goes where it says.",
)
@click.option("--size", type=click.Choice(sorted(SIZES)), default="small", show_default=True, help="Of every world.")
@click.option(
    "--train-seeds",
    default=_seeds(TRAINING_WORLDS),
    show_default=True,
    callback=_words,
    help="Seeds of the worlds that classifiers are trained on, dealt out likewise.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=_OUT,
    show_default=True,
    help="Folder of the worlds and of what comes out.",
)
@click.pass_context
def benchmark(
    context: click.Context,
    families: list[str],
    seeds: list[str],
    size: str,
    train_seeds: list[str],
    as_json: bool,
    out: Path,
) -> None:
    """Worlds in which it is known why a sample was not learned.

    Without a command: build them, keep the labels that hold, diagnose them, leave each family and its seeds out in
    turn, and score every method. What is already there is not made again.
    """
    if context.invoked_subcommand is not None:
        return
    from ilp_service.benchmark.run import Plan, deal, ordinary_steps, run_benchmark
    from ilp_service.benchmark.summary import readable

    plan = Plan(deal(families, seeds), deal(families, train_seeds), size, out)
    causes = _causes()
    report = run_benchmark(plan, causes, ordinary_steps(plan, causes, _say, _bar), _say)
    click.echo(json.dumps(report) if as_json else readable(report))
    _say(f"tables, plots and scores.json are in {out}")


@benchmark.command()
@click.argument("predictions", type=click.Path(path_type=Path))
@click.option(
    "--worlds",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of 'ilp benchmark --out', or of worlds with labels.parquet each.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
def score(predictions: Path, folder: Path, as_json: bool) -> None:
    """Score PREDICTIONS, a parquet file with the columns world, sample_id, cause and confidence."""
    from ilp_service.benchmark.predictions import score as score_predictions
    from ilp_service.benchmark.summary import readable_score

    found = score_predictions(predictions, folder)
    click.echo(json.dumps(found.public()) if as_json else readable_score(found))


@benchmark.command()
@click.option(
    "--scores",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=_OUT / "scores.json",
    show_default=True,
    help="What 'ilp benchmark' left in its folder.",
)
@click.option("--into", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Page to put it into.")
def page(scores: Path, into: Path | None) -> None:
    """Write the figures of a benchmark as markdown, to stdout or between the markers of a page."""
    from ilp_service.attribution.card import read_scores
    from ilp_service.benchmark.page import BEGIN, END
    from ilp_service.benchmark.page import page as made
    from ilp_service.errors import DataFormatError

    report = read_scores(scores)
    try:
        text = made(report)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataFormatError(
            f"The scores {scores} are not those of 'ilp benchmark' ({type(error).__name__}: {error}); name the "
            "scores.json that it left in its folder."
        ) from error
    if into is None:
        click.echo(text)
        return
    _put(into, text, BEGIN, END)


@benchmark.command()
@_world_options(HELD_OUT_WORLDS)
@click.option("--sft-seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the fine-tuning.")
def build(worlds: list[tuple[str, int]], size: str, folder: Path, sft_seed: int) -> None:
    """Build worlds, and say where their parts are."""
    for family, seed in worlds:
        built = _build(family, seed, size, folder, sft_seed)
        click.echo(f"{built.name}: model {built.model}, base {built.base}, data {built.data}, truth {built.truth}")


@benchmark.command()
@_world_options(HELD_OUT_WORLDS)
def labels(worlds: list[tuple[str, int]], size: str, folder: Path) -> None:
    """Run every counterfactual of worlds and count, as JSON lines, the labels that hold and why others do not."""
    from ilp_service.benchmark.summary import verdict_counts

    plan = _plan(worlds, size, folder)
    for place in worlds:
        name, table = _labelled(plan, place)
        click.echo(json.dumps({"world": name, **verdict_counts(table)}))


@benchmark.command()
@_world_options(TRAINING_WORLDS)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("ilp_service/attribution/signals.parquet"),
    show_default=True,
    help="The table to write.",
)
def table(worlds: list[tuple[str, int]], size: str, folder: Path, out: Path) -> None:
    """Make the table of signals that the meta-classifier is trained from: samples whose label holds."""
    from ilp_service.benchmark.run import ordinary_steps
    from ilp_service.benchmark.table import signals_table, write_signals

    causes = _causes()
    steps = ordinary_steps(_plan(worlds, size, folder), causes, _say, _bar)
    found = []
    for place in worlds:
        built = steps.build(place)
        world = steps.examine(built, steps.label(built))
        found.append((world.findings, world.labels))
    made = signals_table(found)
    write_signals(made, out)
    counts = ", ".join(f"{cause} {count}" for cause, count in sorted(Counter(made["cause"].to_pylist()).items()))
    _say(f"{out}: {made.num_rows} rows ({counts}), {made.num_columns} columns")


@benchmark.command()
@_world_options(HELD_OUT_WORLDS)
@click.option(
    "--other-sft-seed",
    type=click.IntRange(min=0),
    help="Also fine-tune with this seed, and count the controls that flip.",
)
def check(worlds: list[tuple[str, int]], size: str, folder: Path, other_sft_seed: int | None) -> None:
    """Diagnose worlds and print, as JSON lines, how much of what was planted is found, labels unverified."""
    from ilp_service.attribution.attribute import attribute
    from ilp_service.attribution.builtin import builtin_meta
    from ilp_service.benchmark.score import flipped_controls, score_world
    from ilp_service.settings import Settings

    causes, meta = _causes(), builtin_meta()
    for family, seed in worlds:
        found = _examine(_build(family, seed, size, folder, 0), causes, folder)
        planted = score_world(found, attribute(found.evidence, causes, meta, Settings().attribution)).public()
        if other_sft_seed is not None:
            other = _examine(_build(family, seed, size, folder, other_sft_seed), causes, folder)
            planted["flipped_controls"] = flipped_controls(found, other)
        click.echo(json.dumps(planted))


@benchmark.command()
@click.option("--families", default="qwen2,llama,olmo2", show_default=True, callback=_words, help="Families, in turn.")
@click.option(
    "--seeds",
    default=_seeds(HELD_OUT_WORLDS),
    show_default=True,
    callback=_words,
    help="Seeds of the worlds that are measured, dealt out to the families in turn; family:seed goes where it says.",
)
@click.option("--size", type=click.Choice(sorted(SIZES)), default="small", show_default=True, help="Of every world.")
@click.option(
    "--train-seeds",
    default=_seeds(TRAINING_WORLDS),
    show_default=True,
    callback=_words,
    help="Seeds of the worlds that classifiers are trained on, dealt out likewise.",
)
@click.option(
    "--effectiveness-seeds",
    default="",
    callback=_words,
    help="Those of them on which it is measured what remedies do, for the prescription.  [default: as shipped]",
)
@click.option(
    "--headline-seeds",
    default="",
    callback=_words,
    help="Seeds of the worlds that the headline is measured on.  [default: those of --seeds]",
)
@click.option("--sft-seeds", type=click.IntRange(min=1), default=2, show_default=True, help="Seeds of fine-tuning.")
@click.option(
    "--headline-sft-seeds",
    type=click.IntRange(min=1),
    help="Seeds of fine-tuning of the headline.  [default: as many as --sft-seeds]",
)
@click.option("--part", type=click.Choice(("effects", "headline", "all")), default="all", show_default=True)
@click.option(
    "--budgets",
    default="0.5,1,2",
    show_default=True,
    callback=_words,
    help="Budgets of the headline, in parts of what the prescription takes; those beside 1 under one seed.",
)
@click.option(
    "--into", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Page to put the figures in."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=_OUT,
    show_default=True,
    help="Folder of the worlds and of what comes out; interventions.json is left there.",
)
def interventions(
    families: list[str],
    seeds: list[str],
    size: str,
    train_seeds: list[str],
    effectiveness_seeds: list[str],
    headline_seeds: list[str],
    sft_seeds: int,
    headline_sft_seeds: int | None,
    part: str,
    budgets: list[str],
    into: Path | None,
    as_json: bool,
    out: Path,
) -> None:
    """Try the remedies on planted worlds: chosen blind, trained, and measured against their placebos.

    What is there already is not made again, down to the single arm.
    """
    from ilp_service.benchmark.intervention_page import BEGIN, END
    from ilp_service.benchmark.intervention_page import page as made
    from ilp_service.benchmark.intervention_run import InterventionPlan, run_interventions
    from ilp_service.benchmark.run import Plan, deal, ordinary_steps
    from ilp_service.plugin_loading import load_plugins

    held_out, training, headline_on = (deal(families, some) for some in (seeds, train_seeds, headline_seeds))
    measured = deal(families, effectiveness_seeds)
    plugins = load_plugins(())
    caps = _numbers(budgets)
    plan = InterventionPlan(
        held_out, training, measured, size, out, sft_seeds, part, caps, headline_on, headline_sft_seeds
    )
    steps = ordinary_steps(Plan(plan.measured_worlds, training, size, out), plugins.causes, _say, _bar)
    report = run_interventions(plan, plugins, steps, _say, _bar)
    if into is not None:
        _put(into, made(report), BEGIN, END)
    click.echo(json.dumps(report) if as_json else made(report))
    _say(f"interventions.json is in {out}")


def _numbers(words: Sequence[str]) -> tuple[float, ...]:
    try:
        found = tuple(float(word) for word in words)
    except ValueError as error:
        raise click.BadParameter(
            f"{','.join(words)!r} holds something that is no number", param_hint="budgets"
        ) from error
    if not all(0 < number < 100 for number in found) or 1.0 not in found:
        raise click.BadParameter(
            f"{','.join(words)!r} is not a list of numbers above 0 with 1 among them", param_hint="budgets"
        )
    return found


def _put(into: Path, text: str, begin: str, end: str) -> None:
    """Text between the markers of a page."""
    from ilp_service.attribution.card import put_into
    from ilp_service.attribution.registration import read_card
    from ilp_service.tables import atomic_path

    whole = put_into(read_card(into), text, begin, end)
    with atomic_path(into) as temporary:
        temporary.write_text(whole, encoding="utf-8")
        temporary.chmod(into.stat().st_mode & 0o777)


def _causes() -> tuple[Cause, ...]:
    from ilp_service.plugin_loading import load_plugins

    return tuple(load_plugins(()).causes)


def _plan(worlds: Sequence[Place], size: str, folder: Path) -> Plan:
    from ilp_service.benchmark.run import Plan

    return Plan(tuple(worlds), (), size, folder)


def _labelled(plan: Plan, place: Place) -> tuple[str, pa.Table]:
    from ilp_service.benchmark.run import ordinary_steps

    steps = ordinary_steps(plan, (), _say, _bar)
    built = steps.build(place)
    return built.name, steps.label(built)


def _bar(name: str) -> Progress:
    """A bar on stderr that shows the stage of a world, where stderr is a terminal; one line a stage elsewhere."""
    import sys

    from tqdm import tqdm

    bar = tqdm(desc=name, leave=False, disable=None)
    told: set[str] = set()

    def show(stage: str, done: int, whole: int) -> None:
        if bar.disable and stage not in told:
            told.add(stage)
            print(f"{name}: {stage}", file=sys.stderr, flush=True)
        bar.set_description(f"{name} {stage}", refresh=False)
        bar.total, bar.n = whole, done
        bar.refresh()

    return show


def _build(family: str, seed: int, size: str, folder: Path, sft_seed: int) -> BuiltWorld:
    from ilp_service.benchmark.recipe import build_world

    name = f"{family}-{size}-{seed}"
    return build_world(folder / name, family=family, seed=seed, size=size, sft_seed=sft_seed, progress=_bar(name))


def _examine(built: BuiltWorld, causes: Sequence[Cause], folder: Path) -> Findings:
    from ilp_service.benchmark.signals import examine, work_dir
    from ilp_service.settings import Settings

    return examine(
        built,
        causes,
        Settings(work_dir=work_dir(folder)),
        lambda line: _say(f"{built.name}: {line}"),
        progress=True,
    )
