"""Looking models up: what a URI stands for in the registry, and getting its files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from ilp_service.errors import ModelNotFoundError, SourceUnreadableError, StorageError, TrackingError
from ilp_service.tracking.connection import is_down, is_missing, shown, translated
from ilp_service.tracking.downloads import hold, part, settle
from ilp_service.tracking.origins import BY_STORE, check_origin, leads_out

_MODEL_URI = re.compile(r"models:/+(?P<name>[^/@]+)(?:/(?P<version>[^/]+)|@(?P<alias>[^/]+))?/?$")
_RUN_URI = re.compile(r"runs:/+(?P<run_id>[^/]+)/(?P<path>.+?)/?$")
# A file in a model: the model is what MLflow takes it for.
_MODEL_FILE = re.compile(r"(?P<model>models:/+(?:m-[0-9a-f]{32}|[^/@]+@[^/]+|[^/@]+/[^/]+))/(?P<path>.+)$")
# Versions of which each names another as its source; a ring of them would have no end.
_LONGEST_CHAIN = 8


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that the tracking store knows.

    Attributes:
        uri: As it was given.
        resolved: The same without an alias: ``models:/name/3``, ``models:/m-…`` or ``runs:/…/path``.
        artifact_uri: Where its files are.
        name: Of the registered model.
        version: Number of the version, as text.
        alias: By which the version was asked for.
        run_id: Of the run that made it.
        model_id: Of the logged model (``m-…``), to which metrics can be linked.
        tags: Of the registered model, the run, the logged model and the version; later ones win.
    """

    uri: str
    resolved: str
    artifact_uri: str
    name: str | None = None
    version: str | None = None
    alias: str | None = None
    run_id: str | None = None
    model_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


def is_tracked(uri: str) -> bool:
    """Whether a URI is one that only a tracking store can resolve."""
    return uri.startswith(BY_STORE)


def find(client: Any, store: str, uri: str) -> ModelSource:  # noqa: ANN401 (MLflow has no types)
    """What ``uri`` stands for; an alias is resolved here, once.

    Raises:
        ModelNotFoundError: No such model, version, alias or run.
        SourceUnreadableError: The version is there, what it points to is gone.
        TrackingError: The store is down or refuses.
    """
    if match := _RUN_URI.match(uri):
        return _find_in_run(client, store, uri, match["run_id"], match["path"])
    match = _MODEL_URI.match(uri)
    if match is None:
        raise ModelNotFoundError(
            f"{uri!r} is not a model URI; write models:/name/3, models:/name@alias, models:/m-… or runs:/<run id>/path."
        )
    name, version, alias = unquote(match["name"]), match["version"], match["alias"]
    if version is None and alias is None:
        if name.startswith("m-"):
            return _find_logged(client, store, uri, name)
        raise ModelNotFoundError(f"{uri!r} names no version; write models:/{name}/1 or models:/{name}@alias.")
    return _find_version(client, store, uri, name, version, alias)


def _find_version(client: Any, store: str, uri: str, name: str, version: str | None, alias: str | None) -> ModelSource:  # noqa: ANN401
    from mlflow.exceptions import MlflowException

    with translated(store):
        try:
            model = client.get_registered_model(name)
        except MlflowException as error:
            if is_missing(error):
                known = ", ".join(sorted(m.name for m in client.search_registered_models(max_results=20)))
                raise ModelNotFoundError(
                    f"No model named {name!r} in {shown(store)}; registered there: {known or 'nothing yet'}."
                ) from error
            raise
        if version is not None and not version.isdecimal() and version != "latest":
            raise ModelNotFoundError(
                f"{uri!r}: {version!r} is not a version number; write models:/{name}@alias for an alias."
            )
        try:
            if alias is not None:
                found = client.get_model_version_by_alias(name, alias)
            elif version == "latest":
                found = max(
                    client.search_model_versions(f"name = '{name}'"), key=lambda v: int(v.version), default=None
                )
            else:
                found = client.get_model_version(name, version)
        except MlflowException as error:
            if not is_missing(error):
                raise
            found = None
        if found is None:
            if alias is not None:
                known = ", ".join(sorted(model.aliases)) or "none"
                raise ModelNotFoundError(f"Model {name!r} has no alias {alias!r}; its aliases: {known}.")
            numbers = sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))
            known = ", ".join(map(str, numbers[-10:])) or "none"
            raise ModelNotFoundError(f"Model {name!r} has no version {version}; its versions: {known}.")
    model_id = found.model_id or (found.source.rpartition("/")[2] if found.source.startswith("models:/m-") else None)
    tags = dict(model.tags)
    run_id = found.run_id or None
    artifact_uri = found.source
    inner = None
    try:
        if model_id is not None:
            inner = _find_logged(client, store, uri, model_id)
        elif found.source.startswith("runs:/"):
            inner = find(client, store, found.source)
    except ModelNotFoundError as error:
        raise SourceUnreadableError(
            f"models:/{name}/{found.version} says its files are at {found.source}, which is gone: {error}"
        ) from error
    if inner is not None:
        artifact_uri, run_id, model_id = inner.artifact_uri, run_id or inner.run_id, inner.model_id
        tags |= inner.tags
    return ModelSource(
        uri=uri,
        resolved=f"models:/{name}/{found.version}",
        artifact_uri=artifact_uri,
        name=name,
        version=str(found.version),
        alias=alias,
        run_id=run_id,
        model_id=model_id,
        tags={**tags, **found.tags},
    )


