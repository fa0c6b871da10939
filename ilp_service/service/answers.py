"""What every answer has in common: one-line JSON errors, bounded bodies, and headers that keep browsers in check."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import anyio
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content security policy of every answer that brings none of its own."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # 'no-referrer' would make browsers send 'Origin: null' with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_BODY_SECONDS = 10.0
_FORM_BYTES = 8_192
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class RefusedError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        sentence: What is wrong; never holds anything that the request brought.
        outcome: One word for the metrics.
        headers: Of the answer.
    """

    def __init__(
        self, status: int, sentence: str, outcome: str = "malformed", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.outcome, self.headers = status, sentence, outcome, headers


class Json(JSONResponse):
    """JSON that may hold what was registered, halves of characters included."""

    def render(self, content: Any) -> bytes:  # noqa: ANN401 (whatever JSON can hold)
        """The body."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


def problem(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error: ``{"error": sentence}``."""
    return JSONResponse({"error": sentence}, status, headers=headers)


async def read_body(request: Request, most: int) -> bytes:
    """The raw body, of which never more than ``most`` bytes are held.

    Raises:
        RefusedError: It is larger, or does not arrive in time.
    """
    large = RefusedError(413, f"The body has more than {most} bytes.", "too_large", {"Connection": "close"})
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 12 or int(announced) > most):
        raise large
    parts: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise large
                parts.append(part)
    except TimeoutError as error:
        raise RefusedError(408, "The body did not arrive in time.", "malformed", {"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise RefusedError(400, "The body was cut short.") from error
    return b"".join(parts)


def parse_object(request: Request, body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        RefusedError: It says that it is something else, or is not what it says.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, "The content type has to be application/json.")
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "The body is no JSON.") from error
    if not isinstance(found, dict):
        raise RefusedError(422, "The body has to be a JSON object.")
    return found


def _refuse_constant(_name: str) -> None:
    raise ValueError


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; of a field that comes twice, the last.

    Raises:
        RefusedError: It is no form, or is too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise RefusedError(415, "A form is expected.")
    body = await read_body(request, _FORM_BYTES)
    try:
        return dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=20))
    except ValueError as error:
        raise RefusedError(400, "The form cannot be read.") from error


def model_name(value: object) -> str:
    """A name that a registered model can have.

    Raises:
        RefusedError: Nothing in the registry is called so.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= 256 or not value.strip() or not is_text(value):
        raise RefusedError(422, "The model has to be a name of 1 to 256 characters.")
    if "/" in value or ":" in value:
        raise RefusedError(422, "The name of a model has neither '/' nor ':'.")
    return value


def model_version(value: object) -> str:
    """The number of a version, as text.

    Raises:
        RefusedError: It is no whole number above 0.
    """
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
        value = int(value)
    number = whole(value)
    if number is None or not 0 < number < 2**31:
        raise RefusedError(422, "The version has to be a whole number above 0.")
    return str(number)


def whole(value: object) -> int | None:
    """A JSON number that is whole: ``10`` and ``10.0`` are the same there; ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or abs(value) > 2**53:
        return None
    return int(value)


def is_text(value: str) -> bool:
    """Whether databases can hold it and a page can show it: no control characters, no halves of characters."""
    return _NO_TEXT.search(value) is None


def secure(headers: MutableHeaders) -> None:
    """Add the security headers that an answer does not set itself."""
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)


class Headers:
    """Adds the security headers that an answer does not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and complete what comes back."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                secure(MutableHeaders(scope=message))
            await send(message)

        await self.app(scope, receive, complete)
