"""The application around a made-up desk, and deliveries as MLflow sends them."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from starlette.testclient import TestClient

from ilp_service.errors import SourceUnreadableError
from ilp_service.service.app import WebSettings, create_app
from ilp_service.service.credentials import Credentials
from ilp_service.service.meters import Meters
from ilp_service.service.receiver import sign
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


def client(
    desk: MadeUpDesk | None = None,
    *,
    token: str | None = None,
    secrets: tuple[str, ...] = (SECRET, OLD_SECRET),
    host: str = "127.0.0.1",
    tracking_uri: str | None = None,
    reports: MadeUpReports | None = None,
    window: float = 300,
) -> TestClient:
    """Asks the application itself, without a network, as a program on this machine would."""
    desk = desk or MadeUpDesk()
    settings = WebSettings(host, Credentials(secrets, token), tracking_uri, window)
    app = create_app(desk, settings, reports=reports or MadeUpReports(), meters=Meters(desk))
    return TestClient(app, "http://127.0.0.1:8080", raise_server_exceptions=False, follow_redirects=False)


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
