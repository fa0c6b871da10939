"""What a version was trained on and from, so that nobody has to be asked.

Whoever may register a version writes its tags, and need not be somebody who may read this machine's files. So a
version names local data only below the folders that the settings open to it; the settings themselves may name any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ilp_service.diagnosis.request import OPTIONAL
from ilp_service.errors import DataNotFoundError
from ilp_service.service.configuration import ModelDefaults
from ilp_service.tracking.artifacts import pinned
from ilp_service.tracking.origins import leads_out
from ilp_service.tracking.watch import LoggedData, Version

DATA, BASE, TRAJECTORY = "ilp.data", "ilp.base_model", "ilp.trajectory"
_REMOTE = ("runs:/", "mlflow-artifacts:/", "s3://", "gs://", "abfss://", "wasbs://", "hdfs://", "dbfs:/")
_STORES = ("runs:", "mlflow-artifacts:")
_TRAINING = {"training", "train", "fine-tuning", "finetuning"}


class NeedsDataError(DataNotFoundError):
    """Nobody says what the version was trained on, or it may not be read."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a diagnosis needs beside the checkpoint.

    Attributes:
        data: Absolute path, or artifact URI with the time of this look (see ``pinned``): every attempt of the job
            works on the same bytes, and the next job on what is there then.
        data_from: Who named it, for people.
        base: As in ``ilp diagnose --base``; ``None`` leaves it to the checkpoint's own files.
        trajectory: The same of the training record, as in ``DiagnosisRequest``; ``None`` says that there is none.
    """

    data: str
    data_from: str
    base: str | None
    trajectory: str | None


def find_inputs(
    version: Version,
    defaults: ModelDefaults,
    logged: Callable[[], Iterable[LoggedData]],
    data_dirs: Iterable[Path],
) -> Inputs:
    """Data, base and training record: from the version's tags, its run's logged data, or the settings.

    Args:
        version: With its own and its model's tags.
        defaults: What the settings say about its model.
        logged: Asks for the data sets of the version's run; called only where no tag names data.
        data_dirs: Folders below which a version may name files.

    Raises:
        NeedsDataError: No data is named, or what is named may not be read.
    """
    folders = [folder.expanduser().resolve() for folder in data_dirs]
    tags = {**version.model_tags, **version.tags}
    trajectory = _settled(defaults.trajectory) if defaults.trajectory else None
    if tags.get(TRAJECTORY):
        # Handed on as it was checked. The diagnosis looks up no tag by itself: a run's could name any file.
        trajectory = OPTIONAL + _allowed(tags[TRAJECTORY], f"the tag {TRAJECTORY}", folders)
    data, whom = _data(version, tags, defaults, logged, folders)
    # What the tag says is looked up again, and more gently, by the diagnosis itself.
    base = None if tags.get(BASE) else defaults.base
    return Inputs(data, whom, base, trajectory)


def _data(
    version: Version,
    tags: dict[str, str],
    defaults: ModelDefaults,
    logged: Callable[[], Iterable[LoggedData]],
    folders: list[Path],
) -> tuple[str, str]:
    if tags.get(DATA):
        return _allowed(tags[DATA], f"the tag {DATA}", folders), f"the tag {DATA}"
    problem = None
    found = list(logged()) if version.run_id else []
    # What a run trained on comes before what it was tested on.
    for one in sorted(found, key=lambda one: one.context.lower() not in _TRAINING):
        if one.context.lower() not in {*_TRAINING, ""}:
            continue
        try:
            return _allowed(one.uri, "the data set that its run logged", folders), "its run's logged data set"
        except NeedsDataError as error:
            problem = problem or error
    if defaults.data:
        return _settled(defaults.data), "the service's settings"
    if problem is not None:
        raise problem
    raise NeedsDataError(
        f"Nothing says what {version.name} version {version.number} was trained on; set the version's tag {DATA}, log "
        "the data set in the training run, or name it under 'models' in the service's config."
    )


def _settled(data: str) -> str:
    local = _local(data)
    return pinned(data) if local is None else str(local.expanduser().absolute())


def _local(named: str) -> Path | None:
    """A path of this machine; ``None`` for an artifact's URI."""
    if named.startswith(_REMOTE):
        return None
    return Path(unquote(urlsplit(named).path)) if named.startswith("file:") else Path(named)


def _allowed(named: str, whom: str, folders: list[Path]) -> str:
    local = _local(named)
    if local is None:
        if leads_out(named):
            raise NeedsDataError(f"{whom.capitalize()} names {named[:200]!r}, which has a '..' in it.")
        if named.startswith(_STORES) and urlsplit(named).netloc:
            # MLflow would send that host its password.
            raise NeedsDataError(
                f"{whom.capitalize()} names {named[:200]!r}, which has a host in it; write it with one slash, "
                "as an artifact of the tracking server."
            )
        return pinned(named)
    if "://" in named and not named.startswith("file:"):
        raise NeedsDataError(
            f"{whom.capitalize()} names {named[:200]!r}; expected a file below the service's data_dirs or an "
            "artifact's URI (runs:/…, mlflow-artifacts:/…, s3://…)."
        )
    for folder in folders:
        path = (local if local.is_absolute() else folder / local).resolve()
        if path.is_relative_to(folder) and (path.exists() or local.is_absolute()):
            if path.is_file():
                return str(path)
            raise NeedsDataError(f"{whom.capitalize()} names {named[:200]!r}, and there is no such file.")
    opened = ", ".join(map(str, folders)) or "none"
    raise NeedsDataError(
        f"{whom.capitalize()} names {named[:200]!r}, which is no file below a folder that versions may name data in "
        f"({opened}); put it there, add its folder to data_dirs, or name it under 'models' in the service's config."
    )
