"""A desk in memory that keeps the promises of ``ilp_service.service.desk``."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ilp_service.errors import StorageError
from ilp_service.service.desk import (
    RETRYABLE,
    STATUSES,
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

EARLIER = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


class MadeUpDesk:
    """Jobs in a dictionary, oldest first."""

    def __init__(self) -> None:
        self.made: dict[str, JobView] = {}
        self.deliveries: list[Delivery] = []
        self.why_not: str | None = None
        self.full = False
        self._lock = threading.Lock()

    def put(self, model: str, version: str = "1", status: Status = "queued", **facts: Any) -> JobView:  # noqa: ANN401
        """A job as it is wished."""
        job_id = hashlib.md5(f"{model}\n{version}".encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
        queued_at = EARLIER + timedelta(seconds=len(self.made))
        view = JobView(
            job_id=job_id, model=model, version=version, status=status, reason=None, step=None, progress=0.0,
            attempts=0, priority=0, via="webhook", queued_at=queued_at, started_at=None, ended_at=None,
            run_id=None, report_uri=None, unlearned_rate=None, top_cause=None,
        )  # fmt: skip
        self.made[job_id] = dataclasses.replace(view, **facts)
        return self.made[job_id]

    def submit(
        self, model: str, version: str, *, via: Via, priority: int = 0, delivery: Delivery | None = None
    ) -> Submitted:
        with self._lock:
            if self.full:
                raise StorageError("The ledger /var/secret/place cannot be written: the disk is full.")
            if delivery is not None:
                self.deliveries.append(delivery)
            for job in self.made.values():
                if (job.model, job.version) == (model, version):
                    return Submitted(job.job_id, new=False)
            return Submitted(self.put(model, version, via=via, priority=priority).job_id, new=True)

    def job(self, job_id: str) -> JobView:
        if job_id not in self.made:
            raise UnknownJobError(job_id)
        return self.made[job_id]

    def jobs(
        self, *, model: str | None = None, status: Status | None = None, limit: int = 100, after: str | None = None
    ) -> Page:
        assert 1 <= limit <= 1000
        assert status is None or status in STATUSES
        found = [
            job
            for job in reversed(self.made.values())
            if (model is None or model.lower() in job.model.lower()) and (status is None or job.status == status)
        ]
        places = [place for place, job in enumerate(found) if job.job_id == after]
        start = places[0] + 1 if places else 0
        some = found[start : start + limit]
        return Page(some, some[-1].job_id if start + limit < len(found) else None)

    def counts(self, *, model: str | None = None) -> Mapping[Status, int]:
        found = [job for job in self.made.values() if model is None or model.lower() in job.model.lower()]
        return {status: sum(job.status == status for job in found) for status in STATUSES}

    def _change(self, job_id: str, allowed: frozenset[Status], status: Status) -> JobView:
        with self._lock:
            if self.job(job_id).status not in allowed:
                raise StateConflictError(job_id)
            self.made[job_id] = dataclasses.replace(self.made[job_id], status=status)
            return self.made[job_id]

    def cancel(self, job_id: str) -> JobView:
        return self._change(job_id, UNFINISHED, "cancelled")

    def retry(self, job_id: str) -> JobView:
        return self._change(job_id, RETRYABLE, "queued")

    def seen(self, delivery_id: str, timestamp: int) -> bool:
        return Delivery(delivery_id, timestamp) in self.deliveries

    def ready(self) -> str | None:
        return self.why_not
