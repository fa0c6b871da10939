"""``make serve``: both servers start, know each other, and leave nothing running when they are stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.deploy.conftest import ROOT


def wait_for(pattern: str, log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 120
    while (found := re.search(pattern, log.read_text())) is None:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)
    return found[1]


def processes_below(folder: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def store(tmp_path: Path, _store_template: Path) -> None:
    """MLflow's tables, which take seconds to make."""
    (tmp_path / "mlruns").mkdir()
    shutil.copy(_store_template, tmp_path / "mlruns" / "mlflow.db")


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("store")
def test_both_servers_start_and_stop_together(tmp_path: Path) -> None:
    log = tmp_path / "out.txt"
    command = [sys.executable, ROOT / "scripts" / "serve.py", "--mlflow-port", "0", "--port", "0", "--interval", "60"]
    # What the shell has set for another store must not lead it there.
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "ILP_SERVICE_PORT": "9"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        mlflow = wait_for(r"MLflow:   (http://127\.0\.0\.1:\d+)", log, process)
        service = wait_for(r"service:  (http://127\.0\.0\.1:\d+)", log, process)
        with urllib.request.urlopen(f"{mlflow}/api/2.0/mlflow/webhooks", timeout=30) as answer:  # noqa: S310
            (webhook,) = json.load(answer)["webhooks"]
        assert webhook["url"] == f"{service}/webhooks/mlflow"
        with urllib.request.urlopen(f"{service}/metrics", timeout=30) as answer:  # noqa: S310
            # MLflow has sent its example, and the secrets fit.
            assert b'ilp_webhook_deliveries_total{outcome="test"} 1.0' in answer.read()
        secrets = (tmp_path / "mlruns" / "serve" / "env").read_text()
        assert not any(line.partition("=")[2] in log.read_text() for line in secrets.splitlines())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert log.read_text().endswith("stopped\n")
        assert processes_below(tmp_path) == []
    finally:
        for pid in processes_below(tmp_path):
            os.kill(pid, signal.SIGKILL)
        process.wait(10)
