"""``ilp classifier``: the meta-classifier in the model registry, and its card."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ilp_service.tracking.classifier import CHAMPION, MODEL_NAME

_PATH = click.Path(path_type=Path)


@click.group()
def classifier() -> None:
    """The classifier that weighs the evidence: register, show, describe."""


_signals = click.option(
    "--signals", type=_PATH, metavar="FILE", help="Table of signals to train from.  [default: the built-in one]"
)
_scores = click.option("--scores", type=_PATH, metavar="FILE", help="What 'ilp benchmark --json' printed.")
_experiment = click.option("--experiment", default="ilp", show_default=True, help="MLflow experiment.")
_outcomes = click.option(
    "--outcomes", "outcome_files", type=_PATH, multiple=True, metavar="FILE",
    help="outcomes.parquet of 'ilp intervene', to learn from besides; may be given several times.",
)  # fmt: skip
_weight = click.option(
    "--outcome-weight", type=click.FloatRange(min=0), default=1.0, show_default=True, metavar="W",
    help="How many rows of the table an outcome counts as.",
)  # fmt: skip
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")


@classifier.command()
@_signals
@_outcomes
@_weight
@_scores
@click.option("--card", "card_file", type=_PATH, metavar="FILE", help="Card of your own instead of the made one.")
@click.option("--alias", metavar="NAME", help=f"Point this alias at the version; diagnoses take '{CHAMPION}'.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the training.")
@_experiment
@_json
def register(
    signals: Path | None,
    outcome_files: tuple[Path, ...],
    outcome_weight: float,
    scores: Path | None,
    card_file: Path | None,
    alias: str | None,
    seed: int,
    experiment: str,
    as_json: bool,
) -> None:
    """Train the classifier and register it as the next version of ilp-meta-classifier."""
    from ilp_service.attribution.card import card, read_scores, score_values
    from ilp_service.attribution.outcomes import read_outcomes
    from ilp_service.attribution.registration import read_card, read_signals
    from ilp_service.attribution.registration import register as run
    from ilp_service.settings import load_settings
    from ilp_service.tracking.store import Tracking

    measured = read_scores(scores) if scores else None
    table = read_signals(signals)
    outcomes = read_outcomes(outcome_files, outcome_weight)
    learned = outcomes.facts(table.table) if outcomes else None
    text = read_card(card_file) if card_file else card(table.table, measured, learned)
    tracking = Tracking(experiment=experiment)
    downloads = load_settings().work_dir / "downloads"
    metrics = score_values(measured)
    version = run(tracking, table, seed=seed, text=text, downloads=downloads, metrics=metrics, outcomes=outcomes)
    if alias:
        tracking.set_alias(MODEL_NAME, str(version.version), alias)
    found = {
        "model": version.resolved,
        "alias": alias,
        "run_id": version.run_id,
        "signals_digest": table.facts.digest,
        "rows": table.facts.rows,
        "outcomes": learned,
        "digest": version.tags.get("ilp.digest"),
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{version.resolved}, trained from {table.facts.rows} rows of {signals or 'the built-in table'}")
    if learned:
        click.echo(f"and from {learned['rows']} outcomes of interventions, each counted as {learned['weight']:g} rows.")
        if learned["left_out"]:
            click.echo(f"{learned['left_out']} outcomes were left out: of a cause without rows, or contradicting.")
    if alias != CHAMPION:
        click.echo(
            f"Diagnoses do not take it yet: 'mlflow' or --alias {CHAMPION} gives it the alias that they look for."
        )


@classifier.command()
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting, as for 'ilp diagnose'.")
@click.option("--plugin-dir", "plugin_dirs", type=_PATH, multiple=True, help="Folder with plugins; runs their code.")
@_json
def show(overrides: tuple[str, ...], plugin_dirs: tuple[Path, ...], as_json: bool) -> None:
    """Say which classifier a diagnosis would use here, and why."""
    from ilp_service.attribution.chosen import choose_classifier
    from ilp_service.attribution.registration import description
    from ilp_service.plugin_loading import load_plugins
    from ilp_service.settings import load_settings
    from ilp_service.tracking.connection import shown
    from ilp_service.tracking.store import Tracking

    settings = load_settings(overrides=overrides)
    tracking = Tracking()
    causes = load_plugins(plugin_dirs).causes
    chosen = choose_classifier(settings.attribution.classifier, tracking, causes, settings.work_dir / "downloads")
    found = {**chosen.record(), "store": shown(tracking.uri), **description(chosen)}
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f"{name:<14}  {', '.join(map(str, value)) if isinstance(value, list) else value}")


@classifier.command()
@_signals
@_scores
@click.option("--into", type=_PATH, metavar="FILE", help="Page whose made part is replaced, instead of stdout.")
def card(signals: Path | None, scores: Path | None, into: Path | None) -> None:
    """Print the classifier's card: worlds, rows a cause, scores, limits."""
    from ilp_service.attribution.card import card as write
    from ilp_service.attribution.card import put_into, read_scores
    from ilp_service.attribution.registration import read_card, read_signals
    from ilp_service.tables import atomic_path

    text = write(read_signals(signals).table, read_scores(scores) if scores else None)
    if into is None:
        click.echo(text.rstrip())
        return
    page = put_into(read_card(into), text)
    with atomic_path(into) as temporary:
        temporary.chmod(into.stat().st_mode)
        temporary.write_text(page, encoding="utf-8")
