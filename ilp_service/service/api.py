"""The JSON API: jobs listed, looked at, handed in, cancelled and started again."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ilp_service.service.answers import (
    Json,
    RefusedError,
    is_text,
    model_name,
    model_version,
    parse_object,
    read_body,
    whole,
)
from ilp_service.service.desk import STATUSES, Desk, JobView, StateConflictError, Status, UnknownJobError
from ilp_service.service.openapi import MOST_JOBS, MOST_PRIORITY, document

_BODY_BYTES = 16_384
_JOB_ID = re.compile(r"[0-9a-f]{32}")


def utc(moment: datetime | None) -> str | None:
    """A moment as RFC 3339 writes it, in UTC."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_json(job: JobView) -> dict[str, Any]:
    """A job as the API shows it."""
    return {
        "job_id": job.job_id,
        "model": job.model,
        "version": job.version,
        "status": job.status,
        "reason": job.reason,
        "step": job.step,
        "progress": min(1.0, max(0.0, job.progress)),
        "attempts": job.attempts,
        "priority": job.priority,
        "via": job.via,
        "queued_at": utc(job.queued_at),
        "started_at": utc(job.started_at),
        "ended_at": utc(job.ended_at),
        "run_id": job.run_id,
        "report_uri": job.report_uri,
        "unlearned_rate": job.unlearned_rate,
        "top_cause": job.top_cause,
    }


def wanted_model(request: Request) -> str | None:
    """The filter by model.

    Raises:
        RefusedError: It is nothing that a name can contain.
    """
    text = request.query_params.get("model", "").strip()
    if len(text) > 256 or not is_text(text):
        raise RefusedError(400, "The filter 'model' has to be up to 256 characters of a name.")
    return text or None


def wanted_status(request: Request) -> Status | None:
    """The filter by status.

    Raises:
        RefusedError: There is no such status.
    """
    text = request.query_params.get("status", "")
    for status in STATUSES:
        if text == status:
            return status
    if text:
        raise RefusedError(400, f"The filter 'status' has to be one of: {', '.join(STATUSES)}.")
    return None


def wanted_start(request: Request) -> str | None:
    """Where a page of jobs starts."""
    text = request.query_params.get("after", "")
    if len(text) > 200 or not re.fullmatch(r"[!-~]*", text):
        raise RefusedError(400, "The place 'after' has to be what 'next' of the page before says.")
    return text or None


def job_id_of(request: Request) -> str:
    """The job of the path.

    Raises:
        RefusedError: That is no job's id.
    """
    job_id = str(request.path_params["job_id"])
    if not _JOB_ID.fullmatch(job_id):
        raise RefusedError(404, "There is no such job.")
    return job_id


async def act(desk: Desk, request: Request, what: str) -> JobView:
    """Look at a job (``job``), ``cancel`` it or ``retry`` it.

    Raises:
        RefusedError: There is no such job, or its status does not allow it.
    """
    job_id = job_id_of(request)
    try:
        found: JobView = await anyio.to_thread.run_sync(getattr(desk, what), job_id)
    except UnknownJobError as error:
        raise RefusedError(404, "There is no such job.") from error
    except StateConflictError as error:
        sentence = {
            "cancel": "The job is finished, so there is nothing to cancel.",
            "retry": "The job is not finished yet; cancel it first.",
        }[what]
        raise RefusedError(409, sentence) from error
    return found


class Api:
    """Answers under ``/api``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._document = document()

    def routes(self) -> list[Route]:
        """Paths and who answers them."""
        return [
            Route("/api/jobs", self.every, methods=["GET", "POST"]),
            Route("/api/jobs/{job_id}", self.job, methods=["GET"]),
            Route("/api/jobs/{job_id}/cancel", self.cancel, methods=["POST"]),
            Route("/api/jobs/{job_id}/retry", self.retry, methods=["POST"]),
            Route("/api/counts", self.counts, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
        ]

    async def every(self, request: Request) -> Response:
        """One path with two methods, so that ``Allow`` names both."""
        return await (self.submit if request.method == "POST" else self.jobs)(request)

    async def jobs(self, request: Request) -> Response:
        """Jobs, latest first."""
        limit = request.query_params.get("limit", "100")
        if not re.fullmatch(r"[0-9]{1,4}", limit) or not 1 <= int(limit) <= MOST_JOBS:
            raise RefusedError(400, f"The number 'limit' has to be from 1 to {MOST_JOBS}.")
        ask = partial(
            self._desk.jobs,
            model=wanted_model(request),
            status=wanted_status(request),
            limit=int(limit),
            after=wanted_start(request),
        )
        page = await anyio.to_thread.run_sync(ask)
        return Json({"items": [as_json(job) for job in page.items], "next": page.next})

    async def submit(self, request: Request) -> Response:
        """Hand in a version; doing so again changes nothing."""
        body = parse_object(request, await read_body(request, _BODY_BYTES))
        if unknown := set(body) - {"model", "version", "priority"}:
            raise RefusedError(422, f"Only model, version and priority are expected; there are {len(unknown)} others.")
        priority = whole(body.get("priority", 0))
        if priority is None or abs(priority) > MOST_PRIORITY:
            raise RefusedError(422, f"The priority has to be a whole number from -{MOST_PRIORITY} to {MOST_PRIORITY}.")
        model, version = model_name(body.get("model")), model_version(body.get("version"))
        hand_in = partial(self._desk.submit, model, version, via="api", priority=priority)
        submitted = await anyio.to_thread.run_sync(hand_in)
        return JSONResponse(
            {"job_id": submitted.job_id, "new": submitted.new},
            202 if submitted.new else 200,
            headers={"Location": f"/api/jobs/{submitted.job_id}"},
        )

    async def job(self, request: Request) -> Response:
        """One job."""
        return Json(as_json(await act(self._desk, request, "job")))

    async def cancel(self, request: Request) -> Response:
        """End an unfinished job."""
        return Json(as_json(await act(self._desk, request, "cancel")))

    async def retry(self, request: Request) -> Response:
        """Start a finished job again."""
        return Json(as_json(await act(self._desk, request, "retry")))

    async def counts(self, request: Request) -> Response:
        """Jobs of every status."""
        ask = partial(self._desk.counts, model=wanted_model(request))
        return JSONResponse(dict(await anyio.to_thread.run_sync(ask)))

    async def openapi(self, _request: Request) -> Response:
        """The description of this API."""
        return JSONResponse(self._document)
