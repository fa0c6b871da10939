"""Jobs from their announcement to their end: the desk where they are handed in, and the worker that does them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Protocol

import sqlalchemy as sa

from ilp_service.diagnosis.failure import sentence
from ilp_service.diagnosis.watching import STEPS
from ilp_service.errors import IlpError, StorageError
from ilp_service.service import leftovers
from ilp_service.service.configuration import ServiceSettings
from ilp_service.service.desk import (
    RETRYABLE,
    UNFINISHED,
    Delivery,
    JobView,
    Page,
    StateConflictError,
    Status,
    Submitted,
    UnknownJobError,
    Via,
)
from ilp_service.service.engine import JobEngine, step
from ilp_service.service.filters import Filters
from ilp_service.service.hands import Hands
from ilp_service.service.ledger import Ledger, told
from ilp_service.service.ledger_tables import database_url, now, open_engine
from ilp_service.service.neighbours import Neighbours
from ilp_service.service.notices import Notices
from ilp_service.service.supervision import COMMAND
from ilp_service.service.work import StoppingError, Surroundings, Work
from ilp_service.settings import Settings, load_settings
from ilp_service.tracking.connection import load_mlflow, shown, sqlite_path
from ilp_service.tracking.store import Tracking

LOG = logging.getLogger("ilp.service")
_HOUSE_SECONDS = 15.0
_KEEP_SECONDS = 2 * 86_400.0
_LOCK_TRIES = 100
_TURN_SECONDS = 0.1
_TAKING_SECONDS = 2.0
_LOCAL = "local"


class Counting(Protocol):
    """Counts what happens to jobs, for metrics."""

    def started(self, waited: float) -> None:
        """A job was started after so many seconds in the queue."""

    def ended(self, status: Status, seconds: float) -> None:
        """A job ended so many seconds after its start."""


class Jobs:
    """The desk (see ``desk.Desk``), and the worker behind it."""

    def __init__(self, settings: ServiceSettings, *, command: Sequence[str] = COMMAND) -> None:
        """Check the settings; nothing is opened before ``start``.

        Args:
            settings: Of the service.
            command: Starts a job's subprocess.

        Raises:
            SettingsError: A setting of the service or of a diagnosis is wrong.
        """
        self.settings = settings
        self.tracking = Tracking(settings.tracking_uri, settings.experiment)
        self.filters = Filters(settings)
        self._diagnosis = {pattern: self._load(part.settings) for pattern, part in settings.models.items()}
        self._common = self._load({})
        self._hashes: dict[str, str] = {}
        self._command = command
        self.counting: Counting | None = None
        self._stopping, self._woken = threading.Event(), threading.Event()
        self._hands = Hands()
        self._threads: list[threading.Thread] = []
        self._lock: IO[bytes] | None = None
        self._started = False

    def _load(self, own: Mapping[str, Any]) -> Settings:
        merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in own.items()}
        for key, value in self.settings.settings.items():
            if isinstance(value, Mapping):
                merged[key] = {**value, **merged.get(key, {})}
            else:
                merged.setdefault(key, value)
        return load_settings(merged)

    # Life

    def start(self) -> None:
        """Open the book and begin to work; jobs that were cut short go on.

        Raises:
            StorageError: The database cannot be used, or another service uses it.
            TrackingError: Its server does not answer.
        """
        load_mlflow()
        folder = (sqlite_path(self.tracking.uri) or Path("mlruns/mlflow.db")).absolute().parent
        url = database_url(self.settings.database, folder)
        local = url.get_backend_name() == "sqlite"
        engine = open_engine(url)
        if local:
            self._lock = _only_one(Path(str(url.database)))
        self.worker = _LOCAL if local else self.settings.worker or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._shared = not local
        self.ledger = Ledger(engine)
        self._around = Surroundings(
            settings=self.settings,
            ledger=self.ledger,
            tracking=self.tracking,
            filters=self.filters,
            diagnosis=self.diagnosis,
            worker=self.worker,
            work_dir=self._common.work_dir.absolute(),
            stopping=self._stopping,
            woken=self._woken,
            command=self._command,
        )
        self._neighbours = Neighbours(self.ledger, self.worker)
        self.notices = Notices(self.ledger, self.tracking, self._stopping, self._woken)
        if self._shared:
            # Before the first job: what is left behind is taken up only from workers that are known.
            self.ledger.alive(self.worker)
        self._queue = JobEngine(engine, self.worker, self.settings.workers)
        self._queue.start(self._run)
        self.notices.start()
        keeping = threading.Thread(target=self._keep_house, name="house", daemon=True)
        keeping.start()
        self._threads = [keeping]
        self._started = True

    def stop(self) -> None:
        """Stop in order: subprocesses are told, their runs end as KILLED, their jobs go back to the queue."""
        if not self._started or self._stopping.is_set():
            return
        self._stopping.set()
        self._woken.set()
        deadline = time.monotonic() + self.settings.grace + 15
        while self._hands and time.monotonic() < deadline:
            time.sleep(0.05)
        self.notices.stop(5.0)
        if self._shared:
            with contextlib.suppress(IlpError):
                self.ledger.gone(self.worker)
        self._queue.stop()
        for thread in self._threads:
            thread.join(5)
        self.ledger.engine.dispose()
        if self._lock is not None:
            self._lock.close()

    # The desk

    def submit(
        self, model: str, version: str, *, via: Via, priority: int = 0, delivery: Delivery | None = None
    ) -> Submitted:
        """See ``Desk.submit``."""
        return self._add(model, version, via, priority, delivery, self.filters.by_name(model))

    def leave_out(self, model: str, version: str, reason: str) -> Submitted:
        """Write down that a version is not diagnosed, so that nobody looks at it again."""
        return self._add(model, version, "reconcile", 0, None, reason)

    def _add(
        self, model: str, version: str, via: Via, priority: int, delivery: Delivery | None, left_out: str | None
    ) -> Submitted:
        job_id = self.job_id(model, version)
        priority = priority or self.filters.defaults(model).priority
        values = {
            "job_id": job_id,
            "store": self.store,
            "model": model,
            "version": version,
            "status": "skipped" if left_out else "queued",
            "reason": left_out,
            "priority": priority,
            "via": via,
        }

        def then(connection: sa.Connection) -> None:
            if left_out is None:
                self._queue.enqueue(connection, job_id, 0, priority)
                row = self.ledger.row(job_id, connection)
                self.ledger.note(connection, row, *told(row))

        new = self.ledger.add(values, delivery, then)
        if new:
            self._woken.set()
        return Submitted(job_id, new)

    def job(self, job_id: str) -> JobView:
        """See ``Desk.job``."""
        return self.ledger.job(job_id)

    def jobs(
        self, *, model: str | None = None, status: Status | None = None, limit: int = 100, after: str | None = None
    ) -> Page:
        """See ``Desk.jobs``."""
        return self.ledger.jobs(model=model, status=status, limit=limit, after=after)

    def counts(self, *, model: str | None = None) -> Mapping[Status, int]:
        """See ``Desk.counts``."""
        return self.ledger.counts(model=model)

    def cancel(self, job_id: str) -> JobView:
        """See ``Desk.cancel``."""
        row = self.ledger.row(job_id)
        values = {"status": "cancelled", "reason": "It was cancelled.", "ended_at": now()}
        if not self.ledger.change(job_id, values):
            raise StateConflictError(
                f"The job is {self.ledger.job(job_id).status}; only unfinished ones are cancelled."
            )
        # A job that runs sees it in the book; one that waits must not be taken any more.
        with contextlib.suppress(Exception):
            self._queue.cancel(job_id, row["round"])
        self._woken.set()
        return self.ledger.job(job_id)

    def retry(self, job_id: str) -> JobView:
        """See ``Desk.retry``."""
        row = self.ledger.row(job_id)
        if not self._again(row, RETRYABLE):
            raise StateConflictError(f"The job is {row['status']}; only finished ones are started again.")
        return self.ledger.job(job_id)

    def _again(self, row: sa.RowMapping, only: frozenset[Status]) -> bool:
        """Queue a job under its next round, in which nothing of the last one is taken for done but its slices."""
        turn = int(row["round"]) + 1
        fresh: dict[str, Any] = {"status": "queued", "reason": None, "step": None, "progress": 0.0, "ended_at": None}
        fresh |= {"round": turn, "queued_at": now(), "worker": None}
        if row["status"] in RETRYABLE:
            fresh |= {"unlearned_rate": None, "top_cause": None, "attempts": 0, "started_at": None}
        queued = self.ledger.change(
            row["job_id"],
            fresh,
            only=only,
            turn=turn - 1,
            then=lambda connection, new: self._queue.enqueue(connection, row["job_id"], turn, int(new["priority"])),
        )
        self._woken.set()
        return queued

    def seen(self, delivery_id: str, timestamp: int) -> bool:
        """See ``Desk.seen``."""
        del timestamp
        return self.ledger.seen(delivery_id)

    def ready(self) -> str | None:
        """See ``Desk.ready``."""
        if not self._started:
            return "The service is starting."
        if self._stopping.is_set():
            return "The service is stopping."
        try:
            with self.ledger.engine.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
        except sa.exc.SQLAlchemyError as error:
            return f"The service's database does not answer ({type(error).__name__})."
        return None

    # Names

    @property
    def store(self) -> str:
        """The tracking store without user and password: part of every job's id."""
        return shown(self.tracking.uri)

    def job_id(self, model: str, version: str) -> str:
        """The id of a version's job under the settings of now."""
        parts = [self.store, model, version, self._settings_hash(model)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def diagnosis(self, model: str) -> Settings:
        """The settings with which versions of a model are diagnosed."""
        defaults = self.filters.defaults(model)
        return next(
            (self._diagnosis[name] for name, part in self.settings.models.items() if part is defaults), self._common
        )

    def _settings_hash(self, model: str) -> str:
        defaults = self.filters.defaults(model)
        key = defaults.model_dump_json()
        if key not in self._hashes:
            settings = self.diagnosis(model).model_dump(mode="json", exclude={"work_dir", "scoring"})
            inputs = {"data": defaults.data, "base": defaults.base, "trajectory": defaults.trajectory}
            text = json.dumps([settings, inputs], sort_keys=True)
            self._hashes[key] = hashlib.sha256(text.encode()).hexdigest()
        return self._hashes[key]

    # The worker

    def _run(self, job_id: str, turn: int) -> None:
        """The durable workflow of one round of a job: what it did is written down step by step."""
        if self._stopping.is_set() or not self._hands.take((job_id, turn)):
            raise StoppingError
        work: Work | None = None
        try:
            while not self._hands.may_begin((job_id, turn)):
                if self._stopping.wait(_TURN_SECONDS):
                    raise StoppingError
            row = self.ledger.row(job_id)
            if row["round"] != turn:
                return
            work = Work(self._around, row)
            if not work.begin():
                return
            if self.counting is not None:
                self.counting.started((now() - row["queued_at"]) / 1e6)
            self._finish(job_id, turn, self._steps(work), work)
        except UnknownJobError:
            LOG.warning("job %s is not in the book", job_id)
        except (IlpError, sa.exc.SQLAlchemyError) as error:
            # The book itself cannot be written, say on a full disk: the job stays unfinished and is taken up later.
            LOG.warning("job %s is put off: %s", job_id, sentence(error))
            raise StoppingError from error
        except Exception as error:
            LOG.exception("job %s", job_id)
            self._finish(job_id, turn, {"status": "failed", "reason": sentence(error)}, None)
        finally:
            try:
                if work is not None:
                    work.close()
            finally:
                self._hands.leave((job_id, turn))

    def _steps(self, work: Work) -> dict[str, Any]:
        resolved = step("resolve", work.resolve)
        if "status" in resolved:
            return resolved
        found = resolved
        for name in STEPS[1:]:
            found = step(name, lambda name=name: work.step(name, resolved))  # type: ignore[misc]
            if "status" in found:
                return found
        return {"status": "done", **found}

    def _finish(self, job_id: str, turn: int, found: Mapping[str, Any], work: Work | None) -> None:
        status: Status = found["status"]
        values: dict[str, Any] = {"status": status, "reason": found.get("reason"), "ended_at": now()}
        if status == "done":
            values |= {"progress": 1.0, "step": "publish", "report_uri": found.get("report")}
            values |= {name: found.get(name) for name in ("unlearned_rate", "top_cause")}
        if self.ledger.change(job_id, values, turn=turn):
            ended = self.ledger.row(job_id)
            seconds = (values["ended_at"] - ended["started_at"]) / 1e6 if ended["started_at"] else 0.0
            why = f": {ended['reason']}" if ended["reason"] else ""
            LOG.info("job %s (%r %s) %s after %.0f s%s", job_id, ended["model"], ended["version"], status, seconds, why)
            if self.counting is not None:
                self.counting.ended(status, seconds)
        self._woken.set()
        if work is not None and status in {"done", "refused", "cancelled", "skipped"}:
            work.close()
            work.tidy()
            row = self.ledger.row(job_id)
            leftovers.drop_copies(self._around.work_dir, f"models:/{row['model']}/{row['version']}")

    def _keep_house(self) -> None:
        beat = 0
        while True:
            try:
                self._house(beat)
            except Exception as error:  # noqa: BLE001 - the next time it may do
                LOG.warning("housekeeping waits: %s", error)
            beat += 1
            if self._stopping.wait(_HOUSE_SECONDS):
                return

    def _house(self, beat: int) -> None:
        """Say that this worker lives, take up what lost ones left, and drop what is old."""
        if self._shared:
            for lost in self._neighbours.beat():
                LOG.warning("worker %s is lost; its %d jobs are taken up", lost, self._queue.recover(lost))
                self.ledger.forget_worker(lost)
        if beat % 4 == 2:
            self._take_up_strays()
        if beat % 240 == 1:
            self.ledger.forget_deliveries(now() - int(_KEEP_SECONDS * 1e6))
            self._queue.forget(datetime.now(UTC) - timedelta(seconds=_KEEP_SECONDS))
            # No attempt uses anything for longer than it may take.
            leftovers.tidy(self._around.work_dir, self.ledger, max(_KEEP_SECONDS, self.settings.time_limit))

    def _take_up_strays(self) -> None:
        """Queue jobs again that the book says are unfinished and that nobody has in hand.

        Such are left behind when the book could not be written, as on a full disk.
        """
        old = now() - int(2 * _HOUSE_SECONDS * 1e6)
        left = [row for row in self.ledger.unfinished(self.worker, old) if not self._in_hand(row)]
        # One that dbos took a moment ago is in hand a moment later.
        if not left or self._stopping.wait(_TAKING_SECONDS):
            return
        for row in left:
            if not self._in_hand(row):
                LOG.warning("job %s had been left behind; it is queued again", row["job_id"])
                with contextlib.suppress(Exception):
                    self._queue.cancel(row["job_id"], row["round"])
                self._again(row, UNFINISHED)

    def _in_hand(self, row: sa.RowMapping) -> bool:
        """Whether a job waits in the queue, or a worker that is known has it; dbos knows better than the book.

        A job that could not be begun, because the book could not be written, has no worker there.
        """
        state, taker = self._queue.status(row["job_id"], row["round"]) or ("", None)
        if state == "PENDING" and taker == self.worker:
            return (row["job_id"], row["round"]) in self._hands
        return state == "ENQUEUED" or (state == "PENDING" and taker in self.ledger.workers())


def _only_one(database: Path) -> IO[bytes]:
    """Hold a lock beside an SQLite database as long as this process lives.

    Raises:
        StorageError: Another service holds it.
    """
    path = database.with_name(f"{database.name}.lock")
    try:
        stream = path.open("ab")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
    # The service that was killed a moment ago may not be gone altogether.
    for attempt in range(_LOCK_TRIES):
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if attempt == _LOCK_TRIES - 1:
                break
            time.sleep(0.1)
        else:
            os.set_inheritable(stream.fileno(), False)
            return stream
    stream.close()
    raise StorageError(
        f"Another service uses {database}; stop it first, or set the service's database to a postgresql:// URL, which "
        "several can share."
    )
