"""Settings of the service, and where each of them came from.

Strongest first: flags of ``ilp serve``, ``ILP_SERVICE_*`` variables, the file of ``--config``, the defaults below. A
value may also be the content of a file, which ``ILP_SERVICE_<NAME>_FILE`` names: that is how secrets come in. What a
diagnosis does is set by the same ``ILP_*`` variables as for ``ilp diagnose``, or under ``settings`` of the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from ilp_service.errors import SettingsError

PREFIX = "ILP_SERVICE_"
DEFAULT = "default"
_ALIASES = {"webhook_secret": ("ILP_WEBHOOK_SECRET",), "tracking_uri": ("MLFLOW_TRACKING_URI",)}
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_MAX_FILE_BYTES = 65_536


class ModelDefaults(BaseModel):
    """What is known about models of a name when their versions do not say it themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str | None = Field(default=None, description="Their training data: a file, or an artifact's URI.")
    base: str | None = Field(default=None, description="Their base model: a folder, hub id or registry URI.")
    trajectory: str | None = Field(default=None, description="Their training record: a file or artifact URI.")
    settings: dict[str, Any] = Field(default={}, description="Settings of their diagnosis, before the common ones.")
    priority: int = Field(default=0, description="Of their jobs; higher goes first.")


class ServiceSettings(BaseModel):
    """All settings of the service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on; others than loopback need a token.")
    port: int = Field(default=8350, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    url: str | None = Field(
        default=None, description="Where MLflow reaches the service, for its webhook; none: host and port."
    )
    tracking_uri: str | None = Field(default=None, description="MLflow's address; none: mlruns/mlflow.db.")
    mlflow_page: str | None = Field(
        default=None, description="MLflow's address in people's browsers, for links; none: tracking_uri."
    )
    experiment: str = Field(default="ilp", description="MLflow experiment that runs go to.")
    database: str | None = Field(
        default=None, description="Of the jobs: a postgresql:// URL; none: SQLite at mlruns/ilp-service.db."
    )
    worker: str | None = Field(
        default=None, description="Name of this worker among several at one database; none: a new one at every start."
    )
    token: SecretStr | None = Field(default=None, description="Lets into page and API; needed unless on loopback.")
    webhook_secret: SecretStr | None = Field(default=None, description="MLflow signs its deliveries with it.")
    webhook_window: int = Field(default=300, ge=10, description="Older or later deliveries are refused, seconds.")
    interval: float = Field(default=30.0, gt=0.0, description="Between two looks at the registry, seconds.")
    backfill: bool = Field(default=False, description="Versions from before the first start are diagnosed as well.")
    names: tuple[str, ...] = Field(default=("*",), description="Patterns of model names that are diagnosed.")
    exclude: tuple[str, ...] = Field(
        default=("ilp-meta-classifier",), description="Patterns of model names that are not."
    )
    opt_in: bool = Field(default=False, description="Only models or versions with the tag ilp.enabled = true.")
    aliases: tuple[str, ...] = Field(default=(), description="Only versions that one of these aliases points at.")
    models: dict[str, ModelDefaults] = Field(default={}, description="Defaults by pattern of name, first match wins.")
    settings: dict[str, Any] = Field(default={}, description="Settings of every diagnosis; 'ilp settings' lists them.")
    data_dirs: tuple[Path, ...] = Field(
        default=(Path(),), description="A version may name data below these folders; the config may name any."
    )
    plugin_dirs: tuple[Path, ...] = Field(default=(), description="Folders with plugins; their code is run.")
    workers: int = Field(default=1, ge=1, le=64, description="Jobs that run at once in this process tree.")
    memory_mb: int | None = Field(default=None, ge=256, description="Most resident memory of a job; none: 80 % of all.")
    time_limit: float = Field(default=86_400.0, gt=0.0, description="Longest attempt of a job, seconds.")
    attempts: int = Field(default=5, ge=1, description="Most attempts where what failed can pass.")
    patience: float = Field(
        default=86_400.0, ge=0.0, description="How long a job waits for a tracking server that is down, seconds."
    )
    backoff: float = Field(default=2.0, gt=0.0, description="Before the second attempt, seconds; doubles up to 60.")
    grace: float = Field(default=15.0, ge=0.0, description="A job that is told to stop is killed after, seconds.")
    max_files: int = Field(default=10_000, ge=1, description="A checkpoint with more files is refused.")
    max_bytes: int = Field(default=2 * 2**40, ge=1, description="A checkpoint with more bytes is refused.")

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return self.host in _LOOPBACK or self.host.startswith("127.")

    def check(self) -> None:
        """Refuse what would let anybody in.

        Raises:
            SettingsError: An address that others can reach, and no token.
        """
        if not self.on_loopback and self.token is None:
            raise SettingsError(
                f"The service would listen on {self.host} without a token; set {PREFIX}TOKEN_FILE or {PREFIX}TOKEN, "
                "or listen on 127.0.0.1."
            )


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, and the origin of each: ``flag``, the name of a variable or file, or ``default``."""

    settings: ServiceSettings
    origins: Mapping[str, str]

    def lines(self) -> list[str]:
        """For people: every setting with its origin, secrets left out."""
        return [
            f"{name} = {_shown(getattr(self.settings, name))}    # {self.origins[name]}"
            for name in type(self.settings).model_fields
        ]


