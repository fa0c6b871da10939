"""A stand-in for a server of artifacts, which notes who asked for what with which password."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from ilp_service.tracking.store import Tracking

PROXY = "/api/2.0/mlflow-artifacts/artifacts"


class Stub:
    """Serves ``files`` by the last part of their path."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.redirect: str | None = None
        self.cut = 0
        self.uri = ""

    @property
    def host(self) -> str:
        """Name and port."""
        return urlsplit(self.uri).netloc


@contextmanager
def serving() -> Iterator[Stub]:
    """A running stub."""
    stub = Stub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stub.asked.append((self.path, self.headers.get("Authorization")))
            name = urlsplit(self.path).path.rpartition("/")[2]
            if stub.redirect is not None and name in stub.files:
                self.send_response(302)
                self.send_header("Location", f"{stub.redirect}{self.path}")
                self.end_headers()
                return
            body = stub.files.get(name, b'{"files": []}' if "path=" in self.path else b"{}")
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if stub.cut and name in stub.files:
                stub.cut -= 1
                # MLflow reads, and writes, a MiB at a time.
                self.wfile.write(body[:-1])
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    stub.uri = f"http://127.0.0.1:{web.server_address[1]}"
    try:
        yield stub
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


def tracking_of(stub: Stub, client: object = None) -> Tracking:
    """A store at the stub, as after its first call."""
    tracking = Tracking(stub.uri)
    tracking._client = client or object()
    return tracking