def _find_logged(client: Any, store: str, uri: str, model_id: str) -> ModelSource:  # noqa: ANN401
    from mlflow.exceptions import MlflowException

    with translated(store):
        try:
            logged = client.get_logged_model(model_id)
        except MlflowException as error:
            if is_missing(error):
                raise ModelNotFoundError(
                    f"No logged model {model_id!r} in {shown(store)} (asked for as {uri!r})."
                ) from error
            raise
        tags: dict[str, str] = {}
        if logged.source_run_id:
            try:
                tags = dict(client.get_run(logged.source_run_id).data.tags)
            except MlflowException as error:
                # The run may have been purged; its model lives on.
                if not is_missing(error):
                    raise
    return ModelSource(
        uri=uri,
        resolved=f"models:/{model_id}",
        artifact_uri=logged.artifact_location,
        run_id=logged.source_run_id or None,
        model_id=model_id,
        tags={**tags, **logged.tags},
    )


def _find_in_run(client: Any, store: str, uri: str, run_id: str, path: str) -> ModelSource:  # noqa: ANN401
    from mlflow.exceptions import MlflowException

    with translated(store):
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if is_missing(error) or "run id" in str(error).lower():
                raise ModelNotFoundError(f"No run {run_id!r} in {shown(store)} (asked for as {uri!r}).") from error
            raise
        if leads_out(path):
            raise ModelNotFoundError(f"{uri!r} has a '..' in it; name the artifact by its own path.")
        # Listing asks the place that the run's experiment names, with this user's password.
        check_origin(store, str(run.info.artifact_uri))
        first, _, rest = path.partition("/")
        if not any(item.path == first for item in client.list_artifacts(run_id)):
            # MLflow 3 keeps logged models outside the run's artifacts.
            for output in run.outputs.model_outputs if run.outputs else []:
                logged = client.get_logged_model(output.model_id)
                if logged.name == first:
                    location = logged.artifact_location.rstrip("/") + (f"/{rest}" if rest else "")
                    return ModelSource(
                        uri=uri,
                        resolved=f"runs:/{run_id}/{path}",
                        artifact_uri=location,
                        run_id=run_id,
                        model_id=logged.model_id,
                        tags={**run.data.tags, **logged.tags},
                    )
            have = ", ".join(sorted(item.path for item in client.list_artifacts(run_id))) or "none"
            raise ModelNotFoundError(f"Run {run_id} has no artifact or model {first!r}; its artifacts: {have}.")
    return ModelSource(
        uri=uri,
        resolved=f"runs:/{run_id}/{path}",
        artifact_uri=f"{run.info.artifact_uri.rstrip('/')}/{path}",
        run_id=run_id,
        tags=dict(run.data.tags),
    )


def place_of(client: Any, store: str, uri: str) -> str:  # noqa: ANN401
    """Where an artifact is, once it is sure that it may be asked for there.

    Args:
        client: Of the store.
        store: URI of the store.
        uri: Of an artifact; one of a run or a model is looked up.

    Raises:
        SourceUnreadableError: It would be asked for at a foreign host, or versions name each other in a ring.
        ModelNotFoundError: No such run, model or artifact.
        TrackingError: The store is down or refuses.
    """
    place = uri
    for _ in range(_LONGEST_CHAIN):
        check_origin(store, place)
        if not is_tracked(place):
            return place
        model, path = place, ""
        if match := _MODEL_FILE.match(place):
            model, path = match["model"], f"/{match['path']}"
        place = find(client, store, model).artifact_uri.rstrip("/") + path
    raise SourceUnreadableError(f"{uri!r} leads from one version to another without an end; register the files again.")


