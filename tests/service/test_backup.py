"""Backup and restore as docs/operations.md tells operators to do them."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.service.mlflow_server import MlflowServer
from tests.service.restarts import Restarts, register


def copy(source: Path, target: Path) -> None:
    """What `.backup` and `.restore` of the program sqlite3 do."""
    with contextlib.closing(sqlite3.connect(source)) as one, contextlib.closing(sqlite3.connect(target)) as other:
        one.backup(other)


def runs(client: MlflowClient) -> dict[str, str]:
    """Status by id of all runs of diagnoses."""
    experiment = client.get_experiment_by_name("ilp")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    return {run.info.run_id: run.info.status for run in found}


@pytest.mark.timeout(400)
def test_a_backup_that_was_taken_while_serving_brings_everything_back(
    server: MlflowServer, restarts: Restarts, tmp_path: Path
) -> None:
    client = MlflowClient(server.uri)
    book, saved = tmp_path / "mlruns" / "ilp-service.db", tmp_path / "backup.db"
    service = restarts.start(names="slow-*", workers="1")
    for number in range(3):
        register(client, f"slow-1.{number}", tmp_path)
    deadline = time.monotonic() + 120
    while {"done", "running"} - {row["status"] for row in service.rows()}:
        assert time.monotonic() < deadline, (tmp_path / "serve.log").read_text()[-3000:]
        time.sleep(0.02)
    copy(book, saved)
    with contextlib.closing(sqlite3.connect(saved)) as connection:
        query = "SELECT job_id, status FROM ilp_registrations"
        kept = {str(job_id): str(status) for job_id, status in connection.execute(query)}
    assert "done" in kept.values()
    assert kept != dict.fromkeys(kept, "done")
    register(client, "slow-1.3", tmp_path)
    before = {row["job_id"]: row["run_id"] for row in service.wait(4, 120)}
    # No orderly end, so that a log of the database with newer pages lies beside it.
    service.end(signal.SIGKILL)
    copy(saved, book)

    service = restarts.start(names="slow-*")
    after = {row["job_id"]: row["run_id"] for row in service.wait(4, 120)}
    assert service.end(signal.SIGTERM) == 0
    # What the backup did not know is found or gone on with; what it knew as done is left alone.
    assert after == before
    assert runs(client) == dict.fromkeys(before.values(), "FINISHED")
    for job_id in before:
        times = len(list((tmp_path / "mlruns/ilp-work/stub" / job_id).glob("done-*")))
        assert times == 1 if kept.get(job_id) == "done" else times in {1, 2}

    # Without any backup: the same jobs and runs again, where that is asked for.
    for file in book.parent.glob("ilp-service.db*"):
        file.unlink()
    service = restarts.start(names="slow-*", backfill="true")
    assert {row["job_id"]: row["run_id"] for row in service.wait(4, 120)} == before
    assert {row["status"] for row in service.rows()} == {"done"}
    assert service.end(signal.SIGTERM) == 0
    assert runs(client) == dict.fromkeys(before.values(), "FINISHED")
