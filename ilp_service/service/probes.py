"""For machines that watch: alive, ready, and numbers."""

from __future__ import annotations

import anyio.to_thread
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ilp_service.service.desk import Desk
from ilp_service.service.meters import Meters


class Probes:
    """``/healthz``: the process answers. ``/readyz``: jobs can be taken. ``/metrics``: numbers for Prometheus."""

    def __init__(self, desk: Desk, meters: Meters) -> None:
        self._desk, self._meters = desk, meters

    def routes(self) -> list[Route]:
        """Paths and who answers them."""
        return [
            Route("/healthz", self.health, methods=["GET"]),
            Route("/readyz", self.readiness, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def health(self, _request: Request) -> Response:
        """Always 200."""
        return JSONResponse({"status": "alive"})

    async def readiness(self, request: Request) -> Response:
        """200 or 503; why not is told only to those who may know."""
        reason = await anyio.to_thread.run_sync(self._desk.ready)
        if reason is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", **({"reason": reason} if request.state.inside else {})}, 503)

    async def metrics(self, _request: Request) -> Response:
        """All numbers of this process."""
        return Response(await anyio.to_thread.run_sync(self._meters.text), media_type=CONTENT_TYPE_PLAIN_0_0_4)
