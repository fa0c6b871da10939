"""Tables of the service's own book, and the database they are in: SQLite in WAL mode, or PostgreSQL."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from ilp_service.errors import SettingsError, StorageError, TrackingError
from ilp_service.tables import storage_errors
from ilp_service.tracking.connection import shown

BUSY_SECONDS = 30
"""How long a writer waits for another one in SQLite."""

_MAKING = 4_772_100_915
"""Of the lock that is held in PostgreSQL while tables are made; any number that nobody else takes."""

_metadata = sa.MetaData()

registrations = sa.Table(
    "ilp_registrations",
    _metadata,
    sa.Column("job_id", sa.String(32), primary_key=True),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("step", sa.String(16)),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("via", sa.String(16), nullable=False),
    sa.Column("queued_at", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("worker", sa.String(200)),
    sa.Column("run_id", sa.String(64)),
    sa.Column("report_uri", sa.Text),
    sa.Column("unlearned_rate", sa.Float),
    sa.Column("top_cause", sa.Text),
    sa.Index("ilp_registrations_latest", "queued_at", "job_id"),
    sa.Index("ilp_registrations_status", "status", "queued_at"),
    sa.Index("ilp_registrations_version", "store", "model", "version"),
)
"""Jobs. Times are microseconds since 1970, UTC; ``round`` counts how often a job was retried by a person."""

deliveries = sa.Table(
    "ilp_deliveries",
    _metadata,
    sa.Column("delivery_id", sa.String(200), primary_key=True),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("job_id", sa.String(32), nullable=False),
    sa.Column("received_at", sa.BigInteger, nullable=False, index=True),
)
"""Webhook deliveries that were accepted."""

notices = sa.Table(
    "ilp_notices",
    _metadata,
    sa.Column("job_id", sa.String(32), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("run_id", sa.String(64)),
    sa.Column("run_status", sa.String(16)),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("due", sa.BigInteger, nullable=False, index=True),
)
"""What MLflow has yet to be told, one row a job: later news join or replace earlier ones."""

workers = sa.Table(
    "ilp_workers",
    _metadata,
    sa.Column("worker", sa.String(200), primary_key=True),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
)
"""Who works at this database, and when they were last seen alive, by its clock."""

marks = sa.Table(
    "ilp_marks", _metadata, sa.Column("name", sa.String(200), primary_key=True), sa.Column("value", sa.Text)
)
"""Single facts, such as when the service first looked at a registry."""


def now() -> int:
    """Microseconds since 1970."""
    return int(datetime.now(UTC).timestamp() * 1_000_000)


def moment(microseconds: int | None) -> datetime | None:
    """The same as a time."""
    return None if microseconds is None else datetime.fromtimestamp(microseconds / 1_000_000, UTC)


def database_url(given: str | None, folder: Path) -> sa.URL:
    """The URL of the book: the one given, or SQLite in ``folder``.

    Raises:
        SettingsError: It is neither SQLite nor PostgreSQL.
    """
    if given is None:
        return sa.URL.create("sqlite", database=str(folder.absolute() / "ilp-service.db"))
    try:
        url = sa.make_url(given)
    except sa.exc.ArgumentError as error:
        raise SettingsError("The service's database is no URL; write postgresql://user@host/name.") from error
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        return url
    raise SettingsError(
        f"The service's database is {shown(given)}; expected postgresql://user@host/name, or sqlite:////path/of/file."
    )


def open_engine(url: sa.URL) -> sa.Engine:
    """Connect, and make the tables that are not there.

    Raises:
        StorageError: The file cannot be made or written.
        TrackingError: The database server does not answer.
    """
    if url.get_backend_name() == "sqlite":
        path = Path(str(url.database))
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        # Deliveries are few and short, and each worker thread of the jobs holds one connection now and then.
        engine = sa.create_engine(url, pool_size=10, max_overflow=20, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _set_up_sqlite)
    else:
        engine = sa.create_engine(
            url, pool_size=10, max_overflow=20, pool_pre_ping=True, connect_args={"connect_timeout": 10}
        )
    with translated(engine), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # Several services that start at once would each make what the others are making.
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MAKING})
        _metadata.create_all(connection)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 (the driver's own type)
    connection.isolation_level = "IMMEDIATE"
    # Its own knows ASCII alone.
    connection.create_function("lower", 1, lambda text: None if text is None else str(text).lower(), deterministic=True)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_SECONDS * 1000}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


@contextlib.contextmanager
def translated(engine: sa.Engine) -> Iterator[None]:
    """Turn what the database raises into a sentence.

    Raises:
        StorageError: The book cannot be written or read.
        TrackingError: Its server does not answer.
    """
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise StorageError("The service's database has no connection free; try again in a moment.") from error
    except sa.exc.DatabaseError as error:
        if isinstance(error, sa.exc.IntegrityError | sa.exc.ProgrammingError | sa.exc.DataError):
            raise
        first = str(error.orig).splitlines()[0] if str(error.orig) else type(error.orig).__name__
        where = shown(engine.url.render_as_string(hide_password=True))
        if engine.dialect.name == "sqlite":
            raise StorageError(f"The service's database {where} cannot be used: {first}.") from error
        raise TrackingError(f"The service's database {where} does not answer: {first}.") from error


def as_tags(text: str) -> dict[str, str | None]:
    """The tags of a notice."""
    loaded: dict[str, str | None] = json.loads(text)
    return loaded
