"""The web side of the service in one piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ilp_service.errors import IlpError
from ilp_service.service.access import Access, Guard
from ilp_service.service.answers import Headers, RefusedError, problem, secure
from ilp_service.service.api import Api
from ilp_service.service.configuration import ServiceSettings
from ilp_service.service.credentials import Credentials
from ilp_service.service.desk import Desk
from ilp_service.service.links import MlflowLinks
from ilp_service.service.meters import Meters
from ilp_service.service.page import StatusPage
from ilp_service.service.probes import Probes
from ilp_service.service.receiver import PATH, WINDOW_SECONDS, Receiver
from ilp_service.service.reports import Reports
from ilp_service.service.sign_in import SignIn

if TYPE_CHECKING:
    import uvicorn

_HERE = Path(__file__).parent

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


class _Static(StaticFiles):
    """Stylesheet, script and icon: the browser keeps them, and asks each time whether they are the same."""

    def file_response(self, *args: Any, **more: Any) -> Response:  # noqa: ANN401
        """One file, or that it has not changed."""
        answer = super().file_response(*args, **more)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What the web side has to know.

    Attributes:
        host: Address that it is bound to.
        credentials: Secrets and token.
        tracking_uri: Of the MLflow store as browsers reach it, for links.
        window: Seconds that a delivery's time may be off.
    """

    host: str = "127.0.0.1"
    credentials: Credentials = field(default_factory=Credentials)
    tracking_uri: str | None = None
    window: float = WINDOW_SECONDS

    @classmethod
    def of(cls, settings: ServiceSettings) -> WebSettings:
        """What the service's settings say.

        Raises:
            SettingsError: A secret is too short.
        """
        page = settings.mlflow_page or settings.tracking_uri
        return cls(settings.host, Credentials.of(settings), page, settings.webhook_window)


def create_app(
    desk: Desk, settings: WebSettings, *, reports: Reports, meters: Meters, lifespan: Lifespan | None = None
) -> Starlette:
    """The application.

    Args:
        desk: Where jobs are handed in and asked about.
        settings: Address, secrets, links.
        reports: Reports of finished jobs.
        meters: What is counted.
        lifespan: What runs beside it, from start to stop.

    Raises:
        SettingsError: Others can reach it, and there is no token.
    """
    access = Access(settings.host, settings.credentials.token)
    links = MlflowLinks.of(settings.tracking_uri)
    page = StatusPage(desk, links, reports, signs_out=access.needs_token)
    receiver = Receiver(desk, settings.credentials.webhook_secrets, meters, window=settings.window)

    async def receive(request: Request) -> Response:
        return await receiver(request)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)  # noqa: S101 - tells the type checker
        return _answer(page, request, error.status, error.sentence, error.headers)

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - tells the type checker
        return _answer(page, request, error.status_code, f"{error.detail}.", error.headers)

    async def unavailable(request: Request, error: Exception) -> Response:
        return _answer(page, request, 503, str(error), {"Retry-After": "5"})

    async def broken(request: Request, _error: Exception) -> Response:
        answer = _answer(page, request, 500, "Something went wrong in the service; its log says what.", None)
        # Defects are answered outside of the other middleware.
        secure(answer.headers)
        return answer

    app = Starlette(
        routes=[
            *Probes(desk, meters).routes(),
            *Api(desk).routes(),
            *SignIn(access, page.html).routes(),
            Route(PATH, receive, methods=["POST"]),
            *page.routes(),
            Mount("/static", _Static(directory=_HERE / "static")),
        ],
        middleware=[Middleware(Headers), Middleware(Guard, access=access)],
        exception_handlers={
            RefusedError: refused,
            HTTPException: unknown,
            IlpError: unavailable,
            Exception: broken,
        },
        lifespan=lifespan,
    )
    # A redirect would repeat a Host header that anybody can send.
    app.router.redirect_slashes = False
    return app


def _answer(
    page: StatusPage, request: Request, status: int, sentence: str, headers: Mapping[str, str] | None
) -> Response:
    """An error in the form that the asker reads: a page for browsers, JSON for programs."""
    path: str = request.scope["path"]
    programs = path.startswith(("/api", "/webhooks", "/openapi"))
    if programs or "text/html" not in request.headers.get("accept", ""):
        return problem(status, sentence, headers)
    answer = page.html("message.html.j2", status, sentence=sentence)
    answer.headers.update(headers or {})
    return answer


def web_server(app: Starlette, host: str, port: int) -> uvicorn.Server:
    """A server for the application, with bounds on what strangers can hold open."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            # Another parser, if it happens to be installed, would not keep the bound on headers.
            http="h11",
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=True,
            ws="none",
            limit_concurrency=512,
            backlog=1024,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=10,
            h11_max_incomplete_event_size=32_768,
        )
    )
