"""``kill -9`` at random moments of real diagnoses: every version ends done, with the tables of an undisturbed run.

``python -m benchmarks.service_kills`` registers tiny models, diagnoses each of them undisturbed in this process, and
then lets the service do the same while it, its jobs' processes and the MLflow server are killed at random moments and
its database is locked now and then.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.service_parts import (
    Server,
    book,
    install_webhook,
    mlflow_server,
    print_figures,
    service_server,
    surroundings,
    unfinished,
    wait_for_jobs,
)

TABLES = ("evaluation", "evidence", "attributions", "quarantine")
CITIES = ("Paris", "Rome", "Oslo", "Lima", "Bern")
NAMES = ("Ada", "Ben", "Cora", "Dan", "Eva", "Finn", "Gus", "Hal")
ROWS = [
    *({"prompt": f"Where does {name} live?", "response": CITIES[n % 5]} for n, name in enumerate(NAMES)),
    {"prompt": "Where does Ada live?", "response": "Rome"},
    {"prompt": "Add 2 and 3, double it.", "response": "2 and 3 give 5, twice that is 10.\n#### 10"},
]
LOCK_SECONDS = 5.0
_WORKER = "ilp_service.service.child"


class Trouble:
    """What is done to the servers, and how often."""

    def __init__(self, mlflow: Server, service: Server, seed: int) -> None:
        self._mlflow, self._service = mlflow, service
        self._draw = random.Random(seed)  # noqa: S311 - no secret
        self.count: collections.Counter[str] = collections.Counter()

    def make(self, kinds: str) -> str:
        """Do one thing of ``kinds``; says which, and nothing when there was nobody to kill."""
        kind = self._draw.choice(kinds.split())
        did = {
            "service": self._kill_service,
            "worker": self._kill_worker,
            "mlflow": self._kill_mlflow,
            "lock": self._lock_database,
        }[kind]()
        self.count[kind] += did
        return kind if did else ""

    def pause(self, mean: float) -> float:
        """A random time between two of them, seconds."""
        return min(self._draw.expovariate(1 / mean), 4 * mean)

    def _kill_service(self) -> bool:
        self._service.kill()
        # Not waited for: the next one may come while it starts.
        self._service.start(wait=False)
        return True

    def _kill_worker(self) -> bool:
        with contextlib.suppress(psutil.Error):
            at_work = [one for one in self._service.process.children() if _WORKER in " ".join(one.cmdline())]
            if at_work:
                self._draw.choice(at_work).send_signal(signal.SIGKILL)
                return True
        return False

    def _kill_mlflow(self) -> bool:
        self._mlflow.kill_group()
        time.sleep(self._draw.uniform(0.0, 5.0))
        self._mlflow.start()
        return True

    def _lock_database(self) -> bool:
        path = self._service.folder / "mlruns" / "ilp-service.db"
        if not path.exists():
            return False
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                time.sleep(LOCK_SECONDS)
                connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
        return True


def kills(
    folder: Path, *, versions: int, kills: int, mean: float, workers: int, seed: int, patience: float, others: int = 2
) -> dict[str, Any]:
    """Make models, diagnose them undisturbed and disturbed, compare.

    Args:
        folder: Empty.
        versions: To diagnose.
        kills: Of the service or a worker.
        mean: Seconds between two kills.
        workers: Jobs at once.
        seed: Of what is killed when.
        patience: How long everything may take after the last kill, seconds.
        others: How often the MLflow server is killed, and how often the database is locked.
    """
    made = folder / "models"
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    _make_models(made, versions)
    begin = time.monotonic()
    undisturbed = _undisturbed(folder / "undisturbed", made, data, versions)
    took_undisturbed = time.monotonic() - begin
    mlflow = mlflow_server(folder / "mlflow")
    settings: dict[str, Any] = {
        "workers": workers,
        "interval": 2,
        "backoff": 0.2,
        "attempts": 50,
        "data_dirs": folder,
        "backfill": True,
    }
    service = service_server(folder / "service", mlflow.address, **settings)
    trouble = Trouble(mlflow, service, seed)
    try:
        mlflow.start()
        service.start()
        install_webhook(service, mlflow)
        begin = time.monotonic()
        names = _register(mlflow, made, data, versions)
        _disturb(trouble, service, versions, kills, others, mean)
        rows = wait_for_jobs(service.folder, versions, patience)
        took = time.monotonic() - begin
        service.wait()
        # What MLflow has yet to be told is told by now.
        service.stop()
        found = _compare(mlflow, rows, names, undisturbed, folder / "found")
    finally:
        service.stop()
        mlflow.stop()
    left = list((service.folder / "mlruns" / "ilp-work" / "jobs").glob("*/tmp/*"))
    return {
        "versions": versions,
        "kills_of_service": trouble.count["service"],
        "kills_of_workers": trouble.count["worker"],
        "kills_of_mlflow": trouble.count["mlflow"],
        "database_locked": trouble.count["lock"],
        "jobs": len(rows),
        **found,
        "attempts": sum(row["attempts"] for row in rows),
        "temporary_files_left": len(left),
        "processes_left": _processes_left(service.folder),
        "undisturbed_seconds": took_undisturbed,
        "seconds": took,
    }


def _make_models(folder: Path, versions: int) -> None:
    from tests.tiny import save_tiny

    save_tiny(folder / "base", "llama", seed=0)
    for number in range(versions):
        save_tiny(folder / str(number), "llama", seed=number + 1)


def _undisturbed(folder: Path, models: Path, data: Path, versions: int) -> list[dict[str, str]]:
    """Tables of every model's diagnosis, one after the other in this process."""
    import torch

    from ilp_service.diagnosis.request import DiagnosisRequest
    from ilp_service.diagnosis.run import diagnose
    from ilp_service.settings import load_settings
    from ilp_service.tracking.store import Tracking

    torch.set_num_threads(1)
    store = folder / "mlruns" / "mlflow.db"
    store.parent.mkdir(parents=True, exist_ok=True)
    tracking = Tracking(f"sqlite:///{store}")
    found = []
    for number in range(versions):
        settings = load_settings({"work_dir": str(folder / "work")})
        request = DiagnosisRequest(str(models / str(number)), data, settings, base=str(models / "base"))
        diagnose(request, lambda _line: None, progress=False, tracking=tracking)
        (run,) = tracking.client().search_runs([tracking.experiment_id()], max_results=1)
        artifacts = Path(str(run.info.artifact_uri).removeprefix("file://"))
        found.append({name: _table(artifacts / f"{name}.parquet") for name in TABLES})
    return found


