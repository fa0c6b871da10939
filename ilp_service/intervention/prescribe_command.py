"""The command ``ilp prescribe``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

if TYPE_CHECKING:
    from ilp_service.intervention.deciding import Registering

_FILE = click.Path(path_type=Path)
_CAP = click.FloatRange(0)


@click.command()
@click.argument("run_id")
@click.option("--budget-tokens", type=_CAP, help="Most training tokens beyond doing the training again.")
@click.option("--budget-documents", type=_CAP, help="Most documents from knowledge sources.")
@click.option("--budget-judgements", type=_CAP, help="Most pairs judged.")
@click.option("--budget-price", type=_CAP, help="Most for all of them, by the prices of the settings.")
@click.option("--seed", type=click.IntRange(0), help="Of the fine-tuning.  [default: that of the diagnosed training]")
@click.option("--output", type=_FILE, metavar="DIR", help="Folder that the model is copied to as well.")
@click.option("--dry-run", is_flag=True, help="Show what would be done; train and log nothing.")
@click.option("--no-train", is_flag=True, help="Log what would be done, for 'ilp export'; train nothing.")
@click.option("--name", help="Registered model that gets the new version.  [default: the diagnosed one]")
@click.option(
    "--register",
    type=click.Choice(("improved", "always", "never")),
    default="improved",
    show_default=True,
    help="When the new model becomes a version.",
)
@click.option(
    "--max-damage",
    type=click.FloatRange(0, 1),
    default=0.02,
    show_default=True,
    help="Share of the learned samples that may be lost for it to count as improved.",
)
@click.option("--effects", type=_FILE, metavar="FILE", help="Effects of remedies, in place of the project's own.")
@click.option("--recipe", type=_FILE, metavar="FILE", help="How the model was trained; see 'ilp intervene --help'.")
@click.option("--general", type=_FILE, metavar="FILE", help="General text to mix in: JSONL, parquet, text or a folder.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting; see 'ilp settings'.")
@click.option("--plugin-dir", "plugin_dirs", type=_FILE, multiple=True, help="Folder with plugins; runs their code.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
def prescribe(
    run_id: str,
    budget_tokens: float | None,
    budget_documents: float | None,
    budget_judgements: float | None,
    budget_price: float | None,
    seed: int | None,
    output: Path | None,
    dry_run: bool,
    no_train: bool,
    name: str | None,
    register: str,
    max_damage: float,
    effects: Path | None,
    recipe: Path | None,
    general: Path | None,
    overrides: tuple[str, ...],
    plugin_dirs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Mend the model that the diagnosis RUN_ID looked at, within a budget.

    Remedies are chosen sample by sample, by what each sample probably lacks, what each remedy is known to do about it
    and what that costs; samples at risk are treated as well. The model is trained again with all of them together,
    measured as it was diagnosed, and registered as a new version of the same model if it is better.

    Finished steps are kept: the same command goes on where it was interrupted.
    """
    from ilp_service.errors import SettingsError
    from ilp_service.intervention.bars import Terminal
    from ilp_service.intervention.choosing import Budget
    from ilp_service.intervention.deciding import PrescriptionRequest, decide
    from ilp_service.intervention.prescribing import carry_out, record
    from ilp_service.tracking.store import Tracking
    from ilp_service.tracking.stored_runs import read_run

    # JSON is YAML, and quotes keep a path a text.
    chosen = () if general is None else (f"intervention.general_text={json.dumps(str(general))}",)
    try:
        budget = Budget(budget_tokens, budget_documents, budget_judgements, budget_price)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    request = PrescriptionRequest(
        run_id=run_id,
        budget=budget,
        seed=seed,
        output=output,
        name=name,
        register=cast("Registering", register),
        max_damage=max_damage,
        effects=effects,
        recipe=recipe,
        plugin_dirs=plugin_dirs,
        overrides=(*overrides, *chosen),
    )
    tracking = Tracking(experiment=read_run(Tracking(), run_id).experiment)
    terminal = Terminal()
    decision = decide(request, tracking, terminal.say, bars=terminal.bars)
    if dry_run or no_train:
        logged = {} if dry_run else record(decision, tracking)
        if as_json:
            click.echo(json.dumps({**decision.public(), **logged}))
            return
        click.echo(decision.text)
        if logged:
            click.echo(f"Run: {logged['run_id']}")
        return
    terminal.say(decision.text)
    result = carry_out(decision, tracking, terminal.say, terminal.step)
    click.echo(json.dumps(result.public()) if as_json else result.text)
