"""Reaching the MLflow store: which one, is it up, and what its errors mean to a user."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from ilp_service.errors import IlpError, StorageError, TrackingError
from ilp_service.tracking.grants import missing_grant

PROBE_SECONDS = 5
"""How long a store may take to answer the first call, seconds."""

_PROBE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PROBE_SECONDS)}
# MLflow's own defaults retry a dead server for minutes.
_DURING_RUN = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_UNREACHABLE = ("max retries exceeded", "connection refused", "timed out", "connection aborted", "failed to establish")
_REFUSED = ("permission_denied", "unauthenticated", "403", "401")
_FAILING = re.compile(r"too many (\d+) error responses")
_FULL = ("disk is full", "no space left")


def default_uri() -> str:
    """The embedded store of the current folder: ``mlruns/mlflow.db``."""
    return f"sqlite:///{Path.cwd() / 'mlruns' / 'mlflow.db'}"


def choose_uri(uri: str | None) -> str:
    """The URI given, else ``MLFLOW_TRACKING_URI``, else the embedded store."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri()


def sqlite_path(uri: str) -> Path | None:
    """The database file behind a ``sqlite:///`` URI, absolute; ``None`` for every other store."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute()


def shown(uri: str) -> str:
    """The URI without user name, password and query, fit for a message."""
    if (database := sqlite_path(uri)) is not None:
        return str(database)
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def load_mlflow() -> None:
    """Import MLflow whole; to be called before threads that use it are started.

    Threads that import it at once meet each other's half-made modules, and it then stays broken in this process.
    """
    import mlflow  # noqa: F401


def prepare(uri: str) -> None:
    """Check that the store can be reached before MLflow's long retries start, and quieten MLflow.

    A web server is not asked here: its probe is the first real call, made under ``probing``.

    Raises:
        TrackingError: The database file is none, or its server does not answer.
        StorageError: The folder of the database cannot be written.
    """
    for name, value in _DURING_RUN.items():
        os.environ.setdefault(name, value)
    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    path = sqlite_path(uri)
    if path is not None:
        _check_sqlite(path)
    elif urlsplit(uri).scheme.partition("+")[0] in {"postgresql", "mysql", "mssql"}:
        _check_database(uri)


def _check_sqlite(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder {path.parent} of the tracking store cannot be made: {error.strerror}."
        ) from error
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=PROBE_SECONDS)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error as error:
        raise TrackingError(
            f"The tracking store {path} cannot be opened ({error}); point MLFLOW_TRACKING_URI at an MLflow database."
        ) from error
    if not os.access(path, os.W_OK):
        raise StorageError(f"The tracking store {path} may not be written; check its permissions.")


def _check_database(uri: str) -> None:
    parts = urlsplit(uri)
    port = parts.port or {"postgresql": 5432, "mysql": 3306}.get(parts.scheme.partition("+")[0], 1433)
    # Without a host the driver uses a local socket, which fails at once by itself.
    if not parts.hostname:
        return
    try:
        socket.create_connection((parts.hostname, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise _unreachable(uri) from error


@contextlib.contextmanager
def probing() -> Iterator[None]:
    """Give up after ``PROBE_SECONDS``, without retries, on calls to a web server made inside."""
    with _environment(_PROBE):
        yield


@contextlib.contextmanager
def made_once(uri: str) -> Iterator[None]:
    """Let one process at a time make the tables of an embedded store; two at once break it."""
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    # The folder itself is locked, so that no file is left behind; the lock ends with the process at the latest.
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn what MLflow, its transport and its database raise into one sentence for the user.

    Raises:
        TrackingError: The store is down or refuses.
        StorageError: The disk is full or may not be written.
    """
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except IlpError:
        raise
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, requests.RequestException) as error:
        raise _sentence(uri, error) from error
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise _unreachable(uri) from error
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG}:
            raise StorageError(f"Writing to the tracking store {shown(uri)} failed: {error.strerror}.") from error
        raise


class _StoreDownError(TrackingError):
    """The server does not answer, or lets this user do nothing."""


def _unreachable(uri: str) -> TrackingError:
    return _StoreDownError(
        f"The tracking server {shown(uri)} does not answer; start it, or point MLFLOW_TRACKING_URI at one that runs."
    )


def _sentence(uri: str, error: Exception) -> IlpError:
    text = str(error)
    lowered = f"{getattr(error, 'error_code', '')} {text}".lower()
    if any(mark in lowered for mark in _FULL):
        return StorageError(f"The tracking store {shown(uri)} cannot be written: the disk is full.")
    if answered := _FAILING.search(lowered):
        return _StoreDownError(
            f"The tracking server {shown(uri)} answers with HTTP {answered[1]}; look at its log, or try again later."
        )
    if any(mark in lowered for mark in _UNREACHABLE):
        return _unreachable(uri)
    first = " ".join(text.split())[:300].replace(uri, shown(uri))
    if any(mark in lowered for mark in _REFUSED):
        grant = missing_grant(text) if "403" in lowered or "permission_denied" in lowered else None
        if grant is not None:
            return _StoreDownError(f"The tracking server {shown(uri)} refuses ({first}); this user needs {grant}.")
        return _StoreDownError(
            f"The tracking server {shown(uri)} refuses ({first}); "
            "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and that this user may write."
        )
    return TrackingError(f"The tracking store {shown(uri)} answered with an error: {first}")


def is_down(error: TrackingError) -> bool:
    """Whether the store itself cannot be used, as against one thing in it."""
    return isinstance(error, _StoreDownError)


def is_missing(error: Exception) -> bool:
    """Whether an MLflow error says that the thing asked for does not exist."""
    code = str(getattr(error, "error_code", ""))
    return code == "RESOURCE_DOES_NOT_EXIST" or (
        code == "INVALID_PARAMETER_VALUE" and "not found" in str(error).lower()
    )
