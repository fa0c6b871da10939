"""The service's own book: which versions were handed in, where each job stands, and what MLflow has yet to be told.

Every change of a job's status and the notice that tells it are one transaction; what a method returned after is
safe from ``kill -9``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ilp_service.service.desk import STATUSES, UNFINISHED, Delivery, JobView, Page, Status, UnknownJobError
from ilp_service.service.ledger_tables import (
    as_tags,
    deliveries,
    marks,
    moment,
    notices,
    now,
    registrations,
    translated,
    workers,
)

STATUS, REASON, RUN = "ilp.status", "ilp.reason", "ilp.run_id"
_RESULTS = ("ilp.unlearned_rate", "ilp.top_cause")
_ENDED = {"done": "FINISHED", "failed": "FAILED", "refused": "FAILED", "needs_data": "FAILED", "cancelled": "KILLED"}
_LOOK_UP = 500
_CLAIM_SECONDS = 90
"""Longer than telling a notice takes; one that a dead worker had in hand is told by others after."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What MLflow is to be told about a job.

    Attributes:
        job_id: Of the job.
        model: Registered model.
        version: Its version.
        tags: Of the version; ``None`` takes one off.
        run_id: Its run.
        run_status: With which the run ends if it has not.
        number: Counts the changes of this row.
        due: When it is to be told, or until when the worker has it that tells it.
    """

    job_id: str
    model: str
    version: str
    tags: Mapping[str, str | None]
    run_id: str | None
    run_status: str | None
    number: int
    due: int


class Ledger:
    """Reads and writes the book; safe to use from any thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._several = engine.dialect.name != "sqlite"
        self._insert: Any = postgresql.insert if self._several else sqlite.insert

    def _writing(self) -> AbstractContextManager[sa.Connection]:
        return self.engine.begin()

    # Jobs

    def add(
        self, values: Mapping[str, object], delivery: Delivery | None, then: Callable[[sa.Connection], None]
    ) -> bool:
        """Write down a job unless it is there, with the delivery that announced it.

        Args:
            values: ``job_id, store, model, version, status, reason, priority, via``.
            delivery: Its webhook delivery.
            then: Called in the same transaction if the job is new.

        Returns:
            Whether the job is new.
        """
        row = {"progress": 0.0, "attempts": 0, "round": 0, "queued_at": now(), **values}
        with translated(self.engine), self._writing() as connection:
            statement = self._insert(registrations).values(**row).on_conflict_do_nothing()
            # The count of rows of such a statement means nothing with some drivers.
            new = connection.execute(statement.returning(registrations.c.job_id)).first() is not None
            if delivery is not None:
                seen = {"delivery_id": delivery.delivery_id[:200], "timestamp": delivery.timestamp}
                connection.execute(
                    self._insert(deliveries)
                    .values(**seen, job_id=row["job_id"], received_at=now())
                    .on_conflict_do_nothing()
                )
            if new:
                then(connection)
        return new

    def row(self, job_id: str, within: sa.Connection | None = None) -> sa.RowMapping:
        """All columns of a job.

        Raises:
            UnknownJobError: There is none.
        """
        reading = nullcontext(within) if within is not None else self.engine.connect()
        with translated(self.engine), reading as connection:
            query = sa.select(registrations).where(registrations.c.job_id == job_id)
            found = connection.execute(query).mappings().first()
        if found is None:
            raise UnknownJobError(job_id)
        return found

    def job(self, job_id: str) -> JobView:
        """A job as people see it.

        Raises:
            UnknownJobError: There is none.
        """
        return _view(self.row(job_id))

    def jobs(self, *, model: str | None, status: str | None, limit: int, after: str | None) -> Page:
        """See ``Desk.jobs``."""
        table, limit = registrations.c, max(1, min(limit, 1000))
        query = sa.select(registrations)
        if model:
            query = query.where(_of_model(model))
        if status:
            query = query.where(table.status == status)
        if place := _place(after):
            query = query.where(
                sa.or_(table.queued_at < place[0], sa.and_(table.queued_at == place[0], table.job_id < place[1]))
            )
        query = query.order_by(table.queued_at.desc(), table.job_id.desc()).limit(limit + 1)
        with translated(self.engine), self.engine.connect() as connection:
            found = connection.execute(query).mappings().all()
        some = found[:limit]
        return Page([_view(row) for row in some], _cursor(some[-1]) if len(found) > limit else None)

    def counts(self, *, model: str | None = None) -> dict[Status, int]:
        """See ``Desk.counts``."""
        query = sa.select(registrations.c.status, sa.func.count()).group_by(registrations.c.status)
        if model:
            query = query.where(_of_model(model))
        with translated(self.engine), self.engine.connect() as connection:
            found = {str(status): int(count) for status, count in connection.execute(query)}
        return {status: found.get(status, 0) for status in STATUSES}

    def change(
        self,
        job_id: str,
        values: Mapping[str, Any],
        *,
        only: Iterable[Status] = UNFINISHED,
        turn: int | None = None,
        then: Callable[[sa.Connection, sa.RowMapping], None] | None = None,
        tell: bool = True,
    ) -> bool:
        """Change a job if its status is among ``only``, and note down what MLflow is to be told.

        Args:
            job_id: Of the job.
            values: Columns.
            only: Statuses in which it may be changed; a job that was cancelled is not changed by its own worker.
            turn: The round in which it may be changed; what an earlier one finds says nothing of the next.
            then: Called with the changed row in the same transaction.
            tell: Whether MLflow is told of a new status.

        Returns:
            Whether it was changed.
        """
        with translated(self.engine), self._writing() as connection:
            table = registrations.c
            statement = sa.update(registrations).where(table.job_id == job_id, table.status.in_(list(only)))
            if turn is not None:
                statement = statement.where(table.round == turn)
            changed = connection.execute(statement.values(**values))
            if changed.rowcount == 0:
                return False
            row = self.row(job_id, connection)
            if tell and "status" in values:
                tags, run_status = told(row)
                self.note(connection, row, tags, run_status)
            if then is not None:
                then(connection, row)
        return True

    def known(self, store: str, versions: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, str]]:
        """Status and job of those of some versions that were handed in before, under whatever settings."""
        table, found = registrations.c, {}
        with translated(self.engine), self.engine.connect() as connection:
            for start in range(0, len(versions), _LOOK_UP):
                some = set(versions[start : start + _LOOK_UP])
                names = {model for model, _ in some}
                query = sa.select(table.model, table.version, table.status, table.job_id).where(
                    table.store == store, table.model.in_(names), table.version.in_({number for _, number in some})
                )
                for model, number, status, job_id in connection.execute(query):
                    if (model, number) in some:
                        found[(str(model), str(number))] = (str(status), str(job_id))
        return found

    def unfinished(self, worker: str, before: int) -> Sequence[sa.RowMapping]:
        """Jobs that wait, or are this worker's or nobody's that is known, and were queued and started before a time."""
        table = registrations.c
        others = sa.select(workers.c.worker).where(workers.c.worker != worker)
        query = (
            sa.select(registrations)
            .where(table.status.in_(list(UNFINISHED)), table.queued_at < before)
            .where(sa.or_(table.started_at.is_(None), table.started_at < before))
            .where(sa.or_(table.worker.is_(None), table.worker.not_in(others)))
            .order_by(table.queued_at)
            .limit(_LOOK_UP)
        )
        with translated(self.engine), self.engine.connect() as connection:
            return connection.execute(query).mappings().all()

    # Deliveries

    def seen(self, delivery_id: str) -> bool:
        """Whether a delivery was accepted before."""
        query = sa.select(deliveries.c.delivery_id).where(deliveries.c.delivery_id == delivery_id[:200])
        with translated(self.engine), self.engine.connect() as connection:
            return connection.execute(query).first() is not None

    def forget_deliveries(self, before: int) -> None:
        """Drop deliveries that are too old to be accepted anyway."""
        with translated(self.engine), self._writing() as connection:
            connection.execute(sa.delete(deliveries).where(deliveries.c.received_at < before))

    # Notices

    def note(
        self,
        connection: sa.Connection,
        row: sa.RowMapping,
        tags: Mapping[str, str | None],
        run_status: str | None = None,
    ) -> None:
        """Note down what MLflow is to be told about a job; joins what is still to be told."""
        if not tags and run_status is None:
            return
        query = sa.select(notices).where(notices.c.job_id == row["job_id"])
        before = connection.execute(query).mappings().first()
        values = {
            "tags": json.dumps({**(as_tags(before["tags"]) if before else {}), **tags}),
            "run_id": row["run_id"],
            "run_status": run_status,
            "number": before["number"] + 1 if before else 0,
            "due": 0,
        }
        names = {name: row[name] for name in ("job_id", "model", "version")}
        statement = self._insert(notices).values(**names, **values)
        if self._several:
            # Another worker may have the row in hand; it sees by the number that there is more to tell.
            del values["due"]
        connection.execute(statement.on_conflict_do_update(index_elements=["job_id"], set_=values))

    def due_notices(self, limit: int) -> list[Notice]:
        """What is to be told now, oldest first."""
        query = sa.select(notices).where(notices.c.due <= now()).order_by(notices.c.due).limit(limit)
        with translated(self.engine), self.engine.connect() as connection:
            return [_notice(row) for row in connection.execute(query).mappings()]

    def take_notice(self, notice: Notice) -> Notice | None:
        """Take a notice in hand, so that no other worker tells it meanwhile: two could tell old news after new ones.

        Returns:
            The latest of it; ``None`` when another worker has it or has told it.
        """
        if not self._several:
            return notice
        statement = sa.update(notices).where(notices.c.job_id == notice.job_id, notices.c.due <= now())
        with translated(self.engine), self._writing() as connection:
            until = now() + _CLAIM_SECONDS * 1_000_000
            row = connection.execute(statement.values(due=until).returning(notices)).mappings().first()
        return None if row is None else _notice(row)

    def notice_told(self, notice: Notice) -> None:
        """MLflow was told; news that came in between stay, and are due."""
        mine = self._in_hand(notice)
        with translated(self.engine), self._writing() as connection:
            connection.execute(sa.delete(notices).where(*mine, notices.c.number == notice.number))
            if self._several:
                connection.execute(sa.update(notices).where(*mine).values(due=0))

    def notice_later(self, notice: Notice, due: int) -> None:
        """MLflow could not be told; try again at ``due``."""
        with translated(self.engine), self._writing() as connection:
            connection.execute(sa.update(notices).where(*self._in_hand(notice)).values(due=due))

    def _in_hand(self, notice: Notice) -> list[sa.ColumnElement[bool]]:
        """The row of a notice, as long as nobody else took it."""
        same = [notices.c.job_id == notice.job_id]
        return [*same, notices.c.due == notice.due] if self._several else same

    # Workers and marks

    def alive(self, worker: str) -> int:
        """A worker says that it is there; returns the time by the clock of the database, which all workers share."""
        clock: sa.ColumnElement[int] = sa.literal(now())
        if self._several:
            clock = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()) * 1_000_000, sa.BigInteger)
        with translated(self.engine), self._writing() as connection:
            at = int(connection.execute(sa.select(clock)).scalar_one())
            statement = self._insert(workers).values(worker=worker, seen_at=at)
            connection.execute(statement.on_conflict_do_update(index_elements=["worker"], set_={"seen_at": at}))
        return at

    def gone(self, worker: str) -> None:
        """A worker left in order; what it left behind may be taken up at once."""
        with translated(self.engine), self._writing() as connection:
            connection.execute(sa.update(workers).where(workers.c.worker == worker).values(seen_at=0))

    def workers(self) -> set[str]:
        """All that are not known to be lost."""
        with translated(self.engine), self.engine.connect() as connection:
            return {str(name) for (name,) in connection.execute(sa.select(workers.c.worker))}

    def lost_workers(self, worker: str, before: int) -> list[str]:
        """Other workers that were not seen since, by the clock of the database."""
        query = sa.select(workers.c.worker).where(workers.c.seen_at < before, workers.c.worker != worker)
        with translated(self.engine), self.engine.connect() as connection:
            return [str(name) for (name,) in connection.execute(query)]

    def forget_worker(self, worker: str) -> None:
        """What a lost worker left behind was taken up."""
        with translated(self.engine), self._writing() as connection:
            connection.execute(sa.delete(workers).where(workers.c.worker == worker))

    def mark(self, name: str, value: str) -> str:
        """A fact, written down the first time and kept since."""
        with translated(self.engine), self._writing() as connection:
            connection.execute(self._insert(marks).values(name=name, value=value).on_conflict_do_nothing())
            return str(connection.execute(sa.select(marks.c.value).where(marks.c.name == name)).scalar_one())

    def get_mark(self, name: str) -> str | None:
        """A fact, if it was written down."""
        with translated(self.engine), self.engine.connect() as connection:
            found = connection.execute(sa.select(marks.c.value).where(marks.c.name == name)).scalar()
            return None if found is None else str(found)

    def set_mark(self, name: str, value: str) -> None:
        """Write a fact down, in place of what was there."""
        with translated(self.engine), self._writing() as connection:
            statement = self._insert(marks).values(name=name, value=value)
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