def local_folder(artifact_uri: str) -> Path | None:
    """The folder behind an artifact URI that is on this machine; ``None`` for a remote one."""
    if artifact_uri.startswith("file:"):
        return Path(unquote(urlsplit(artifact_uri).path))
    return (
        Path(artifact_uri) if "://" not in artifact_uri and not re.match(r"[a-z][a-z0-9+.-]+:", artifact_uri) else None
    )


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How much of a checkpoint is fetched at all.

    Attributes:
        files: Most files and folders.
        size: Most bytes of all files.
    """

    files: int
    size: int


def fetch(store: str, source: ModelSource, folder: Path, limits: FetchLimits | None = None) -> Path:
    """The model's files on this machine.

    Files of a local store are used where they lie and must not be written. Others are downloaded
    once into ``folder``; a download that was cut short is never taken for whole.

    Args:
        store: URI of the tracking store.
        source: The model.
        folder: For downloads.
        limits: A checkpoint beyond them is refused before it is downloaded.

    Raises:
        SourceUnreadableError: The files are gone, empty, too many or too large, or cannot be downloaded.
        TrackingError: The store is down or refuses.
    """
    import mlflow

    local = local_folder(source.artifact_uri)
    if local is not None:
        if not local.is_dir():
            raise SourceUnreadableError(
                f"{source.resolved} says its files are in {local}, but there is no such folder."
            )
        if limits is not None:
            _bounded(source, _walk(source, local), limits)
        return local
    key = hashlib.sha256(f"{store}\n{source.artifact_uri}".encode()).hexdigest()[:12]
    whole = folder / f"{_folder_name(source.resolved)}-{key}"
    # A copy from there may be older than the check.
    check_origin(store, source.artifact_uri)
    if hold(whole):
        return whole
    try:
        with translated(store), part(folder) as begun:
            place = place_of(mlflow.MlflowClient(store), store, source.artifact_uri)
            if limits is not None:
                _bounded(source, _listed(store, place), limits)
            got = Path(mlflow.artifacts.download_artifacts(artifact_uri=place, dst_path=str(begun), tracking_uri=store))
            if not got.is_dir() or not any(got.iterdir()):
                raise SourceUnreadableError(f"{source.resolved} has no files at {shown(source.artifact_uri)}.")
            return settle(got, whole)
    except (SourceUnreadableError, StorageError):
        raise
    except TrackingError as error:
        if is_down(error):
            raise
        raise _undownloadable(source, error) from error
    except Exception as error:  # each cloud's client raises errors of its own
        raise _undownloadable(source, error) from error


def _folder_name(resolved: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", resolved).strip("_")


def download_folders(folder: Path, resolved: str) -> list[Path]:
    """Copies of a model that ``fetch`` made in a folder."""
    # No pattern with the name in it: Python would keep one for every version.
    beginning = f"{_folder_name(resolved)}-"
    return [
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.name.startswith(beginning) and re.fullmatch(r"[0-9a-f]{12}", path.name.removeprefix(beginning))
    ]


def _bounded(source: ModelSource, entries: Iterator[tuple[str, int]], limits: FetchLimits) -> None:
    """Refuse a checkpoint with too many files or bytes, or with a name that leads out of its folder.

    Raises:
        SourceUnreadableError: It is one.
    """
    size = 0
    for count, (name, length) in enumerate(entries, 1):
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or re.match(r"[A-Za-z]:", name):
            raise SourceUnreadableError(
                f"{source.resolved} has a file named {name[:200]!r}, which leads out of its folder; register it again."
            )
        size += length
        if count > limits.files:
            raise SourceUnreadableError(
                f"{source.resolved} has more than {limits.files} files; register the checkpoint's own files alone."
            )
        if size > limits.size:
            raise SourceUnreadableError(
                f"{source.resolved} has more than {limits.size} bytes; raise the service's max_bytes if that is right."
            )


def _walk(source: ModelSource, folder: Path) -> Iterator[tuple[str, int]]:
    """Relative name and size of everything in a folder, links not followed.

    Raises:
        SourceUnreadableError: A link leads out of the folder, or something is no file, such as a pipe, whose reader
            would wait for ever.
    """
    root = Path(os.path.realpath(folder))
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                name = str(Path(entry.path).relative_to(folder))
                if entry.is_symlink():
                    if not _stays(root, Path(os.path.realpath(entry.path))):
                        raise SourceUnreadableError(
                            f"{source.resolved} has a link {name!r} that leads out of its folder; copy the file there."
                        )
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    raise SourceUnreadableError(f"{source.resolved} has {name!r}, which is no file; take it away.")
                yield name, entry.stat(follow_symlinks=False).st_size


def _stays(root: Path, real: Path) -> bool:
    """Whether a link stays in its folder; the snapshots of the Hugging Face cache are links into its own blobs."""
    if real.is_relative_to(root):
        return True
    snapshot = root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--")
    return snapshot and real.is_relative_to(root.parent.parent / "blobs")


def _listed(store: str, artifact_uri: str) -> Iterator[tuple[str, int]]:
    """The same of a folder of artifacts."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(artifact_uri, tracking_uri=store)
    waiting: list[str | None] = [None]
    while waiting:
        inside = waiting.pop()
        for entry in repository.list_artifacts(inside):
            yield str(entry.path), int(entry.file_size or 0)
            # A name that leads out is refused by whoever reads this, before it is asked for.
            if entry.is_dir:
                waiting.append(str(entry.path))


def _undownloadable(source: ModelSource, error: Exception) -> SourceUnreadableError:
    reason = " ".join(str(error).split())[:300]
    return SourceUnreadableError(
        f"The files of {source.resolved} at {shown(source.artifact_uri)} cannot be downloaded: {reason}"
    )
