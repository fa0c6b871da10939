"""Registrations in a burst, both ways in on: none lost, none doubled, and how long until each is queued.

``python -m benchmarks.service_burst`` starts an MLflow server and the service on 127.0.0.1, registers versions at an
even pace (a part of them straight into MLflow's database, which fires no webhook), waits until every job has ended,
and prints figures. The diagnosis is a stub; everything else is real.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.service_parts import (
    Server,
    install_webhook,
    mlflow_server,
    percentile,
    print_figures,
    service_server,
    wait_for_jobs,
)

MODELS = 20


def burst(
    folder: Path, *, versions: int, seconds: float, direct: float, interval: float, workers: int, patience: float
) -> dict[str, Any]:
    """Register, wait, count.

    Args:
        folder: Empty.
        versions: To register.
        seconds: In which they are registered.
        direct: Share that is registered straight into the database.
        interval: Of the reconcile loop, seconds.
        workers: Jobs at once.
        patience: How long all jobs may take after the last registration, seconds.
    """
    mlflow = mlflow_server(folder / "mlflow")
    service = service_server(
        folder / "service",
        mlflow.address,
        stub=True,
        interval=interval,
        workers=workers,
        data_dirs=folder,
        backfill=True,
    )
    (folder / "data.jsonl").write_text("{}\n")
    try:
        mlflow.start()
        service.start()
        install_webhook(service, mlflow)
        return _measure(folder, mlflow, service, versions, seconds, direct, interval, patience)
    finally:
        service.stop()
        mlflow.stop()


def _measure(
    folder: Path,
    mlflow: Server,
    service: Server,
    versions: int,
    seconds: float,
    direct: float,
    interval: float,
    patience: float,
) -> dict[str, Any]:
    from mlflow import MlflowClient

    remote = MlflowClient(mlflow.address)
    straight = MlflowClient(f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    for number in range(MODELS):
        remote.create_registered_model(f"model-{number}")
    run_id = str(remote.create_run("0").info.run_id)
    source = f"runs:/{run_id}/checkpoint"
    tags = {"ilp.data": str(folder / "data.jsonl")}
    every = max(1, round(1 / direct)) if direct else versions + 1
    registered: dict[tuple[str, str], float] = {}
    begin = time.time() + 0.2

    def register(number: int) -> bool:
        time.sleep(max(0.0, begin + number * seconds / versions - time.time()))
        behind = number % every == every - 1
        name = f"model-{number % MODELS}"
        made = (straight if behind else remote).create_model_version(name, source, run_id, tags, await_creation_for=0)
        registered[(name, str(made.version))] = made.creation_timestamp / 1000
        return behind

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        behind = sum(pool.map(register, range(versions)))
    took = time.time() - begin
    rows = wait_for_jobs(service.folder, versions, patience)
    all_done = time.time() - begin
    have = collections.Counter((row["model"], row["version"]) for row in rows)
    delays: dict[str, list[float]] = {"webhook": [], "reconcile": []}
    for row in rows:
        # From the moment that MLflow itself wrote down; its clock is this machine's.
        waited = row["queued_at"] / 1e6 - registered.get((row["model"], row["version"]), 0.0)
        delays.setdefault(row["via"], []).append(waited)
    published = collections.Counter((folder / "service" / "mlruns" / "ilp-work" / "published.log").read_text().split())
    runs = collections.Counter(_runs(remote))
    accepted = _accepted(service)
    return {
        "registered": len(registered),
        "registered_in_seconds": took,
        "straight_into_the_database": behind,
        "jobs": len(rows),
        "lost": len(set(registered) - set(have)),
        "doubled": sum(count - 1 for count in have.values()),
        "not_done": sum(row["status"] != "done" for row in rows),
        "published_more_than_once": sum(count > 1 for count in published.values()),
        "runs": sum(runs.values()),
        "runs_not_finished": sum(count for status, count in runs.items() if status != "FINISHED"),
        "queued_by_webhook": len(delays["webhook"]),
        "queued_by_reconcile": len(delays["reconcile"]),
        "webhook_p50_seconds": percentile(delays["webhook"], 0.5),
        "webhook_p99_seconds": percentile(delays["webhook"], 0.99),
        "reconcile_p50_seconds": percentile(delays["reconcile"], 0.5),
        "reconcile_p99_seconds": percentile(delays["reconcile"], 0.99),
        "interval_seconds": interval,
        "all_done_after_seconds": all_done,
        "service_resident_mb": service.process.memory_info().rss / 2**20,
        "deliveries_accepted": accepted,
    }


def _runs(client: Any) -> list[str]:  # noqa: ANN401
    """Status of every run of the service's experiment."""
    experiment = client.get_experiment_by_name("ilp")
    found: list[str] = []
    token = None
    while experiment is not None:
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
        found += [str(run.info.status) for run in page]
        token = page.token
        if not token:
            break
    return found


def _accepted(service: Server) -> int:
    """Deliveries that the service says it accepted or knew."""
    import urllib.request

    with urllib.request.urlopen(f"{service.address}/metrics", timeout=30) as answer:  # noqa: S310
        lines = answer.read().decode().splitlines()
    wanted = tuple(f'ilp_webhook_deliveries_total{{outcome="{outcome}"}}' for outcome in ("accepted", "known"))
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(wanted)))


def main() -> None:
    """Print figures."""
    parser = argparse.ArgumentParser(description="Registrations in a burst.")
    parser.add_argument("--versions", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=6.0, help="in which they are registered")
    parser.add_argument("--direct", type=float, default=0.1, help="share straight into the database")
    parser.add_argument("--interval", type=float, default=30.0, help="of the reconcile loop, seconds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--patience", type=float, default=900.0, help="for all jobs to end, seconds")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ilp-burst-") as folder:
        figures = burst(
            Path(folder),
            versions=given.versions,
            seconds=given.seconds,
            direct=given.direct,
            interval=given.interval,
            workers=given.workers,
            patience=given.patience,
        )
    print_figures(figures, given.json)


if __name__ == "__main__":
    main()