def load_configuration(
    flags: Mapping[str, object] | None = None,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Configuration:
    """Settings from all sources.

    Args:
        flags: By name; those that are ``None`` were not given.
        file: YAML; secrets are not read from it.
        environment: Variables; those of the process when not given.

    Raises:
        SettingsError: A name is unknown, a value is out of range, or a file cannot be read.
    """
    known = ServiceSettings.model_fields
    values: dict[str, Any] = {}
    origins = dict.fromkeys(known, DEFAULT)
    for name, value in _from_file(file).items() if file else ():
        values[name], origins[name] = value, str(file)
    surroundings = os.environ if environment is None else environment
    for variable in surroundings:
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX).removesuffix("_FILE").lower()
            if name not in known:
                raise SettingsError(f"{variable} is no setting of the service; 'ilp serve --print-config' lists them.")
    for name in known:
        for variable in (PREFIX + name.upper(), *_ALIASES.get(name, ())):
            found = _from_variable(variable, surroundings)
            if found is not None:
                text, origins[name] = found
                values[name] = _parsed(name, text)
                break
    for name, value in (flags or {}).items():
        if value is not None and value != ():
            values[name], origins[name] = value, "flag"
    try:
        return Configuration(ServiceSettings(**values), origins)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(step) for step in first["loc"])
        where = origins.get(str(first["loc"][0]), "flag") if first["loc"] else "flag"
        told = "" if name.startswith(("token", "webhook_secret", "database")) else f" is {first.get('input')!r}"
        raise SettingsError(f"Setting {name!r} of the service ({where}){told}: {first['msg']}.") from error


def _from_file(file: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"Config {file} cannot be read: {str(error).splitlines()[0]}; expected YAML.") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise SettingsError(f"Config {file} holds {type(loaded).__name__}; expected names with values.")
    unknown = sorted(str(name) for name in loaded if name not in ServiceSettings.model_fields)
    if unknown:
        raise SettingsError(
            f"Config {file} has unknown settings {', '.join(unknown)}; 'ilp serve --print-config' lists all."
        )
    secret = sorted({"token", "webhook_secret"} & set(loaded))
    if secret:
        raise SettingsError(
            f"Config {file} holds the secret {secret[0]}; keep it in a file of its own, named by "
            f"{PREFIX}{secret[0].upper()}_FILE."
        )
    return dict(loaded)


def _from_variable(variable: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Text and origin of a variable, or of the file that its ``_FILE`` sister names."""
    path = environment.get(f"{variable}_FILE")
    if path:
        try:
            with Path(path).open(encoding="utf-8") as stream:
                text = stream.read(_MAX_FILE_BYTES).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{variable}_FILE names {path}, which cannot be read ({error}).") from error
        if not text:
            raise SettingsError(f"{variable}_FILE names {path}, which is empty.")
        return text, f"{variable}_FILE"
    # An empty variable is an absent one: compose files have no other way to leave one out.
    return (environment[variable], variable) if environment.get(variable) else None


def _parsed(name: str, text: str) -> object:
    kind = str(ServiceSettings.model_fields[name].annotation)
    if "tuple" in kind:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if "dict" in kind:
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"{PREFIX}{name.upper()} is no YAML mapping: {str(error).splitlines()[0]}.") from error
    return text


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "(secret)"
    if isinstance(value, str) and "://" in value:
        from ilp_service.tracking.connection import shown

        return repr(value if value.startswith("sqlite") else shown(value))
    if isinstance(value, tuple):
        return "[" + ", ".join(str(part) for part in value) + "]"
    if isinstance(value, dict):
        return repr({key: part.model_dump() if isinstance(part, BaseModel) else part for key, part in value.items()})
    return repr(value)
