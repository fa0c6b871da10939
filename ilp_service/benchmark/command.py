"""``ilp benchmark``: worlds with planted causes, the classifier's training table, and scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ilp_service.benchmark.families import FAMILIES
from ilp_service.benchmark.sizes import SIZES

if TYPE_CHECKING:
    from ilp_service.benchmark.recipe import BuiltWorld
    from ilp_service.benchmark.signals import Findings
    from ilp_service.plugin import Cause

TRAINING_WORLDS = ("qwen2:0", "llama:1", "olmo2:1", "qwen2:2", "llama:3", "olmo2:4")
"""Worlds of the training table; scores are taken on worlds with other seeds."""

HELD_OUT_WORLDS = ("qwen2:100", "llama:101", "olmo2:102")


def _worlds(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, int]]:
    """``family:seed``, checked."""
    worlds = []
    for value in values:
        family, _, seed = value.partition(":")
        if family not in FAMILIES or not seed.isdigit():
            raise click.BadParameter(f"{value!r} is no world; write family:seed with a family of {', '.join(FAMILIES)}")
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
                default=Path("mlruns/worlds"),
                show_default=True,
                help="Where worlds are built and kept.",
            ),
        ):
            command = option(command)
        return command

    return add


@click.group()
def benchmark() -> None:
    """Worlds in which it is known why a sample was not learned."""


@benchmark.command()
@_world_options(HELD_OUT_WORLDS)
@click.option("--sft-seed", default=0, show_default=True, help="Seed of the fine-tuning.")
def build(worlds: list[tuple[str, int]], size: str, folder: Path, sft_seed: int) -> None:
    """Build worlds, and say where their parts are."""
    for family, seed in worlds:
        built = _build(family, seed, size, folder, sft_seed)
        click.echo(f"{built.name}: model {built.model}, base {built.base}, data {built.data}, truth {built.truth}")


@benchmark.command()
@_world_options(TRAINING_WORLDS)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("ilp_service/attribution/signals.parquet"),
    show_default=True,
    help="The table to write.",
)
def table(worlds: list[tuple[str, int]], size: str, folder: Path, out: Path) -> None:
    """Make the table of signals that the meta-classifier is trained from."""
    from ilp_service.benchmark.table import signals_table, write_signals

    causes = _causes()
    made = signals_table([_examine(_build(family, seed, size, folder, 0), causes, folder) for family, seed in worlds])
    write_signals(made, out)
    click.echo(f"{out}: {made.num_rows} rows, {made.num_columns} columns", err=True)


@benchmark.command()
@_world_options(HELD_OUT_WORLDS)
@click.option("--other-sft-seed", type=int, help="Also fine-tune with this seed, and count the controls that flip.")
def check(worlds: list[tuple[str, int]], size: str, folder: Path, other_sft_seed: int | None) -> None:
    """Diagnose worlds and print, as JSON lines, how much of what was planted is found."""
    from ilp_service.attribution.attribute import attribute
    from ilp_service.attribution.meta import builtin_meta
    from ilp_service.benchmark.score import flipped_controls, score_world
    from ilp_service.settings import Settings

    causes, meta = _causes(), builtin_meta()
    for family, seed in worlds:
        found = _examine(_build(family, seed, size, folder, 0), causes, folder)
        score = score_world(found, attribute(found.evidence, causes, meta, Settings().attribution)).public()
        if other_sft_seed is not None:
            other = _examine(_build(family, seed, size, folder, other_sft_seed), causes, folder)
            score["flipped_controls"] = flipped_controls(found, other)
        click.echo(json.dumps(score))


def _causes() -> tuple[Cause, ...]:
    from ilp_service.plugin_loading import load_plugins

    return tuple(load_plugins(()).causes)


def _build(family: str, seed: int, size: str, folder: Path, sft_seed: int) -> BuiltWorld:
    from tqdm import tqdm

    from ilp_service.benchmark.recipe import build_world

    name = f"{family}-{size}-{seed}"
    with tqdm(desc=name, leave=False, disable=None) as bar:

        def show(stage: str, done: int, whole: int) -> None:
            bar.set_description(f"{name} {stage}", refresh=False)
            bar.total, bar.n = whole, done
            bar.refresh()

        return build_world(folder / name, family=family, seed=seed, size=size, sft_seed=sft_seed, progress=show)


def _examine(built: BuiltWorld, causes: Sequence[Cause], folder: Path) -> Findings:
    from ilp_service.benchmark.signals import examine, work_dir
    from ilp_service.settings import Settings

    settings = Settings(work_dir=work_dir(folder))
    return examine(built, causes, settings, lambda line: click.echo(f"{built.name}: {line}", err=True), progress=True)
