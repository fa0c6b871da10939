"""Where jobs are handed in and asked about: what the web side and the reconcile loop know of the jobs.

A job stands for one model version under one set of settings, in one tracking store. Whoever hands the same in again
gets the same job; how often a version was announced, and by whom, changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

Status = Literal["queued", "running", "done", "failed", "refused", "needs_data", "cancelled", "skipped"]
"""Where a job stands.

``failed``: something that may be mended and retried. ``refused``: the checkpoint or its source will not be read.
``needs_data``: nobody says what it was trained on. ``skipped``: the filters leave the model out.
"""

STATUSES: tuple[Status, ...] = (
    "queued",
    "running",
    "done",
    "failed",
    "refused",
    "needs_data",
    "cancelled",
    "skipped",
)

UNFINISHED: frozenset[Status] = frozenset({"queued", "running"})
"""Those that go on by themselves."""

RETRYABLE: frozenset[Status] = frozenset({"done", "failed", "refused", "needs_data", "cancelled", "skipped"})
"""Those that ``retry`` starts again."""

Via = Literal["webhook", "reconcile", "api"]
"""Who announced the version first."""


class UnknownJobError(LookupError):
    """There is no job with this id."""


class StateConflictError(Exception):
    """The job's status does not allow it: only unfinished jobs are cancelled, only finished ones retried."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook delivery that announces a version; recorded together with the job or not at all.

    Attributes:
        delivery_id: ``X-MLflow-Delivery-Id``; the same for all attempts to deliver it.
        timestamp: ``X-MLflow-Timestamp``, seconds since 1970.
    """

    delivery_id: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a version that was handed in.

    Attributes:
        job_id: Its job.
        new: Nobody handed it in before.
    """

    job_id: str
    new: bool


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as people see it.

    Attributes:
        job_id: 32 hexadecimal digits: hash of store, model, version and settings.
        model: Registered model.
        version: Its version.
        status: Where it stands.
        reason: A sentence, for every status that a person may want explained; else ``None``.
        step: What it is at or was at last: resolve, stage, evaluate, attribute, report or publish; ``None`` before.
        progress: Part of the whole job that is done, 0-1.
        attempts: How often it was started.
        priority: Higher goes first.
        via: Who announced it first.
        queued_at: UTC.
        started_at: Of the last attempt, UTC.
        ended_at: UTC.
        run_id: Its MLflow run.
        report_uri: Artifact URI of the report.
        unlearned_rate: 0-1, of a job that is done.
        top_cause: Of a job that is done; ``none`` when nothing was attributed.
    """

    job_id: str
    model: str
    version: str
    status: Status
    reason: str | None
    step: str | None
    progress: float
    attempts: int
    priority: int
    via: str
    queued_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    run_id: str | None
    report_uri: str | None
    unlearned_rate: float | None
    top_cause: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, latest first, and where the next ones start.

    Attributes:
        items: Jobs.
        next: For ``after``; ``None`` at the end.
    """

    items: Sequence[JobView]
    next: str | None


class Desk(Protocol):
    """Every method may be called from any thread, and none asks MLflow."""

    def submit(
        self, model: str, version: str, *, via: Via, priority: int = 0, delivery: Delivery | None = None
    ) -> Submitted:
        """Hand in a version; it is written down for good before this returns, and repeating it changes nothing.

        Raises:
            StorageError: It could not be written down; whoever announced it should do so again.
        """

    def job(self, job_id: str) -> JobView:
        """One job.

        Raises:
            UnknownJobError: There is none.
        """

    def jobs(
        self, *, model: str | None = None, status: Status | None = None, limit: int = 100, after: str | None = None
    ) -> Page:
        """Jobs, latest first.

        Args:
            model: Only those of models whose name contains this, in any case.
            status: Only those with it.
            limit: At most so many, 1-1000.
            after: ``Page.next`` of the page before; one that nobody gave out starts from the top.
        """

    def counts(self, *, model: str | None = None) -> Mapping[Status, int]:
        """Jobs of every status, zeros included.

        Args:
            model: Only those of models whose name contains this, in any case.
        """

    def cancel(self, job_id: str) -> JobView:
        """End an unfinished job; a running one is told to stop and its run ends as KILLED.

        Raises:
            UnknownJobError: There is none.
            StateConflictError: It is finished.
        """

    def retry(self, job_id: str) -> JobView:
        """Start a finished job again; what it measured is kept, so only what is missing is done.

        Raises:
            UnknownJobError: There is none.
            StateConflictError: It is unfinished.
        """

    def seen(self, delivery_id: str, timestamp: int) -> bool:
        """Whether a delivery was accepted before, by ``submit``; asks only, and records nothing."""

    def ready(self) -> str | None:
        """Why jobs cannot be taken at the moment, in a sentence; ``None`` when they can."""
