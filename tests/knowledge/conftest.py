"""A stub service on 127.0.0.1, and setups under which sources and judges are asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from ilp_service.plugin import Ledger, Setup, Study
from ilp_service.settings import load_settings


class Seen(NamedTuple):
    """A request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Reply(NamedTuple):
    """What the stub answers with."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - a tuple's default


class Stub:
    """Answers each request with what ``answer`` says, and remembers it."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.answer: Callable[[Seen], Reply] = lambda _: Reply({})
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                seen = Seen(self.command, self.path, dict(self.headers), body)
                stub.seen.append(seen)
                reply = stub.answer(seen)
                raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_POST = do_GET  # noqa: N815 - the name that the base class calls

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Stub()
    yield server
    server.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited between repetitions, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


class MakeSetup(Protocol):
    """Makes a setup from ``key=value`` settings."""

    def __call__(self, *overrides: str, study: Study | None = None) -> Setup: ...


@pytest.fixture
def setup_of(tmp_path: Path) -> MakeSetup:
    def make(*overrides: str, study: Study | None = None) -> Setup:
        return Setup(load_settings({}, overrides).knowledge_options(), tmp_path / "work", Ledger(), study)

    return make


def chat(content: str, tokens: int | None = 12) -> Reply:
    """A chat completion."""
    usage = {} if tokens is None else {"usage": {"total_tokens": tokens}}
    return Reply({"choices": [{"message": {"role": "assistant", "content": content}}], **usage})
