"""The command ``ilp export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

if TYPE_CHECKING:
    from ilp_service.intervention.export import Form

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("run_id")
@click.option("--output", required=True, type=_FILE, metavar="FILE", help="The data file to write.")
@click.option(
    "--prescription", metavar="RUN_ID", help="Run of 'ilp prescribe'.  [default: the newest of the diagnosis]"
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("same", "trl", "axolotl", "llamafactory")),
    default="same",
    show_default=True,
    help="Rows as they came in, or as a trainer reads them.",
)
@click.option("--seed", type=click.IntRange(0), help="Of order and rounding.  [default: that of the prescription]")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
def export(
    run_id: str,
    output: Path,
    prescription: str | None,
    form: str,
    seed: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the repaired data set of the diagnosis RUN_ID, or of a prescription.

    Rows are removed, corrected, repeated and reordered as prescribed; all others stay as they are. Beside FILE stand
    a ledger of every change, texts for continued pre-training where there are any, and how to train on it.
    """
    from ilp_service.intervention.exporting import ExportRequest, export_prescription
    from ilp_service.tracking.store import Tracking

    request = ExportRequest(run_id, output, prescription, cast("Form", form), seed, overwrite)
    done = export_prescription(request, Tracking(), lambda line: click.echo(line, err=True))
    if done.masked_rows:
        click.echo(
            f"warning: {done.masked_rows} of {done.rows} rows have turns with weight 0, which are not to be learned; "
            "for a trainer that does not read weights use --format trl, axolotl or llamafactory",
            err=True,
        )
    if as_json:
        click.echo(json.dumps(done.public()))
        return
    actions = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(done.actions.items()))
    click.echo(f"{done.data}: {done.rows} rows with {done.samples} samples ({actions or 'nothing was changed'})")
    for path in (done.documents, done.ledger, done.training):
        if path is not None:
            click.echo(str(path))
