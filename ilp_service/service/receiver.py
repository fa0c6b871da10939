"""``POST /webhooks/mlflow``: the registry says that a version was made.

Anybody may call. What counts is the signature over the raw bytes; nothing of a request without one is looked at, and
nothing that a request brought is said back.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ilp_service.errors import IlpError
from ilp_service.service.answers import RefusedError, model_name, model_version, parse_object, problem, read_body
from ilp_service.service.desk import Delivery, Desk
from ilp_service.service.meters import Meters

PATH = "/webhooks/mlflow"
BODY_BYTES = 1_000_000
"""A larger body is not read."""

WINDOW_SECONDS = 300
"""How far a delivery's time may be from ours, both ways; MLflow's own repeats come within some ten seconds."""

_DELIVERY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TIMESTAMP = re.compile(r"[0-9]{1,11}")
_SIGNATURE = re.compile(r"v1,[A-Za-z0-9+/]{43}=")
_UNSIGNED = "The delivery is not signed: X-MLflow-Delivery-Id, -Timestamp and -Signature are needed."
# What MLflow sends when a webhook is tested; a version of our own registry can have the same name.
_EXAMPLE = {"name": "example_model", "version": "1", "source": "models:/123", "run_id": "abcd1234abcd5678"}


def sign(secret: str, delivery_id: str, timestamp: str, body: bytes) -> str:
    """The signature that MLflow sends: HMAC-SHA256 over ``id.timestamp.body``, in base64."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()


class Receiver:
    """Takes deliveries.

    Every outcome has an answer of its own: 202 a new job, 200 nothing to do (known, or a test), 401 not signed, wrongly
    signed or not of now, 4xx signed but not what is expected, 503 send again later or: no secret is set.
    """

    def __init__(
        self,
        desk: Desk,
        secrets: Sequence[str],
        meters: Meters,
        *,
        window: float = WINDOW_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take deliveries that one of ``secrets`` signs, for ``desk``.

        Args:
            desk: Gets the versions.
            secrets: Each is tried, whatever the others say.
            meters: Counts outcomes.
            window: Seconds that a delivery's time may be off.
            clock: Seconds since 1970.
        """
        self._desk, self._secrets, self._meters = desk, tuple(secrets), meters
        self._window, self._clock = window, clock

    async def __call__(self, request: Request) -> Response:
        """Answer one delivery."""
        try:
            status, outcome, content = await self._take(request)
        except RefusedError as error:
            self._meters.delivered(error.outcome)
            return problem(error.status, error.sentence, error.headers)
        self._meters.delivered(outcome)
        return JSONResponse(content, status)

    async def _take(self, request: Request) -> tuple[int, str, dict[str, Any]]:
        if not self._secrets:
            raise RefusedError(
                503, "Webhooks are off: set ILP_WEBHOOK_SECRET or ILP_WEBHOOK_SECRET_FILE and restart.", "no_secret"
            )
        delivery_id, timestamp, signature = (
            _only(request, name) for name in ("X-MLflow-Delivery-Id", "X-MLflow-Timestamp", "X-MLflow-Signature")
        )
        if (
            not _DELIVERY_ID.fullmatch(delivery_id)
            or not _TIMESTAMP.fullmatch(timestamp)
            or not _SIGNATURE.fullmatch(signature)
        ):
            raise RefusedError(401, _UNSIGNED, "unsigned")
        body = await read_body(request, BODY_BYTES)
        given = signature.encode()
        # Every secret is tried, so that the time says nothing about which one fits.
        fits = [
            hmac.compare_digest(sign(secret, delivery_id, timestamp, body).encode(), given) for secret in self._secrets
        ]
        if not any(fits):
            raise RefusedError(401, "The signature is wrong.", "bad_signature")
        if abs(self._clock() - int(timestamp)) > self._window:
            raise RefusedError(401, "The delivery is too old, or one of the clocks is wrong.", "stale")
        event = parse_object(request, body)
        if (event.get("entity"), event.get("action")) != ("model_version", "created"):
            raise RefusedError(422, "Only model_version.created is taken.", "wrong_event")
        data = event.get("data")
        if not isinstance(data, dict):
            raise RefusedError(422, "The event has no data.")
        model, version = model_name(data.get("name")), model_version(data.get("version"))
        if all(data.get(key) == value for key, value in _EXAMPLE.items()):
            return 200, "test", {"status": "test"}
        return await anyio.to_thread.run_sync(self._hand_in, model, version, Delivery(delivery_id, int(timestamp)))

    def _hand_in(self, model: str, version: str, delivery: Delivery) -> tuple[int, str, dict[str, Any]]:
        try:
            if self._desk.seen(delivery.delivery_id, delivery.timestamp):
                return 200, "known", {"status": "known"}
            submitted = self._desk.submit(model, version, via="webhook", delivery=delivery)
        except (IlpError, OSError) as error:
            # MLflow sends again what is answered so.
            raise RefusedError(
                503, "The delivery could not be written down; send it again.", "unavailable", {"Retry-After": "2"}
            ) from error
        return 202 if submitted.new else 200, "accepted", {"status": "accepted", "job_id": submitted.job_id}


def _only(request: Request, name: str) -> str:
    """A header that is there once; else nothing."""
    values = request.headers.getlist(name)
    return values[0] if len(values) == 1 else ""
