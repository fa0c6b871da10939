"""What the service takes when it has nothing to do, and whether it takes more the longer it runs.

``python -m benchmarks.service_idle`` starts an MLflow server with a filled registry and the service, waits until the
start is over, and measures for some time. ``--simulate-hours 24`` has a day's registrations, looks, scrapes and visits
pass as fast as they go, with a stub for the diagnosis, looks at memory, file handles and temporary files after every
hour of them, and fits a slope.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import sqlite3
import statistics
import tempfile
import time
import urllib.request
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
    unfinished,
    wait_for_jobs,
)

MODELS = 20
MB = 2**20
HEAVY = ("libtorch", "tokenizers", "libarrow", "_sklearn", "scipy")
SCRAPES, PROBES, VISITS = 60, 240, 6
"""In an hour: Prometheus once a minute, a health check every 15 s, and somebody who looks at the page."""


def idle(folder: Path, *, seconds: float, settle: float, versions: int, interval: float) -> dict[str, Any]:
    """Measure a service that has nothing to do.

    Args:
        folder: Empty.
        seconds: How long to measure.
        settle: How long to wait after the start, seconds.
        versions: In the registry, all older than the service.
        interval: Of the reconcile loop, seconds.
    """
    mlflow = mlflow_server(folder / "mlflow")
    service = service_server(folder / "service", mlflow.address, interval=interval)
    try:
        database = folder / "mlflow" / "mlflow.db"
        _register(f"sqlite:///{database}", 0, versions, {})
        # What was registered in the last minute counts as new.
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("UPDATE model_versions SET creation_time = creation_time - 3600000")
        mlflow.start()
        service.start()
        install_webhook(service, mlflow)
        time.sleep(settle)
        return {"registered_before": versions, "interval_seconds": interval, **_watch(service, mlflow, seconds)}
    finally:
        service.stop()
        mlflow.stop()


def _watch(service: Server, mlflow: Server, seconds: float) -> dict[str, Any]:
    process = service.process
    used, beside, begin = _processor(process), _tree(mlflow), time.monotonic()
    resident: list[float] = []
    while time.monotonic() - begin < seconds:
        resident.append(process.memory_info().rss / MB)
        time.sleep(1.0)
    took = time.monotonic() - begin
    mapped = {Path(part.path).name for part in process.memory_maps()}
    return {
        "measured_seconds": took,
        "resident_mb_median": statistics.median(resident),
        "resident_mb_most": max(resident),
        "unique_mb": process.memory_full_info().uss / MB,
        "processor_percent": 100 * (_processor(process) - used) / took,
        "mlflow_processor_percent": 100 * (_tree(mlflow) - beside) / took,
        "processes": 1 + len(process.children(recursive=True)),
        "threads": process.num_threads(),
        "file_handles": process.num_fds(),
        "jobs": len(book(service.folder)),
        "heavy_libraries": sorted(name for name in HEAVY if any(name in file for file in mapped)),
    }


def simulate(
    folder: Path, *, hours: int, hourly: int, interval: float, workers: int, patience: float
) -> dict[str, Any]:
    """Have hours of registrations pass, and fit what grows.

    Args:
        folder: Empty.
        hours: To simulate.
        hourly: Registrations in each.
        interval: Of the reconcile loop, seconds of the real clock.
        workers: Jobs at once.
        patience: How long the jobs of one hour may take, seconds.
    """
    mlflow = mlflow_server(folder / "mlflow")
    data = folder / "data.jsonl"
    data.write_text("{}\n")
    service = service_server(
        folder / "service",
        mlflow.address,
        stub=True,
        interval=interval,
        workers=workers,
        data_dirs=folder,
        backfill=True,
    )
    temporary = folder / "tmp"
    temporary.mkdir()
    service.environment["TMPDIR"] = str(temporary)
    samples: list[dict[str, float]] = []
    begin = time.monotonic()
    try:
        mlflow.start()
        service.start()
        install_webhook(service, mlflow)
        for hour in range(hours):
            _register(mlflow.address, hour * hourly, hourly, {"ilp.data": str(data)})
            _visit(service)
            rows = wait_for_jobs(service.folder, (hour + 1) * hourly, patience)
            if unfinished(rows) or len(rows) < (hour + 1) * hourly:
                break
            # What MLflow has yet to be told, and what the last jobs hold, is over in a moment.
            time.sleep(1.0)
            samples.append(_sample(service, temporary))
        rows = book(service.folder)
    finally:
        service.stop()
        mlflow.stop()
    return {
        "simulated_hours": len(samples),
        "registrations": len(rows),
        "not_done": sum(row["status"] != "done" for row in rows),
        "seconds": time.monotonic() - begin,
        **growth(samples),
        "resident_mb_by_hour": [round(sample["resident_mb"], 1) for sample in samples],
        "temporary_files_after_stop": sum(1 for _ in temporary.rglob("*")),
    }


def growth(samples: list[dict[str, float]]) -> dict[str, Any]:
    """Slope an hour of each quantity, with its 95 % interval, over the later half of the samples.

    The slope is the median of those between all pairs (Theil-Sen): an allocator grows in steps, and one step is no
    growth.
    """
    from scipy.stats import theilslopes

    later = samples[len(samples) // 2 :]
    found: dict[str, Any] = {}
    for name in samples[0] if samples else ():
        values = [sample[name] for sample in later]
        found[f"{name}_first"], found[f"{name}_last"] = values[0], values[-1]
        if len(values) >= 3:
            slope, _, low, high = theilslopes(values)
            found[f"{name}_slope_an_hour"] = float(slope)
            found[f"{name}_slope_interval"] = [round(float(low), 4), round(float(high), 4)]
    return found


def _sample(service: Server, temporary: Path) -> dict[str, float]:
    process = service.process
    work = service.folder / "mlruns" / "ilp-work"
    return {
        "resident_mb": process.memory_info().rss / MB,
        "file_handles": float(process.num_fds()),
        "threads": float(process.num_threads()),
        "temporary_files": float(sum(1 for _ in temporary.rglob("*"))),
        "job_folders": float(sum(1 for _ in (work / "jobs").glob("*"))),
    }


def _register(store: str, first: int, count: int, tags: dict[str, str]) -> None:
    """Register versions, spread over the models."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    run_id = str(client.create_run("0").info.run_id) if count else ""
    if first == 0:
        for number in range(MODELS):
            client.create_registered_model(f"model-{number}")

    def one(number: int) -> None:
        name = f"model-{number % MODELS}"
        client.create_model_version(name, f"runs:/{run_id}/checkpoint", run_id, tags, await_creation_for=0)

    with concurrent.futures.ThreadPoolExecutor(1 if store.startswith("sqlite") else 4) as pool:
        list(pool.map(one, range(first, first + count)))


