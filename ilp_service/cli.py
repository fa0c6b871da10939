"""The command line: ``ilp``."""

from __future__ import annotations

import errno
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TextIO

import click

from ilp_service import __version__
from ilp_service.errors import IlpError, IlpWarning, SettingsError, StorageError


def say(line: str) -> None:
    """One line for people, on stderr; stdout is for results."""
    click.echo(line, err=True)


def blank_is_none(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """An empty option is an absent one: ``mlflow run`` has no other way to leave one out."""
    return value or None


def path_or_none(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Path | None:
    """A path, or nothing for an empty option."""
    return Path(value) if value else None


def whole_number(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A positive whole number, or nothing."""
    if not value:
        return None
    if not value.isdigit() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is no whole number above 0", context, parameter)
    return int(value)


class _Commands(click.Group):
    """Loads the heavy parts only when the command that needs them is called."""

    lazy: ClassVar[dict[str, tuple[str, str]]] = {
        "train": ("ilp_service.training.command", "train"),
        "serve": ("ilp_service.service.command", "serve"),
        "webhook": ("ilp_service.service.webhook_command", "webhook"),
        "demo": ("ilp_service.benchmark.demo", "demo"),
        "classifier": ("ilp_service.attribution.command", "classifier"),
        "intervene": ("ilp_service.intervention.command", "intervene"),
        "prescribe": ("ilp_service.intervention.prescribe_command", "prescribe"),
        "export": ("ilp_service.intervention.export_command", "export"),
        "benchmark": ("ilp_service.benchmark.command", "benchmark"),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.lazy])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        import importlib

        module, name = self.lazy[cmd_name]
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)  # noqa: S101 - tells the type checker
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="ilp")
def ilp() -> None:
    """Find the training samples that fine-tuning failed to teach, and why.

    Results go to stdout, everything else to stderr.
    """


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of everything that starts a diagnosis."""
    folder = click.Path(path_type=Path)
    for option in reversed(
        (
            click.option(
                "--data", metavar="FILE", callback=path_or_none, help="Training data: JSONL, JSON or parquet."
            ),
            click.option("--base", callback=blank_is_none, help="Base model: a folder, hub id or registry URI."),
            click.option("--trajectory", callback=blank_is_none, help="Training record: a file or artifact URI."),
            click.option("--config", metavar="FILE", callback=path_or_none, help="config.yaml of a run, or settings."),
            click.option(
                "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting; see 'ilp settings'."
            ),
            click.option("--limit", metavar="N", callback=whole_number, help="Only the first N samples."),
            click.option(
                "--plugin-dir", "plugin_dirs", type=folder, multiple=True, help="Folder with plugins; runs their code."
            ),
            click.option("--experiment", callback=blank_is_none, help="MLflow experiment.  [default: ilp]"),
        )
    ):
        command = option(command)
    return command


@ilp.command()
@click.argument("model_uri", required=False)
@request_options
@click.option("--dry-run", is_flag=True, help="Show three rendered samples and what would be scored, then stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
def diagnose(
    model_uri: str | None,
    data: Path | None,
    base: str | None,
    trajectory: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
    limit: int | None,
    plugin_dirs: tuple[Path, ...],
    experiment: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Diagnose the checkpoint MODEL_URI on the data it was fine-tuned on.

    MODEL_URI is models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID/PATH, a local folder or a hub id.
    """
    from ilp_service.diagnosis.request import DiagnosisRequest, read_config
    from ilp_service.settings import load_settings

    loaded = read_config(config) if config else {"inputs": {}, "settings": {}, "digests": {}}
    inputs = loaded["inputs"]
    expected = dict(loaded["digests"])
    if model_uri:
        expected.pop("model", None)
    if data:
        expected.pop("data", None)
    if base or model_uri:
        expected.pop("base", None)
    if trajectory or model_uri:
        expected.pop("trajectory", None)
    if any(override.replace(" ", "").startswith("attribution.classifier=") for override in overrides):
        expected.pop("classifier", None)
    if plugin_dirs:
        expected = {name: digest for name, digest in expected.items() if not name.startswith("plugin ")}
    given = model_uri
    model_uri, data_path = model_uri or inputs.get("model_uri"), data or inputs.get("data")
    if not model_uri or not data_path:
        missing = "MODEL_URI" if not model_uri else "--data"
        raise SettingsError(f"{missing} is missing; give it on the command line or in a config with inputs.")
    request = DiagnosisRequest(
        model_uri=model_uri,
        data=Path(data_path),
        settings=load_settings(loaded["settings"], overrides),
        base=base or inputs.get("base"),
        # A training record belongs to one model; another one's is looked up by its own tag.
        trajectory=trajectory or (inputs.get("trajectory") if not given else None),
        limit=limit or inputs.get("limit"),
        plugin_dirs=plugin_dirs or tuple(Path(folder) for folder in inputs.get("plugin_dirs") or ()),
        experiment=experiment or inputs.get("experiment") or "ilp",
        expected=expected,
    )
    if dry_run:
        from ilp_service.diagnosis.dry_run import show

        click.echo(show(request, say, as_json=as_json))
        return
    from ilp_service.diagnosis.run import diagnose as run

    result = run(request, say)
    if as_json:
        click.echo(json.dumps(result.public()))
    else:
        from ilp_service.report.text import summary_text

        click.echo(summary_text(result.summary))


@ilp.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
def settings(as_json: bool) -> None:
    """List every setting with its default and meaning."""
    from ilp_service.settings import describe_settings

    rows = describe_settings()
    if as_json:
        click.echo(json.dumps({row.name: row.default for row in rows}))
        return
    for row in rows:
        click.echo(f"{row.name} = {row.default!r}\n    {row.meaning}")


@ilp.group()
def plugins() -> None:
    """The causes, mitigations, knowledge sources and judges that are loaded."""


@plugins.command("list")
@click.option(
    "--plugin-dir", "plugin_dirs", type=click.Path(path_type=Path), multiple=True, help="Folder with plugins."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
def list_plugins(plugin_dirs: tuple[Path, ...], as_json: bool) -> None:
    """What is loaded, from where, and what could not be loaded."""
    from ilp_service.plugin_loading import describe_plugins, load_plugins

    loaded = load_plugins(plugin_dirs)
    rows = describe_plugins(loaded)
    if as_json:
        click.echo(json.dumps({"plugins": rows, "failures": dict(loaded.failures)}))
        return
    for row in rows:
        click.echo(f"{row['name']:<26} {row['kind'].replace('_', ' '):<16} {row['origin']}\n    {row['title']}")
    for origin, reason in loaded.failures.items():
        say(f"not loaded: {origin}: {reason}")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del filename, lineno, file, line
    if issubclass(category, IlpWarning):
        say(f"note: {message}")


_GOES_ON = {
    "diagnose": "; the same command goes on where it stopped",
    "prescribe": "; the same command goes on where it stopped",
    "intervene": "; the same command goes on after the last finished training",
    "train": "; with --save-every, the same command and --resume go on from the last checkpoint",
}
"""What is left of an interrupted command."""


def main() -> None:
    """Run ``ilp``; a user's error is one sentence and its exit code, never a traceback."""
    warnings.showwarning = _show_warning
    warnings.simplefilter("default", IlpWarning)
    try:
        ilp(standalone_mode=False)
    except IlpError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:  # stdout on a full disk, or a library's own write
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        say(f"error: {error.filename or 'The output'} cannot be written ({error.strerror}); free some space.")
        sys.exit(StorageError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        say("interrupted" + _GOES_ON.get("".join(sys.argv[1:2]), ""))
        sys.exit(130)


if __name__ == "__main__":
    main()
