"""Jobs in one process, with a stub for the diagnosis and a real embedded MLflow store."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from ilp_service.errors import StorageError
from ilp_service.service.configuration import ServiceSettings
from ilp_service.service.desk import Delivery, JobView, StateConflictError, UnknownJobError
from ilp_service.service.jobs import Jobs
from ilp_service.service.ledger_tables import registrations
from ilp_service.service.work import Work

STUB = (sys.executable, str(Path(__file__).parent / "stub_child.py"))


class Registry:
    """The embedded store, as somebody who registers versions uses it."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self.folder = folder
        self.client = MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")

    def register(self, name: str, *, data: bool = True, **tags: str) -> str:
        from ilp_service.tracking.logged_models import ensure_registered

        ensure_registered(self.client, name)
        (self.folder / "data.jsonl").write_text("{}\n")
        every = {**({"ilp.data": "data.jsonl"} if data else {}), **tags}
        return str(self.client.create_model_version(name, "/nowhere", tags=every).version)

    def tags(self, name: str, version: str) -> dict[str, str]:
        return dict(self.client.get_model_version(name, version).tags)

    def runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name("ilp")
        return list(self.client.search_runs([experiment.experiment_id])) if experiment else []


@pytest.fixture
def registry(workplace: Path) -> Registry:
    return Registry(workplace)


Start = Callable[..., Jobs]


@pytest.fixture
def start(registry: Registry) -> Iterator[Start]:
    """Start a service; all are stopped at the end."""
    started: list[Jobs] = []

    def begin(**changes: object) -> Jobs:
        given: dict[str, Any] = {"backoff": 0.05, "grace": 2.0, "workers": 4, "memory_mb": 300, **changes}
        settings = ServiceSettings(**given)
        jobs = Jobs(settings, command=STUB)
        jobs.start()
        started.append(jobs)
        return jobs

    yield begin
    for jobs in started:
        jobs.stop()


def ended(jobs: Jobs, job_id: str, *statuses: str, seconds: float = 30) -> JobView:
    wanted = statuses or ("done", "failed", "refused", "needs_data", "cancelled", "skipped")
    deadline = time.monotonic() + seconds
    while (job := jobs.job(job_id)).status not in wanted:
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


