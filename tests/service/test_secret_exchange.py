"""The webhook's secrets are exchanged as docs/operations.md tells operators to do it."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from ilp_service.cli import ilp
from ilp_service.tracking import webhooks
from tests.service.mlflow_server import MlflowServer
from tests.service.restarts import Restarts, register
from tests.service.test_kill_nine import Service
from tests.service.test_webhook_command import KEYS, OPEN

OLD, NEW = "the secret that goes out of use", "the secret that comes into use"


@pytest.fixture
def server(tmp_path: Path, _store_template: Path) -> Iterator[MlflowServer]:
    surroundings = {**OPEN, webhooks.KEY: KEYS[0], "MLFLOW_WEBHOOK_CACHE_TTL": "1"}
    server = MlflowServer(tmp_path, _store_template, **surroundings)
    server.start()
    yield server
    server.stop()


def meters(service: Service) -> dict[str, float]:
    """All metrics; none while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def wait_until(met: Callable[[], object], service: Service) -> None:
    deadline = time.monotonic() + 120
    while not met():
        assert time.monotonic() < deadline, (service.folder / "serve.log").read_text()[-3000:]
        time.sleep(0.1)


@pytest.mark.timeout(400)
def test_secrets_of_the_webhook_are_exchanged_and_no_delivery_is_lost(
    server: MlflowServer, restarts: Restarts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)

    def serve(secret: str) -> Service:
        # The only look is that of the start: everything later is announced by webhook.
        service = restarts.start(names="ok*", interval="600", webhook_secret=secret)
        wait_until(lambda: "ilp_reconcile_lag_seconds" in meters(service), service)
        return service

    def call(*arguments: str, secret: str) -> str:
        monkeypatch.setenv("ILP_WEBHOOK_SECRET", secret)
        done = CliRunner().invoke(ilp, ["webhook", *arguments])
        assert done.exit_code == 0, done.output or done.exception
        # MLflow's workers look at their webhooks anew after a second.
        time.sleep(1.5)
        return str(done.output)

    def announced(service: Service) -> dict[str, Any]:
        known = len(service.rows())
        register(client, "ok", tmp_path)
        wait_until(lambda: len(service.rows()) > known, service)
        assert meters(service)['ilp_webhook_deliveries_total{outcome="bad_signature"}'] == 0
        return dict(service.rows()[-1])

    service = serve(OLD)
    address = f"http://127.0.0.1:{service.port}"
    assert "the secret fits" in call("install", address, secret=OLD)
    announced(service)
    service = serve(f"{NEW},{OLD}")
    announced(service)
    both = call("install", address, secret=f"{NEW},{OLD}")
    assert "renewed" in both
    assert "the secret fits" in both
    announced(service)
    service = serve(NEW)
    announced(service)

    call("remove", secret=NEW)
    server.stop()
    server.environment[webhooks.KEY] = KEYS[1]
    server.start()
    assert "installed" in call("install", address, secret=NEW)
    announced(service)
    assert {(row["model"], row["via"]) for row in service.rows()} == {("ok", "webhook")}
    assert len(service.rows()) == 5
    log = (tmp_path / "serve.log").read_text()
    assert OLD not in log
    assert NEW not in log
