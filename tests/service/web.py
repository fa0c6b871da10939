"""The application around a made-up desk, and deliveries as MLflow sends them."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.testclient import TestClient

from ilp_service.errors import SourceUnreadableError
from ilp_service.service.app import WebSettings, create_app, web_server
from ilp_service.service.credentials import Credentials
from ilp_service.service.desk import Desk
from ilp_service.service.meters import Meters
from ilp_service.service.receiver import sign
from ilp_service.service.reports import Reports
from tests.service.made_up_desk import MadeUpDesk

SECRET = "the secret of these tests"  # noqa: S105
OLD_SECRET = "the secret that is going out of use"  # noqa: S105
TOKEN = "the token of these tests"  # noqa: S105


class MadeUpReports:
    """Reports by URI."""

    def __init__(self) -> None:
        self.made: dict[str, bytes] = {}

    def read(self, uri: str) -> bytes:
        if uri not in self.made:
            raise SourceUnreadableError(f"The report {uri} is gone.")
        return self.made[uri]


def application(
    desk: Desk | None = None,
    *,
    token: str | None = None,
    secrets: tuple[str, ...] = (SECRET, OLD_SECRET),
    host: str = "127.0.0.1",
    tracking_uri: str | None = None,
    reports: Reports | None = None,
    window: float = 300,
) -> Starlette:
    """The application of `ilp serve` around a desk."""
    desk = desk or MadeUpDesk()
    settings = WebSettings(host, Credentials(secrets, token), tracking_uri, window)
    return create_app(desk, settings, reports=reports or MadeUpReports(), meters=Meters(desk))


def client(desk: Desk | None = None, **settings: Any) -> TestClient:  # noqa: ANN401
    """Asks the application itself, without a network, as a program on this machine would."""
    app = application(desk, **settings)
    return TestClient(app, "http://127.0.0.1:8080", raise_server_exceptions=False, follow_redirects=False)


@contextlib.contextmanager
def served(app: Starlette) -> Iterator[str]:
    """The application behind the server of `ilp serve`, in a thread of its own; gives its address."""
    server = web_server(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def event(name: object = "bot", version: object = "1", **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """What MLflow says of a new version."""
    data = {"name": name, "version": version, "source": "models:/m-1", "run_id": None, "tags": {}, "description": None}
    return {
        "entity": "model_version",
        "action": "created",
        "timestamp": "2026-11-23T09:00:00+00:00",
        "data": data,
        **more,
    }


def signed(
    body: bytes, *, secret: str = SECRET, delivery_id: str | None = None, timestamp: object = None
) -> dict[str, str]:
    """Headers of a delivery."""
    delivery_id = delivery_id or str(uuid.uuid4())
    at = str(int(time.time()) if timestamp is None else timestamp)
    return {
        "Content-Type": "application/json",
        "X-MLflow-Delivery-Id": delivery_id,
        "X-MLflow-Timestamp": at,
        "X-MLflow-Signature": sign(secret, delivery_id, at, body),
    }


def encode(content: object) -> bytes:
    """A body as MLflow writes it."""
    return json.dumps(content).encode()
