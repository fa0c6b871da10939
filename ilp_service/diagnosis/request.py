"""What a diagnosis is asked to do, and the config file that repeats it."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ilp_service import __version__
from ilp_service.errors import SettingsError
from ilp_service.settings import Settings

VERSIONED = ("torch", "transformers", "tokenizers", "peft", "numpy", "scikit-learn", "pyarrow", "mlflow", "pluggy")
INPUTS = ("model_uri", "data", "base", "trajectory", "limit", "plugin_dirs", "experiment")
OPTIONAL = "optional:"
"""Before a training record that is left out with a warning where it does not fit; alone, it says that there is none."""
PARTS = ("inputs", "settings", "digests")
PLUGIN = "plugin"
"""How the names of plugins' digests begin."""


@dataclass(frozen=True, slots=True)
class DiagnosisRequest:
    """One diagnosis.

    Attributes:
        model_uri: Any form that ``checkpoints.reference.resolve`` takes.
        data: The training data.
        settings: Thresholds and knobs.
        base: The base model, where the checkpoint does not say it or says it wrongly.
        trajectory: Path or artifact URI of the training record, ``OPTIONAL`` before it where a misfit is no error;
            ``None`` looks for the version's tag ``ilp.trajectory``.
        limit: Diagnose the first so many samples only.
        plugin_dirs: Folders with plugins of the user's own; they are code and are run.
        experiment: MLflow experiment.
        expected: Digests that a replayed config promises, by name (``model``, ``data``, ``plugin …``).
    """

    model_uri: str
    data: Path
    settings: Settings
    base: str | None = None
    trajectory: str | None = None
    limit: int | None = None
    plugin_dirs: tuple[Path, ...] = ()
    experiment: str = "ilp"
    expected: Mapping[str, str | None] | None = None


def read_config(path: Path) -> dict[str, Any]:
    """A config file: ``inputs``, ``settings`` and ``digests``, or the settings alone.

    Raises:
        SettingsError: The file cannot be read, is not YAML, is no mapping, or an input is of the wrong kind.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(
            f"Config {path} cannot be read: {str(error).splitlines()[0]}; expected a YAML file."
        ) from error
    if not isinstance(loaded, dict):
        raise SettingsError(f"Config {path} holds {type(loaded).__name__}; expected a YAML mapping with 'settings'.")
    if "settings" not in loaded and "inputs" not in loaded:
        return {"inputs": {}, "settings": loaded, "digests": {}}
    parts = {name: loaded.get(name) or {} for name in PARTS}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise SettingsError(f"Config {path} has {part!r} under {name!r}; expected names with values.")
    inputs = parts["inputs"]
    unknown = sorted(str(name) for name in set(inputs) - set(INPUTS))
    if unknown:
        raise SettingsError(f"Config {path} has unknown inputs {', '.join(unknown)}; known are {', '.join(INPUTS)}.")
    for name, value in inputs.items():
        if value is not None and not _fits(name, value):
            expected = {"limit": "a whole number above 0", "plugin_dirs": "a list of folders"}.get(name, "text")
            raise SettingsError(f"Config {path} has the input {name!r} = {value!r}; expected {expected}.")
    return parts


def _fits(name: str, value: object) -> bool:
    if name == "limit":
        return isinstance(value, int) and not isinstance(value, bool) and value > 0
    if name == "plugin_dirs":
        return isinstance(value, list) and all(isinstance(folder, str) for folder in value)
    return isinstance(value, str)


def _from_anywhere(name: str | None) -> str | None:
    """A path of this machine made absolute; URIs and hub ids as they are."""
    return str(Path(name).expanduser().resolve()) if name and Path(name).expanduser().exists() else name


def config_text(
    request: DiagnosisRequest,
    resolved: str,
    trajectory: str | None,
    digests: Mapping[str, str | None],
    classifier: str | None = None,
) -> str:
    """The YAML file from which ``ilp diagnose --config`` repeats this run to the same tables.

    Args:
        request: What was asked for.
        resolved: The model, an alias resolved.
        trajectory: The training record that was used, whoever named it.
        digests: Of model, base, data, trajectory, classifier and plugins.
        classifier: The one that was used; an alias may point elsewhere by the time of the repetition.
    """
    settings = request.settings.model_dump(mode="json")
    settings.pop("work_dir")
    if classifier is not None:
        settings["attribution"]["classifier"] = classifier
    config = {
        "inputs": {
            "model_uri": resolved,
            "data": str(request.data.resolve()),
            "base": _from_anywhere(request.base),
            "trajectory": _from_anywhere(trajectory),
            "limit": request.limit,
            "plugin_dirs": [str(folder.resolve()) for folder in request.plugin_dirs],
            "experiment": request.experiment,
        },
        "settings": settings,
        "digests": dict(digests),
        "versions": {
            "ilp_service": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONED},
        },
    }
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


_MENDS = {
    "classifier": "take the one that is here with --set attribution.classifier=built-in or a models:/ URI",
    PLUGIN: "put back the plugin as it was, or name the folders to use with --plugin-dir",
}


def plugin_digests(digests: Mapping[str, str]) -> dict[str, str | None]:
    """The digests of plugins as a config holds them, beside those of the inputs."""
    return {f"{PLUGIN} {where}": digest for where, digest in digests.items()}


class ChangedInputError(SettingsError):
    """Weights, data or code are not those that a config was written for.

    Attributes:
        name: Of what differs: ``model``, ``data``, ``plugin …``.
        gone: Whether there is nothing any more.
    """

    def __init__(self, name: str, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.name = name
        self.gone = gone


def check_digests(expected: Mapping[str, str | None] | None, found: Mapping[str, str | None]) -> None:
    """Refuse to 'repeat' a run on other weights, data or code.

    Args:
        expected: What a config promises; names that are not among ``found`` are somebody else's to check.
        found: What is there now; ``None`` for what is not.

    Raises:
        ChangedInputError: A digest of the config differs from what was found.
    """
    for name, digest in (expected or {}).items():
        if digest is not None and name in found and found[name] != digest:
            mend = _MENDS.get(name.partition(" ")[0], f"name the {name} on the command line")
            raise ChangedInputError(
                name,
                f"The config was written for a {name} with digest {str(digest)[:12]}, found {str(found[name])[:12]}; "
                f"{mend} to diagnose with the same settings.",
                gone=found[name] is None,
            )