def _notice(row: sa.RowMapping) -> Notice:
    names = ("job_id", "model", "version", "run_id", "run_status", "number", "due")
    return Notice(**{name: row[name] for name in names}, tags=as_tags(row["tags"]))


def told(row: sa.RowMapping) -> tuple[dict[str, str | None], str | None]:
    """Tags of the version, and the end of the run, that tell a job's status; none stay on one that was left out."""
    status = str(row["status"])
    if status == "skipped":
        return dict.fromkeys((STATUS, REASON)), None
    tags: dict[str, str | None] = {STATUS: status, REASON: row["reason"]}
    if row["run_id"]:
        tags[RUN] = str(row["run_id"])
    if status in _ENDED and status != "done":
        # The figures of an earlier diagnosis would pass for this one's.
        tags |= dict.fromkeys(_RESULTS)
    if status == "done":
        tags |= {
            name: None if row[column] is None else (f"{row[column]:.6f}" if column == "unlearned_rate" else row[column])
            for name, column in zip(_RESULTS, ("unlearned_rate", "top_cause"), strict=True)
        }
    return tags, _ENDED.get(status) if row["run_id"] else None


def _of_model(part: str) -> sa.ColumnElement[bool]:
    """Whether a job's model has this in its name, in any case."""
    name = registrations.c.model
    # Some databases know small and capital letters of ASCII alone; what is written alike is found by all.
    alike = sa.func.lower(name).contains(part.lower(), autoescape=True)
    return sa.or_(alike, name.contains(part, autoescape=True))


def _view(row: sa.RowMapping) -> JobView:
    same: tuple[str, ...] = ("job_id", "model", "version", "status", "reason", "step", "progress", "attempts")
    same += ("priority", "via", "run_id", "report_uri", "unlearned_rate", "top_cause")
    queued = moment(row["queued_at"])
    assert queued is not None  # noqa: S101 - tells the type checker
    return JobView(
        **{name: row[name] for name in same},
        queued_at=queued,
        started_at=moment(row["started_at"]),
        ended_at=moment(row["ended_at"]),
    )


def _cursor(row: sa.RowMapping) -> str:
    return base64.urlsafe_b64encode(f"{row['queued_at']}:{row['job_id']}".encode()).decode()


def _place(cursor: str | None) -> tuple[int, str] | None:
    """What a cursor stands for; ``None`` for one that nobody gave out."""
    if not cursor or len(cursor) > 200:
        return None
    try:
        queued, _, job_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
        place = (int(queued), job_id)
    except (ValueError, binascii.Error):
        return None
    return place if 0 <= place[0] < 2**62 else None
