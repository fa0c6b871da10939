"""The status page: queue, running jobs and finished ones, and a page for each job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlencode

import anyio.to_thread
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ilp_service.errors import IlpError
from ilp_service.service.answers import RefusedError, form_of, model_name, model_version
from ilp_service.service.api import act, utc, wanted_model, wanted_start, wanted_status
from ilp_service.service.desk import RETRYABLE, STATUSES, UNFINISHED, Desk, JobView, Page, Status
from ilp_service.service.links import MlflowLinks
from ilp_service.service.reports import Reports

ROWS = 25
"""Jobs of one kind that are shown at a time."""

STEPS = ("resolve", "stage", "evaluate", "attribute", "report", "publish")
LABELS: dict[Status, str] = {
    "queued": "queued",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "refused": "refused",
    "needs_data": "needs data",
    "cancelled": "cancelled",
    "skipped": "skipped",
}
# A report runs its own script, in an origin of its own: no cookie, no API, no network.
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Section:
    """Jobs under one heading.

    Attributes:
        key: For the element's id.
        title: Heading.
        jobs: Latest first.
        more: What leads to others, and its address.
        empty: What is said when there are none.
    """

    key: str
    title: str
    jobs: Sequence[JobView]
    more: Sequence[tuple[str, str]]
    empty: str


def ago(moment: datetime | None, now: datetime) -> str:
    """How long ago, in words."""
    if moment is None:
        return ""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    past = lasted(now - aware)
    return "just now" if now - aware < timedelta(seconds=10) else f"{past} ago"


def lasted(span: timedelta) -> str:
    """A length of time in words, to about two digits."""
    seconds = max(0, int(span.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    if seconds < 172_800:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86_400} days"


def _environment(links: MlflowLinks, clock: Callable[[], datetime]) -> Environment:
    environment = Environment(
        loader=PackageLoader("ilp_service.service"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    environment.filters["ago"] = lambda moment: ago(moment, clock())
    environment.filters["utc"] = utc
    environment.globals.update(
        links=links, labels=LABELS, unfinished=UNFINISHED, retryable=RETRYABLE, steps=STEPS, statuses=STATUSES,
        took=lambda job: lasted((job.ended_at or clock()) - job.started_at) if job.started_at else "",
    )  # fmt: skip
    return environment


class StatusPage:
    """Answers browsers."""

    def __init__(
        self,
        desk: Desk,
        links: MlflowLinks,
        reports: Reports,
        *,
        signs_out: bool,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Show a desk's jobs.

        Args:
            desk: Has the jobs.
            links: To MLflow's pages.
            reports: Of finished jobs.
            signs_out: Whether people sign in, so that they can sign out.
            clock: The time, UTC.
        """
        self._desk, self._reports, self._signs_out = desk, reports, signs_out
        self._templates = _environment(links, clock)

    def routes(self) -> list[Route]:
        """Paths and who answers them."""
        return [
            Route("/", self.overview, methods=["GET"]),
            Route("/jobs", self.submit, methods=["GET", "POST"]),
            Route("/jobs/{job_id}", self.job, methods=["GET"]),
            Route("/jobs/{job_id}/report", self.report, methods=["GET"]),
            Route("/jobs/{job_id}/cancel", self.change, methods=["POST"], name="cancel"),
            Route("/jobs/{job_id}/retry", self.change, methods=["POST"], name="retry"),
        ]

    def html(self, template: str, code: int = 200, **values: Any) -> Response:  # noqa: ANN401
        """A page out of a template."""
        text = self._templates.get_template(template).render(signs_out=self._signs_out, **values)
        # What was registered may hold halves of characters.
        return HTMLResponse(text.encode("utf-8", "replace"), code)

    async def overview(self, request: Request) -> Response:
        """All jobs, or those that are asked for."""
        model, status, after = wanted_model(request), wanted_status(request), wanted_start(request)
        counts = await anyio.to_thread.run_sync(partial(self._desk.counts, model=model))
        sections = await anyio.to_thread.run_sync(self._sections, model, status, after)
        first = _address(model=model, status=status) if after and status else None
        return self.html(
            "overview.html.j2", counts=counts, sections=sections, model=model or "", status=status or "", first=first
        )

    def _sections(self, model: str | None, status: Status | None, after: str | None) -> list[Section]:
        if status is not None:
            page = self._desk.jobs(model=model, status=status, limit=ROWS, after=after)
            title = LABELS[status].capitalize()
            return [Section("found", title, page.items, _next(page, model, status), "No job matches.")]
        ask = partial(self._desk.jobs, model=model, limit=ROWS)
        running, queued = ask(status="running"), ask(status="queued")
        return [
            Section("running", "Running", running.items, _next(running, model, "running"), "Nothing is running."),
            Section("queue", "Queue", queued.items, _next(queued, model, "queued"), "Nothing is waiting."),
            self._finished(model),
        ]

    def _finished(self, model: str | None) -> Section:
        """The latest of all that ended; where there are more, each status leads to its own."""
        pages = {
            status: self._desk.jobs(model=model, status=status, limit=ROWS)
            for status in STATUSES
            if status not in UNFINISHED
        }
        found = [job for page in pages.values() for job in page.items]
        found.sort(key=lambda job: (utc(job.ended_at or job.queued_at) or "", job.job_id), reverse=True)
        shown = {status: sum(job.status == status for job in found[:ROWS]) for status in pages}
        more = [
            (f"More: {LABELS[status]}", _address(model=model, status=status))
            for status, page in pages.items()
            if page.next is not None or len(page.items) > shown[status]
        ]
        return Section("finished", "Finished", found[:ROWS], more, "Nothing has finished yet.")

    async def job(self, request: Request) -> Response:
        """One job with all that is known of it."""
        return self.html("job.html.j2", job=await act(self._desk, request, "job"), notice=None)

    async def change(self, request: Request) -> Response:
        """Cancel or retry a job, then show it."""
        what = request.url.path.rpartition("/")[2]
        try:
            job = await act(self._desk, request, what)
        except RefusedError as error:
            if error.status != 409:
                raise
            return self.html("job.html.j2", 409, job=await act(self._desk, request, "job"), notice=error.sentence)
        return RedirectResponse(f"/jobs/{job.job_id}", 303)

    async def report(self, request: Request) -> Response:
        """The report of a finished job, in a sandbox."""
        job = await act(self._desk, request, "job")
        if job.report_uri is None:
            raise RefusedError(404, "The job has no report yet.")
        try:
            found = await anyio.to_thread.run_sync(self._reports.read, job.report_uri)
        except IlpError as error:
            return self.html("job.html.j2", 502, job=job, notice=str(error))
        return HTMLResponse(found, headers={"Content-Security-Policy": _REPORT_POLICY})

    async def submit(self, request: Request) -> Response:
        """Hand in a version by the form; whoever comes here otherwise is shown the form."""
        if request.method != "POST":
            return RedirectResponse("/", 303)
        fields = await form_of(request)
        model, version = model_name(fields.get("model", "").strip()), model_version(fields.get("version", "").strip())
        submitted = await anyio.to_thread.run_sync(partial(self._desk.submit, model, version, via="api"))
        return RedirectResponse(f"/jobs/{submitted.job_id}", 303)


def _next(page: Page, model: str | None, status: Status) -> list[tuple[str, str]]:
    return [] if page.next is None else [("Next", _address(model=model, status=status, after=page.next))]


def _address(**wanted: str | None) -> str:
    return "/?" + urlencode({name: value for name, value in wanted.items() if value})
