"""``mlflow run . -e diagnose`` as a user calls it: the diagnosis goes into the run that MLflow made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow

from tests.diagnosis.conftest import Inputs

PROJECT = Path(__file__).parents[2]


def test_mlflow_run_attaches_to_the_run_that_mlflow_made(inputs: Inputs, workplace: Path) -> None:
    store = f"sqlite:///{workplace / 'mlruns' / 'mlflow.db'}"
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": store,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ILP_WORK_DIR": str(workplace / "work"),
    }
    parameters = {"model_uri": inputs.model, "data": inputs.data, "base": inputs.base, "limit": 4}
    command = ["mlflow", "run", PROJECT, "-e", "diagnose", "--env-manager", "local", "--experiment-name", "try"]
    for name, value in parameters.items():
        command += ["-P", f"{name}={value}"]
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    client = mlflow.MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("try").experiment_id])
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.tags["ilp.status"] == "done"
    assert runs[0].data.metrics["ilp.samples"] == 4
    names = {file.path for file in client.list_artifacts(runs[0].info.run_id)}
    assert {"report.html", "evaluation.parquet", "config.yaml"} <= names
