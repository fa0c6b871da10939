"""A service that is killed at any moment loses nothing and does nothing twice, with a real MLflow server beside it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from mlflow import MlflowClient

from tests.service.mlflow_server import MlflowServer, free_port

SERVE = Path(__file__).parent / "serve_stub.py"


class Service:
    """``ilp serve`` as a process of its own."""

    def __init__(self, folder: Path, store: str, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        given = {"port": str(self.port), "interval": "0.5", "backoff": "0.2", "grace": "3", "workers": "3", **settings}
        self._environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": store,
            "PYTHONPATH": str(SERVE.parents[2]),
            **{f"ILP_SERVICE_{name.upper()}": value for name, value in given.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVE)], cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def rows(self) -> list[sa.RowMapping]:
        path = self.folder / "mlruns" / "ilp-service.db"
        engine = sa.create_engine(f"sqlite:///{path}")
        try:
            with engine.connect() as connection:
                return list(connection.execute(sa.text("SELECT * FROM ilp_registrations")).mappings())
        except sa.exc.OperationalError:
            return []
        finally:
            engine.dispose()

    def wait(self, wanted: int, seconds: float = 60) -> list[sa.RowMapping]:
        deadline = time.monotonic() + seconds
        while True:
            rows = self.rows()
            if len(rows) == wanted and all(row["status"] not in {"queued", "running"} for row in rows):
                return rows
            told = [(row["model"], row["status"], row["step"], row["reason"]) for row in rows]
            assert time.monotonic() < deadline, (told, (self.folder / "serve.log").read_text()[-3000:])
            time.sleep(0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, _store_template: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"), _store_template)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.jsonl").write_text("{}\n")
    return tmp_path


def register(client: MlflowClient, name: str, folder: Path) -> None:
    client.create_registered_model(name)
    client.create_model_version(name, "s3://nowhere/x", tags={"ilp.data": str(folder / "data.jsonl")})


def test_every_version_is_done_once_whatever_is_killed(server: MlflowServer, folder: Path) -> None:
    client = MlflowClient(server.uri)
    service = Service(folder, server.uri, backfill="true", names="slow-*,ok*")
    for number in range(6):
        register(client, f"slow-1.{number}", folder)
    draw = random.Random(7)
    service.start()
    for _ in range(4):
        time.sleep(draw.uniform(1.5, 5.0))
        service.end(signal.SIGKILL)
        service.start()
    time.sleep(2)
    server.stop(signal.SIGKILL)
    time.sleep(1.5)
    server.start()
    register(client, "ok", folder)
    rows = service.wait(7)
    assert service.end(signal.SIGTERM) == 0
    assert {row["status"] for row in rows} == {"done"}
    runs = client.search_runs([client.get_experiment_by_name("ilp").experiment_id], max_results=1000)
    assert sorted(run.info.run_id for run in runs) == sorted(row["run_id"] for row in rows)
    assert {run.info.status for run in runs} == {"FINISHED"}
    for row in rows:
        tags = client.get_model_version(row["model"], row["version"]).tags
        assert (tags["ilp.status"], tags["ilp.run_id"]) == ("done", row["run_id"])
        # What was written down as done was not waited for again, and nothing was published twice.
        assert len(list((folder / "mlruns/ilp-work/stub" / row["job_id"]).glob("done-*"))) >= 1
    assert not list((folder / "mlruns/ilp-work/jobs").glob("*/tmp*"))


def test_sigterm_ends_the_subprocess_and_its_run(server: MlflowServer, folder: Path) -> None:
    client = MlflowClient(server.uri)
    register(client, "parent", folder)
    service = Service(folder, server.uri, backfill="true", names="parent")
    service.start()
    work = folder / "mlruns/ilp-work/stub"
    deadline = time.monotonic() + 60
    while not (helpers := [path for path in work.glob("*/helper") if path.read_text()]):
        assert time.monotonic() < deadline, (folder / "serve.log").read_text()[-3000:]
        time.sleep(0.1)
    assert service.process is not None
    ours = psutil.Process(service.process.pid).children(recursive=True)
    assert len(ours) == 2
    assert service.end(signal.SIGTERM) == 0
    _gone, alive = psutil.wait_procs(ours, timeout=5)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert helpers
    (row,) = service.rows()
    assert row["status"] == "queued"
    assert client.get_run(row["run_id"]).info.status == "KILLED"
    assert client.get_model_version("parent", "1").tags["ilp.status"] == "queued"
