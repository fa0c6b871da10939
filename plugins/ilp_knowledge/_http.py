"""JSON over HTTP with timeouts, repetitions, a budget, and a memory on disk; the standard library alone.

Nothing that a request's headers hold (the key) is ever logged, kept, or put into a message.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from ilp_service.plugin import EndpointError, Setup

_REPEATED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LARGEST = 8 << 20
_LONGEST_WAIT = 60.0
_AGENT = "ilp-service (https://pypi.org/project/ilp-service)"


class BudgetSpentError(Exception):
    """The next request would be one more than the budget allows."""


class _Unredirected(urllib.request.HTTPRedirectHandler):
    """A redirection would take the key to wherever it points."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        """Follow none."""
        del req, fp, code, msg, headers, newurl


class Client:
    """Asks one service.

    Args:
        setup: Its ledger counts every request; its work folder keeps every answer.
        section: The settings to go by: ``knowledge_sources`` or ``judge``.
        key: Sent as a bearer token; ``None`` for none.
    """

    def __init__(self, setup: Setup, section: str, key: str | None = None) -> None:
        self._ledger = setup.ledger
        self._timeout = float(setup.options[f"{section}.timeout"])
        self._retries = int(setup.options[f"{section}.retries"])
        self._budget = int(setup.options[f"{section}.max_requests"])
        self._section = section
        self._key = key
        self._folder = setup.work_dir / "knowledge" / "answers"
        self._opener = urllib.request.build_opener(_Unredirected)
        self._jitter = random.Random(0)  # noqa: S311 - spreads waiting clients, keeps no secret

    def ask(
        self, url: str, body: Mapping[str, Any] | None = None, check: Callable[[Any], None] | None = None
    ) -> tuple[Any, bool]:
        """The JSON that a GET, or a POST of ``body``, answers with, and whether it was asked for only now.

        An answer is kept in the work folder, so that a run that was killed pays for nothing twice.

        Args:
            url: Where to ask.
            body: What to post.
            check: Raises EndpointError on an answer that is of no use; such a one is not kept.

        Raises:
            BudgetSpentError: It is not known yet, and the budget of requests is spent.
            EndpointError: The service is down, refuses, or answers no JSON.
        """
        sent = None if body is None else json.dumps(body, sort_keys=True).encode()
        digest = hashlib.sha256(url.encode() + b"\0" + (sent or b"")).hexdigest()
        kept = self._folder / digest[:2] / f"{digest}.json"
        if (known := _read(kept)) is not None:
            return known, False
        raw = self._repeated(url, sent)
        try:
            answer = json.loads(raw)
        except ValueError as error:
            raise EndpointError(f"{place(url)} answered with no JSON; check the URL in the settings.") from error
        if check is not None:
            check(answer)
        _keep(kept, raw)
        return answer, True

    def _repeated(self, url: str, sent: bytes | None) -> bytes:
        wait = 0.5
        for attempt in range(self._retries + 1):
            if self._ledger.requests >= self._budget:
                raise BudgetSpentError
            self._ledger.requests += 1
            last = attempt == self._retries
            try:
                return self._once(url, sent)
            except urllib.error.HTTPError as error:
                with error:
                    asked = error.headers.get("Retry-After")
                    if last or error.code not in _REPEATED:
                        raise EndpointError(self._refusal(url, error)) from None
            except (OSError, http.client.HTTPException) as error:
                if last:
                    raise EndpointError(
                        f"{place(url)} cannot be reached ({_why(error)}), {self._retries + 1} times asked; "
                        "start it, or check the URL in the settings."
                    ) from None
                asked = None
            longer = float(asked) if asked and asked.isdigit() else 0.0
            time.sleep(min(max(wait * self._jitter.uniform(0.75, 1.25), longer), _LONGEST_WAIT))
            wait *= 2
        raise AssertionError("the last attempt returns or raises")

    def _once(self, url: str, sent: bytes | None) -> bytes:
        headers = {"Accept": "application/json", "User-Agent": _AGENT}
        if sent is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, data=sent, headers=headers)  # noqa: S310 - settings allow http(s) alone
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        with self._opener.open(request, timeout=self._timeout) as response:
            raw: bytes = response.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise EndpointError(f"{place(url)} answered with more than {_LARGEST >> 20} MiB; check the URL.")
        return raw

    def _refusal(self, url: str, error: urllib.error.HTTPError) -> str:
        key = (
            f"check the key that {self._section}.endpoint_key_env names"
            if self._key
            else "check the URL in the settings, and whether it needs a key"
        )
        mend = {
            401: key,
            403: key,
            404: "check the URL and the model in the settings",
            429: f"wait, or raise {self._section}.retries",
        }.get(error.code, "check the URL in the settings")
        said = _said(error)
        # Some services repeat the key in their refusal.
        said = said.replace(self._key, "<key>") if self._key else said
        return f"{place(url)} refused with HTTP {error.code}{f' ({said})' if said else ''}; {mend}."


def key_of(setup: Setup, section: str) -> str | None:
    """The API key, from the environment variable that the settings name; ``None`` if they name none.

    Raises:
        EndpointError: The variable is not set.
    """
    variable = setup.options[f"{section}.endpoint_key_env"]
    if not variable:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EndpointError(f"{section}.endpoint_key_env names {variable}, which is not set; export it with the key.")
    if not key.isprintable() or not key.isascii():
        raise EndpointError(f"The key in {variable} holds characters that no header may have; export it anew.")
    return key


def place(url: str) -> str:
    """The URL as people are told it: without its query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _why(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return getattr(reason, "strerror", None) or type(reason).__name__


def _said(error: urllib.error.HTTPError) -> str:
    """What the service said, on one short line."""
    try:
        raw = error.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    try:
        found = json.loads(raw)
    except ValueError:
        return ""
    told = found.get("error", found.get("message", "")) if isinstance(found, dict) else ""
    told = told.get("message", "") if isinstance(told, dict) else told
    return " ".join(str(told).split())[:200].rstrip(".")


def _read(path: Path) -> object:
    try:
        kept: object = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return kept


def _keep(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(descriptor, "wb") as file:
        file.write(raw)
    Path(name).replace(path)