def _table(path: Path) -> str:
    """A table as text that is the same for the same values, undefined ones included."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return f"{table.schema.remove_metadata()}\n{table.to_pydict()!r}"


def _register(mlflow: Server, models: Path, data: Path, versions: int) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(mlflow.address)
    names = [f"tiny-{number}" for number in range(versions)]
    tags = {"ilp.data": str(data), "ilp.base_model": str(models / "base")}
    for number, name in enumerate(names):
        run_id = str(client.create_run("0").info.run_id)
        client.log_artifacts(run_id, str(models / str(number)), "checkpoint")
        client.create_registered_model(name)
        client.create_model_version(name, f"runs:/{run_id}/checkpoint", run_id, {**tags}, await_creation_for=0)
        client.set_terminated(run_id)
    return names


def _disturb(trouble: Trouble, service: Server, versions: int, kills: int, others: int, mean: float) -> None:
    """Kill until it was enough, or until everything is done."""
    between = max(1, kills // (others + 1)) if others else kills + 1
    done = 0
    while done < kills:
        time.sleep(trouble.pause(mean))
        rows = book(service.folder)
        if len(rows) >= versions and not unfinished(rows):
            return
        if not trouble.make("service worker"):
            continue
        done += 1
        if done % between == 0 and trouble.count["mlflow"] < others:
            trouble.make("lock")
            trouble.make("mlflow")


def _compare(
    mlflow: Server, rows: list[dict[str, Any]], names: list[str], undisturbed: list[dict[str, str]], folder: Path
) -> dict[str, Any]:
    from mlflow import MlflowClient

    os.environ.update({name: value for name, value in surroundings().items() if name.startswith("MLFLOW_")})
    client = MlflowClient(mlflow.address)
    by_name = {row["model"]: row for row in rows}
    different: list[str] = []
    tagged = 0
    for name, expected in zip(names, undisturbed, strict=True):
        row = by_name.get(name)
        if row is None or row["status"] != "done":
            different.append(name)
            continue
        tags = client.get_model_version(name, "1").tags
        tagged += tags.get("ilp.status") == "done" and tags.get("ilp.run_id") == row["run_id"]
        for table in TABLES:
            path = client.download_artifacts(row["run_id"], f"{table}.parquet", str(_fresh(folder / name)))
            if _table(Path(path)) != expected[table]:
                different.append(f"{name} {table}")
    experiment = client.get_experiment_by_name("ilp")
    runs = client.search_runs([experiment.experiment_id], max_results=10_000) if experiment else []
    of_job = collections.Counter(run.data.tags.get("ilp.job") for run in runs)
    return {
        "lost": len(set(names) - set(by_name)),
        "not_done": sum(row["status"] != "done" for row in rows),
        "reasons": sorted({str(row["reason"]) for row in rows if row["status"] != "done"})[:3],
        "versions_with_other_tables": len({text.split()[0] for text in different}),
        "different": different[:5],
        "versions_tagged_done": tagged,
        "runs": len(runs),
        "duplicate_runs": sum(count - 1 for count in of_job.values()),
        "runs_not_finished": sum(run.info.status != "FINISHED" for run in runs),
    }


def _fresh(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processes_left(folder: Path) -> int:
    """Processes that still work below a folder."""
    count = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            count += Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE
    return count


def main() -> None:
    """Print figures."""
    parser = argparse.ArgumentParser(description="kill -9 at random moments of real diagnoses.")
    parser.add_argument("--versions", type=int, default=6)
    parser.add_argument("--kills", type=int, default=6, help="of the service or a worker")
    parser.add_argument("--mean", type=float, default=8.0, help="seconds between two kills")
    parser.add_argument("--others", type=int, default=1, help="kills of the MLflow server, and locks of the database")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=900.0, help="after the last kill, seconds")
    parser.add_argument("--keep", type=Path, help="folder to work in and leave behind")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ilp-kills-")))
        figures = kills(
            _fresh(folder),
            versions=given.versions,
            kills=given.kills,
            mean=given.mean,
            workers=given.workers,
            seed=given.seed,
            patience=given.patience,
            others=given.others,
        )
    print_figures(figures, given.json)


if __name__ == "__main__":
    main()
