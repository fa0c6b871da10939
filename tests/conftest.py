"""Fixtures for every test: no network, no inherited tracking store, one thread, a working folder of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Before transformers or mlflow are imported anywhere.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def _clean_environment() -> None:
    # For good: MLflow leaves in the environment which store a test has used, and a test may undo what it patched.
    for name in list(os.environ):
        if name.startswith("ILP_") or name in {
            "MLFLOW_TRACKING_URI",
            "MLFLOW_REGISTRY_URI",
            "MLFLOW_RUN_ID",
            "MLFLOW_EXPERIMENT_ID",
            "MLFLOW_EXPERIMENT_NAME",
        }:
            del os.environ[name]


@pytest.fixture(scope="session")
def _store_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty MLflow database; making one takes seconds, copying it none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def workplace(tmp_path: Path, _store_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is ``tmp_path``, with an empty embedded MLflow store ready in ``mlruns/``."""
    (tmp_path / "mlruns").mkdir()
    shutil.copy(_store_template, tmp_path / "mlruns" / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path
