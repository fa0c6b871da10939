"""Small forms of the service's benchmarks: a burst of registrations, and ``kill -9`` of real diagnoses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.service_burst import burst
from benchmarks.service_kills import kills


@pytest.fixture
def place(tmp_path: Path, _store_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder but for MLflow's tables, which take seconds to make."""
    for name in ("mlflow/mlflow.db", "undisturbed/mlruns/mlflow.db"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(_store_template, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.timeout(180)
def test_every_registration_of_a_burst_is_diagnosed_once(place: Path) -> None:
    found = burst(place, versions=40, seconds=3, direct=0.2, interval=2, workers=3, patience=120)
    counts = {name: found[name] for name in ("lost", "doubled", "not_done", "published_more_than_once")}
    assert counts == {"lost": 0, "doubled": 0, "not_done": 0, "published_more_than_once": 0}
    assert (found["registered"], found["jobs"], found["runs"], found["runs_not_finished"]) == (40, 40, 40, 0)
    # Those that were registered straight into the database were announced by nobody.
    assert found["queued_by_reconcile"] >= found["straight_into_the_database"] == 8
    assert found["queued_by_webhook"] > 0


@pytest.mark.timeout(240)
def test_killed_diagnoses_end_done_with_the_tables_of_undisturbed_ones(place: Path) -> None:
    found = kills(place, versions=2, kills=2, mean=4.0, workers=1, seed=3, patience=150, others=0)
    assert found["kills_of_service"] + found["kills_of_workers"] >= 1
    assert (found["jobs"], found["lost"], found["not_done"]) == (2, 0, 0), found
    assert found["different"] == []
    assert (found["runs"], found["duplicate_runs"], found["runs_not_finished"]) == (2, 0, 0)
    assert found["versions_tagged_done"] == 2
    assert (found["temporary_files_left"], found["processes_left"]) == (0, 0)