def until(met: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lives(pid: int) -> bool:
    """Whether a process runs; one that is dead and that nobody has asked about yet does not."""
    try:
        return str(psutil.Process(pid).status()) != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def turns(job: JobView) -> int:
    return len(list(Path("mlruns/ilp-work/stub", job.job_id).glob("turn-*")))


def test_a_version_is_diagnosed_once_however_often_it_is_announced(start: Start, registry: Registry) -> None:
    version = registry.register("ok")
    jobs = start()
    delivery = Delivery("d-1", int(time.time()))
    assert not jobs.seen("d-1", delivery.timestamp)
    first = jobs.submit("ok", version, via="webhook", delivery=delivery)
    again = [jobs.submit("ok", version, via=via) for via in ("reconcile", "webhook", "api")]
    assert first.new
    assert {one.job_id for one in again} == {first.job_id}
    assert not any(one.new for one in again)
    assert jobs.seen("d-1", delivery.timestamp)
    job = ended(jobs, first.job_id)
    assert (job.status, job.progress, job.attempts, job.via) == ("done", 1.0, 1, "webhook")
    assert (job.unlearned_rate, job.top_cause, job.report_uri) == (0.25, "missing_knowledge", "r.html")
    assert turns(job) == 1
    assert [run.info.run_id for run in registry.runs()] == [job.run_id]
    jobs.stop()
    tags = registry.tags("ok", version)
    assert (tags["ilp.status"], tags["ilp.run_id"], tags["ilp.top_cause"]) == ("done", job.run_id, "missing_knowledge")


def test_what_cannot_pass_is_final_and_what_can_is_tried_again(start: Start, registry: Registry) -> None:
    versions = {name: registry.register(name) for name in ("refused", "again", "broken", "crash", "eat")}
    bare = registry.register("bare", data=False)
    jobs = start(attempts=3)
    found = {name: jobs.submit(name, version, via="api").job_id for name, version in versions.items()}
    without = ended(jobs, jobs.submit("bare", bare, via="api").job_id)
    assert without.status == "needs_data"
    assert "ilp.data" in str(without.reason)
    gone = ended(jobs, jobs.submit("bare", "77", via="api").job_id)
    assert (gone.status, gone.run_id) == ("cancelled", None)
    by_name = {name: ended(jobs, job_id) for name, job_id in found.items()}
    assert (by_name["refused"].status, by_name["refused"].attempts) == ("refused", 1)
    assert (by_name["again"].status, by_name["again"].attempts) == ("done", 3)
    assert (by_name["broken"].status, by_name["broken"].attempts) == ("failed", 3)
    assert by_name["broken"].reason == "The disk is full."
    assert (by_name["crash"].status, by_name["crash"].attempts) == ("done", 2)
    assert by_name["eat"].status == "failed"
    assert "memory_mb" in str(by_name["eat"].reason)
    jobs.stop()
    assert registry.tags("bare", bare)["ilp.status"] == "needs_data"
    assert registry.tags("refused", versions["refused"])["ilp.reason"] == "Weights that could run code."
    ends = {run.info.run_id: run.info.status for run in registry.runs()}
    assert [ends[str(by_name[name].run_id)] for name in ("refused", "broken", "eat")] == ["FAILED"] * 3


def test_filters_leave_versions_out_without_a_word_in_the_registry(start: Start, registry: Registry) -> None:
    off = registry.register("bot", **{"ilp.enabled": "false"})
    other = registry.register("other")
    jobs = start(names=("bot*",))
    job = ended(jobs, jobs.submit("bot", off, via="webhook").job_id)
    assert (job.status, job.reason) == ("skipped", "The version has the tag ilp.enabled = false.")
    assert ended(jobs, jobs.submit("other", other, via="webhook").job_id).status == "skipped"
    jobs.stop()
    assert "ilp.status" not in registry.tags("bot", off)
    assert registry.runs() == []


def test_cancel_and_retry(start: Start, registry: Registry) -> None:
    slow, waiting = registry.register("parent"), registry.register("ok")
    jobs = start(workers=1)
    running = jobs.submit("parent", slow, via="api").job_id
    queued = jobs.submit("ok", waiting, via="api").job_id
    helper = Path("mlruns/ilp-work/stub", running, "helper")
    deadline = time.monotonic() + 20
    while not helper.is_file() or not helper.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(StateConflictError):
        jobs.retry(running)
    assert jobs.cancel(queued).status == "cancelled"
    assert jobs.cancel(running).status == "cancelled"
    with pytest.raises(StateConflictError):
        jobs.cancel(running)
    with pytest.raises(UnknownJobError):
        jobs.cancel("nobody")
    assert jobs.retry(queued).status == "queued"
    assert ended(jobs, queued).status == "done"
    # The whole group of the cancelled job is gone, and its run has an end.
    assert not lives(int(helper.read_text()))
    assert ended(jobs, running).status == "cancelled"
    jobs.stop()
    ends = {run.info.run_id: run.info.status for run in registry.runs()}
    assert ends[str(jobs.ledger.row(running)["run_id"])] == "KILLED"


def test_a_job_that_is_started_again_waits_until_its_cancelled_round_is_over(
    start: Start, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.register("deaf-3")
    jobs = start(workers=2)
    job_id = jobs.submit("deaf-3", version, via="api").job_id
    book = Path("mlruns/ilp-work/stub", job_id)
    until(lambda: list(book.glob("turn-0-*")))
    jobs.cancel(job_id)
    jobs.retry(job_id)
    until(lambda: list(book.glob("turn-1-*")))
    # By now the first round has left; the second one is in hand all the same.
    monkeypatch.setattr("ilp_service.service.jobs._HOUSE_SECONDS", 0.05)
    time.sleep(0.5)
    jobs._take_up_strays()
    job = ended(jobs, job_id)
    assert (job.status, job.attempts, jobs.ledger.row(job_id)["round"]) == ("done", 1, 1)
    assert turns(job) == 2
    assert not (book / "overlap").exists()
    assert not (book / "no-tmpdir").exists()


@pytest.mark.parametrize("taker", ["nobody", "a worker that is forgotten"])
def test_a_job_that_could_not_be_begun_is_queued_again(
    start: Start, registry: Registry, monkeypatch: pytest.MonkeyPatch, taker: str
) -> None:
    version = registry.register("ok")
    begin, full = Work.begin, [True]

    def on_a_full_disk(self: Work) -> bool:
        if full:
            full.pop()
            raise StorageError("The service's database cannot be used: disk is full.")
        return begin(self)

    monkeypatch.setattr(Work, "begin", on_a_full_disk)
    jobs = start()
    job_id = jobs.submit("ok", version, via="api").job_id
    until(lambda: not full and not jobs._hands)
    if taker != "nobody":
        with jobs.ledger.engine.begin() as connection:
            connection.execute(sa.update(registrations).values(worker=taker))
    monkeypatch.setattr("ilp_service.service.jobs._HOUSE_SECONDS", 0.0)
    monkeypatch.setattr("ilp_service.service.jobs._TAKING_SECONDS", 0.05)
    jobs._take_up_strays()
    assert (ended(jobs, job_id).status, jobs.ledger.row(job_id)["round"]) == ("done", 1)


def test_a_job_that_waits_or_runs_is_not_queued_again(
    start: Start, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {name: registry.register(name) for name in ("parent", "ok")}
    jobs = start(workers=1)
    running, waiting = (jobs.submit(name, version, via="api").job_id for name, version in versions.items())
    until(lambda: jobs.job(running).attempts)
    monkeypatch.setattr("ilp_service.service.jobs._HOUSE_SECONDS", 0.0)
    monkeypatch.setattr("ilp_service.service.jobs._TAKING_SECONDS", 0.05)
    jobs._take_up_strays()
    assert [jobs.ledger.row(job_id)["round"] for job_id in (running, waiting)] == [0, 0]
    # Another worker's is that worker's, as long as anybody knows of it.
    monkeypatch.setattr(jobs._queue, "status", lambda *_: ("PENDING", "host-b"))
    jobs.ledger.alive("host-b")
    jobs._take_up_strays()
    assert jobs.ledger.row(running)["round"] == 0
    jobs.ledger.forget_worker("host-b")
    jobs._take_up_strays()
    assert jobs.ledger.row(running)["round"] == 1


def test_copies_of_a_checkpoint_go_unless_another_job_reads_them(start: Start, registry: Registry) -> None:
    versions = [registry.register("ok") for _ in range(2)]
    copies = [Path(f"mlruns/ilp-work/downloads/models_ok_{version}-0123456789ab") for version in versions]
    for copy in copies:
        copy.mkdir(parents=True)
        (copy / "model.safetensors").touch()
    jobs = start(workers=2)
    reading = os.open(copies[0], os.O_RDONLY)
    fcntl.flock(reading, fcntl.LOCK_SH)
    for version in versions:
        assert ended(jobs, jobs.submit("ok", version, via="api").job_id).status == "done"
    until(lambda: not jobs._hands)
    os.close(reading)
    assert (copies[0] / "model.safetensors").is_file()
    assert not copies[1].exists()


def test_what_jobs_leave_behind_goes_after_some_time(start: Start, registry: Registry) -> None:
    names = ("refused", "broken", "parent")
    versions = {name: registry.register(name) for name in names}
    jobs = start(attempts=1)
    ids = {name: jobs.submit(name, version, via="api").job_id for name, version in versions.items()}
    assert ended(jobs, ids["broken"]).status == "failed"
    until(lambda: jobs.job(ids["parent"]).attempts and len(jobs._hands) == 1)
    folders = {name: Path("mlruns/ilp-work/jobs", job_id) for name, job_id in ids.items()}
    downloads = [Path("mlruns/ilp-work/downloads", name) for name in (".part-cut", "0123456789abcdef")]
    foreign = Path("mlruns/ilp-work/jobs/foreign")
    for folder in (*downloads, foreign):
        folder.mkdir(parents=True)
    jobs._house(1)
    assert (folders["broken"] / "log.txt").is_file()
    assert all(folder.is_dir() for folder in downloads)
    for folder in downloads:
        os.utime(folder, (0, 0))
    with jobs.ledger.engine.begin() as connection:
        connection.execute(sa.update(registrations).values(ended_at=1, started_at=1))
    jobs._house(1)
    assert not any(folder.exists() for folder in (*downloads, folders["broken"], folders["refused"]))
    assert folders["parent"].is_dir()
    assert foreign.is_dir()


def test_a_stopped_service_goes_on_where_it_was(start: Start, registry: Registry) -> None:
    version = registry.register("slow-4")
    jobs = start()
    job_id = jobs.submit("slow-4", version, via="api").job_id
    deadline = time.monotonic() + 20
    while jobs.job(job_id).step != "evaluate":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    jobs.stop()
    (run,) = registry.runs()
    assert run.info.status == "KILLED"
    assert registry.tags("slow-4", version)["ilp.status"] == "queued"
    jobs = start()
    job = ended(jobs, job_id)
    assert (job.status, job.attempts, job.run_id) == ("done", 2, run.info.run_id)
    assert len(registry.runs()) == 1


def test_priority_goes_first(start: Start, registry: Registry) -> None:
    first = registry.register("slow-2")
    names = ("a", "b", "c")
    versions = {name: registry.register(name) for name in names}
    jobs = start(workers=1)
    ended(jobs, jobs.submit("slow-2", first, via="api").job_id, "running")
    ids = [jobs.submit(name, versions[name], via="api", priority=rank).job_id for rank, name in enumerate(names)]
    done = [ended(jobs, job_id, "done") for job_id in ids]
    starts = [job.started_at for job in done]
    assert sorted(starts, reverse=True) == starts  # type: ignore[type-var]


def test_one_embedded_database_has_one_service(start: Start, registry: Registry) -> None:
    start()
    with pytest.raises(StorageError, match="Another service uses"):
        start()


def test_submitting_is_quick_and_pages_hold_every_job_once(start: Start, registry: Registry) -> None:
    jobs = start(names=("nothing",))
    times = []
    for number in range(60):
        begin = time.perf_counter()
        jobs.submit("model", str(number), via="webhook", delivery=Delivery(f"d-{number}", number))
        times.append(time.perf_counter() - begin)
    assert sorted(times)[30] < 0.02
    seen: list[str] = []
    after = None
    while True:
        page = jobs.jobs(model="MOD", limit=7, after=after)
        seen += [job.version for job in page.items]
        after = page.next
        if after is None:
            break
    assert seen == [str(number) for number in reversed(range(60))]
    assert jobs.counts()["skipped"] == 60
    assert jobs.jobs(after="no cursor").items[0].version == "59"


FIRST_THREAD = """
import os, sys, threading
from ilp_service.service.configuration import ServiceSettings
from ilp_service.service.jobs import Jobs

jobs, start, seen = Jobs(ServiceSettings()), threading.Thread.start, []
if "mlflow" in sys.modules:
    raise SystemExit("MLflow is there already, so that this shows nothing")

def started(thread):
    seen.append(hasattr(sys.modules.get("mlflow"), "MlflowClient"))
    start(thread)

threading.Thread.start = started
jobs.start()
print(f"{len(seen)} threads", all(seen), flush=True)
os._exit(0)
"""


def test_no_thread_of_a_service_can_see_mlflow_half_imported(workplace: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", FIRST_THREAD], cwd=workplace, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-500:]
    assert re.fullmatch(r"[1-9]\d* threads True\n", ended.stdout), ended.stdout