def _visit(service: Server) -> None:
    """What an hour brings beside registrations."""
    paths = ["/metrics"] * SCRAPES + ["/healthz", "/readyz"] * (PROBES // 2) + ["/", "/api/jobs?limit=100"] * VISITS
    for path in paths:
        with urllib.request.urlopen(f"{service.address}{path}", timeout=60) as answer:  # noqa: S310
            answer.read()


def _processor(process: psutil.Process) -> float:
    """Seconds of processor time that a process and its ended children took."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _tree(server: Server) -> float:
    total = 0.0
    with contextlib.suppress(psutil.Error):
        for process in (server.process, *server.process.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def main() -> None:
    """Print figures."""
    parser = argparse.ArgumentParser(description="What the service takes when it has nothing to do.")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long to measure")
    parser.add_argument("--settle", type=float, default=20.0, help="to wait after the start, seconds")
    parser.add_argument("--versions", type=int, default=200, help="in the registry before the start")
    parser.add_argument("--interval", type=float, help="of the reconcile loop, seconds  [default: 30; simulated: 0.5]")
    parser.add_argument("--simulate-hours", type=int, default=0, metavar="N", help="have N hours pass instead")
    parser.add_argument("--hourly", type=int, default=125, help="registrations in a simulated hour")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--patience", type=float, default=600.0, help="for the jobs of a simulated hour, seconds")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ilp-idle-") as name:
        folder = Path(name)
        if given.simulate_hours:
            figures = simulate(
                folder,
                hours=given.simulate_hours,
                hourly=given.hourly,
                interval=given.interval or 0.5,
                workers=given.workers,
                patience=given.patience,
            )
        else:
            figures = idle(
                folder,
                seconds=given.seconds,
                settle=given.settle,
                versions=given.versions,
                interval=given.interval or 30.0,
            )
    print_figures(figures, given.json)


if __name__ == "__main__":
    main()
