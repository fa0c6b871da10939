"""Real servers for the service's benchmarks: MLflow and ``ilp serve``, started by the scripts that deploy them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from scripts.serve import ROOT, Part, free_port

SECRET = "a secret that only this benchmark's servers know"  # noqa: S105
KEY = "bWFkZSBmb3IgYmVuY2htYXJrcyBhbG9uZSwgMzIgYnk="
UNFINISHED = ("queued", "running")

_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ILP_BIN": str(Path(sys.executable).parent),
    "PYTHONPATH": str(ROOT),
}


def surroundings(**more: str) -> dict[str, str]:
    """Variables for a server: those of this process without another store's or service's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "ILP_"))}
    return kept | _QUIET | more


@dataclass
class Server:
    """A server that may be killed and started again at the same address.

    Attributes:
        name: For messages.
        command: To start it.
        environment: Of its processes.
        folder: In which it works.
        address: Where it listens.
        probe: Path that answers with 200 when it is ready.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    folder: Path
    address: str
    probe: str
    part: Part | None = field(default=None, repr=False)
    starts: int = 0

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it answers."""
        self.starts += 1
        log = self.folder / f"{self.name}.{self.starts}.log"
        self.part = Part(self.name, self.command, self.environment, self.folder, log)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        assert self.part is not None
        self.part.wait_for(f"{self.address}{self.probe}")

    def kill(self) -> None:
        """``kill -9`` of its first process alone, as the kernel does when memory runs out."""
        assert self.part is not None
        self.part.process.send_signal(signal.SIGKILL)
        self.part.process.wait()

    def kill_group(self) -> None:
        """``kill -9`` of all its processes."""
        assert self.part is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.part.process.pid, signal.SIGKILL)
        self.part.process.wait()

    def stop(self) -> None:
        """Stop it in order."""
        if self.part is not None:
            self.part.stop()
            self.part = None

    @property
    def process(self) -> psutil.Process:
        """Its first process."""
        assert self.part is not None
        return psutil.Process(self.part.process.pid)


def mlflow_server(folder: Path, **more: str) -> Server:
    """An MLflow server with SQLite in ``folder``, not started."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port(0)
    variables = {
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": KEY,
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
        **more,
    }
    command = [str(ROOT / "deploy" / "mlflow")]
    return Server("mlflow", command, surroundings(**variables), folder, f"http://127.0.0.1:{port}", "/health")


def service_server(folder: Path, mlflow: str, *, stub: bool = False, **settings: object) -> Server:
    """The service, not started; ``settings`` are those of ``ilp serve``, ``stub`` replaces the diagnosis."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port(0)
    given = {"host": "127.0.0.1", "port": port, **settings}
    variables = {f"ILP_SERVICE_{name.upper()}": str(value) for name, value in given.items()}
    variables |= {"MLFLOW_TRACKING_URI": mlflow, "ILP_WEBHOOK_SECRET": SECRET}
    command = [sys.executable, "-m", "benchmarks.service_stub"] if stub else [str(ROOT / "deploy" / "serve")]
    return Server("service", command, surroundings(**variables), folder, f"http://127.0.0.1:{port}", "/readyz")


def install_webhook(service: Server, mlflow: Server) -> None:
    """Have MLflow announce versions to the service."""
    from mlflow import MlflowClient

    client = MlflowClient(mlflow.address)
    url = f"{service.address}/webhooks/mlflow"
    client.create_webhook(name="ilp", url=url, events=["model_version.created"], secret=SECRET)
    # The server looks at its webhooks anew after a second.
    time.sleep(1.5)


def jobs(service: Server) -> list[dict[str, Any]]:
    """All jobs by the service's API, page by page."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = ask(f"{service.address}/api/v1/jobs?limit=500" + (f"&after={after}" if after else ""))
        found += page["items"]
        after = page["next"] or ""
        if not after:
            return found


def ask(address: str) -> Any:  # noqa: ANN401
    """JSON from an address."""
    with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310
        return json.loads(answer.read())


def wait_for_jobs(folder: Path, wanted: int, seconds: float) -> list[dict[str, Any]]:
    """Registrations in the service's own book once so many are there and none goes on; what there is after a time."""
    deadline = time.monotonic() + seconds
    while True:
        rows = book(folder)
        if (len(rows) >= wanted and not unfinished(rows)) or time.monotonic() > deadline:
            return rows
        time.sleep(0.5)


def unfinished(rows: list[dict[str, Any]]) -> int:
    """How many go on."""
    return sum(row["status"] in UNFINISHED for row in rows)


def book(folder: Path) -> list[dict[str, Any]]:
    """All rows of the service's book, read from the database itself: whoever asks the service may find it killed."""
    path = folder / "mlruns" / "ilp-service.db"
    if not path.exists():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM ilp_registrations")]
    except sqlite3.OperationalError:
        return []


def percentile(values: list[float], share: float) -> float | None:
    """The value below which ``share`` of the values lie, by rank; ``None`` of none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def print_figures(figures: dict[str, Any], as_json: bool) -> None:
    """To stdout: a table, or one JSON object."""
    if as_json:
        print(json.dumps(figures))
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {value if not isinstance(value, float) else f'{value:.4g}'}")
