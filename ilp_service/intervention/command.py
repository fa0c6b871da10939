"""The command ``ilp intervene``."""

from __future__ import annotations

import json
from pathlib import Path

import click

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("run_id")
@click.option("--causes", multiple=True, metavar="NAMES", help="Treat samples of these causes alone, e.g. a,b.")
@click.option(
    "--arms",
    multiple=True,
    metavar="NAMES",
    help="Remedies to try, e.g. knowledge_cpt,epoch_increment@epochs=global; see 'ilp plugins list'.  [default: all]",
)
@click.option("--budget", type=click.FloatRange(0), help="Most that it may cost, by the prices of the settings.")
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Seeds of the fine-tuning under which every remedy and placebo is trained.",
)
@click.option(
    "--lora/--full", "lora", default=None, help="Train an adapter, or all weights.  [default: as it was trained]"
)
@click.option(
    "--recipe", type=_FILE, metavar="FILE", help="How the model was trained, where that is not recorded; see below."
)
@click.option("--general", type=_FILE, metavar="FILE", help="General text to mix in: JSONL, parquet, text or a folder.")
@click.option("--dry-run", is_flag=True, help="Show what would be tried, on whom, at what price; train nothing.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting; see 'ilp settings'.")
@click.option("--plugin-dir", "plugin_dirs", type=_FILE, multiple=True, help="Folder with plugins; runs their code.")
@click.option("--experiment", metavar="NAME", help="MLflow experiment.  [default: that of the diagnosis]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
def intervene(
    run_id: str,
    causes: tuple[str, ...],
    arms: tuple[str, ...],
    budget: float | None,
    seeds: int,
    lora: bool | None,
    recipe: Path | None,
    general: Path | None,
    dry_run: bool,
    overrides: tuple[str, ...],
    plugin_dirs: tuple[Path, ...],
    experiment: str | None,
    as_json: bool,
) -> None:
    """Try the remedies for what the diagnosis RUN_ID found, each against a placebo.

    Every remedy is chosen by the attributed causes. The model is trained again from its base with that remedy, and
    measured as it was diagnosed; a placebo costs as much training and treats nothing. What a remedy recovers beyond
    its placebo proves the cause. RUN_ID is the run_id that 'ilp diagnose --json' prints.

    How the model was trained is read from the record of 'ilp train' or from its trajectory. Where neither tells, a
    YAML file given with --recipe does, with the names that 'ilp train' logs: loop.learning_rate, loop.batch_size,
    loop.decay, epochs, order, lora.rank and so on.

    Finished trainings are kept: the same command goes on where it was interrupted, and costs nothing once it is done.
    """
    from ilp_service.intervention.bars import Terminal
    from ilp_service.intervention.intervene import InterventionRequest, design_experiment, names_of
    from ilp_service.intervention.intervene import intervene as run
    from ilp_service.intervention.preview import preview
    from ilp_service.intervention.text import effects_text
    from ilp_service.tracking.store import Tracking
    from ilp_service.tracking.stored_runs import read_run

    # JSON is YAML, and quotes keep a path a text.
    chosen = () if general is None else (f"intervention.general_text={json.dumps(str(general))}",)
    request = InterventionRequest(
        run_id=run_id,
        causes=names_of(causes) or None,
        arms=names_of(arms),
        budget=budget,
        seeds=seeds,
        method=None if lora is None else "lora" if lora else "full",
        recipe=recipe,
        plugin_dirs=plugin_dirs,
        overrides=(*overrides, *chosen),
    )
    tracking = Tracking(experiment=experiment or read_run(Tracking(), run_id).experiment)
    terminal = Terminal()
    found = design_experiment(request, tracking, terminal.say, bars=terminal.bars)
    if dry_run:
        click.echo(json.dumps(found.public()) if as_json else preview(found))
        return
    terminal.say(preview(found))
    result = run(found, tracking, terminal.say, terminal.step)
    if as_json:
        click.echo(json.dumps(result.public()))
        return
    click.echo(effects_text(result.effects))
    click.echo(f"Report: {result.artifacts['report']}")
