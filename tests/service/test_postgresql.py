"""Several hosts at one PostgreSQL database: they share the work, and what a lost one had in hand the others finish."""

from __future__ import annotations

import collections
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from mlflow import MlflowClient

from ilp_service.service.ledger_tables import database_url
from tests.deploy.conftest import PASSWORDS
from tests.postgresql_server import Server
from tests.service.mlflow_server import MlflowServer
from tests.service.test_kill_nine import Service

JOBS = 20
HOSTS = ("host-a", "host-b")


@pytest.fixture
def url(databases: Server) -> str:
    """Of an empty database, as the role that `deploy/databases` made for the service."""
    engine = sa.create_engine(database_url(databases.url(), Path()), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("DROP DATABASE ilp WITH (FORCE)"))
        connection.execute(sa.text("CREATE DATABASE ilp OWNER ilp TEMPLATE template0"))
    engine.dispose()
    return databases.url("ilp", PASSWORDS["ILP_DATABASE_PASSWORD"], "ilp")


@pytest.fixture
def rows(url: str, tmp_path: Path) -> Iterator[Callable[[], list[sa.RowMapping]]]:
    engine = sa.create_engine(database_url(url, tmp_path))

    def read() -> list[sa.RowMapping]:
        with engine.connect() as connection:
            return list(connection.execute(sa.text("SELECT * FROM ilp_registrations")).mappings())

    yield read
    engine.dispose()


@pytest.fixture
def hosts(server: MlflowServer, url: str, tmp_path: Path) -> Iterator[dict[str, Service]]:
    """Two services with nothing in common but MLflow and the database, not started."""
    made = {}
    for name in HOSTS:
        (tmp_path / name).mkdir()
        made[name] = Service(
            tmp_path / name,
            server.uri,
            database=url,
            worker=name,
            workers="2",
            backfill="true",
            names="slow-*",
            data_dirs=str(tmp_path),
            interval="1",
        )
    yield made
    for service in made.values():
        if service.process is not None:
            service.end(signal.SIGTERM)


def wait_until(met: Callable[[], object], hosts: dict[str, Service], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        ended = [name for name, one in hosts.items() if one.process is not None and one.process.poll() is not None]
        assert not ended, [(hosts[name].folder / "serve.log").read_text()[-3000:] for name in ended]
        logs = {name: (service.folder / "serve.log").read_text()[-2000:] for name, service in hosts.items()}
        assert time.monotonic() < deadline, logs
        time.sleep(0.1)


@pytest.mark.timeout(400)
def test_two_hosts_share_the_work_and_finish_what_a_killed_one_had_in_hand(
    hosts: dict[str, Service],
    server: MlflowServer,
    rows: Callable[[], list[sa.RowMapping]],
    url: str,
    tmp_path: Path,
) -> None:
    client = MlflowClient(server.uri)
    (tmp_path / "data.jsonl").write_text("{}\n")
    client.create_registered_model("slow-2")
    for _ in range(JOBS):
        tags = {"ilp.data": str(tmp_path / "data.jsonl")}
        client.create_model_version("slow-2", "s3://nowhere/x", tags=tags, await_creation_for=0)
    # Both at once, so that they make the tables and hand in the same versions against each other.
    for service in hosts.values():
        service.start()

    def done_by(name: str) -> int:
        return sum(row["status"] == "done" and row["worker"] == name for row in rows())

    wait_until(lambda: all((service.folder / "mlruns/ilp-work/stub").is_dir() for service in hosts.values()), hosts)
    wait_until(lambda: done_by("host-a") >= 2 and done_by("host-b") >= 2, hosts)
    killed = hosts["host-b"]
    in_hand: set[str] = set()

    def works() -> bool:
        in_hand.update(row["job_id"] for row in rows() if (row["worker"], row["status"]) == ("host-b", "running"))
        return bool(in_hand)

    wait_until(works, hosts)
    killed.end(signal.SIGKILL)
    in_hand |= {row["job_id"] for row in rows() if (row["worker"], row["status"]) == ("host-b", "running")}
    # As if a minute and a half had gone by in which nobody saw it.
    engine = sa.create_engine(database_url(url, tmp_path))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE ilp_workers SET seen_at = 0 WHERE worker = 'host-b'"))
        connection.execute(sa.text("UPDATE ilp_notices SET due = 0"))
    engine.dispose()
    wait_until(lambda: all(row["status"] == "done" for row in rows()), hosts)
    found = rows()

    def tags(row: sa.RowMapping) -> tuple[str | None, str | None]:
        known = client.get_model_version("slow-2", row["version"]).tags
        return known.get("ilp.status"), known.get("ilp.run_id")

    wait_until(lambda: all(tags(row) == ("done", row["run_id"]) for row in found), hosts)
    assert "worker host-b is lost" in (hosts["host-a"].folder / "serve.log").read_text()
    assert hosts["host-a"].end(signal.SIGTERM) == 0

    assert sorted(int(row["version"]) for row in found) == list(range(1, JOBS + 1))
    shares = collections.Counter(row["worker"] for row in found)
    assert set(shares) == set(HOSTS)
    assert min(shares.values()) >= 2
    for row in found:
        books = [service.folder / "mlruns/ilp-work/stub" / row["job_id"] for service in hosts.values()]
        done = sum(len(list(book.glob("done-*"))) for book in books)
        if row["job_id"] in in_hand:
            assert done in {1, 2}
        else:
            assert (done, row["attempts"], sum(book.is_dir() for book in books)) == (1, 1, 1)
    experiment = client.get_experiment_by_name("ilp")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert sorted(run.info.run_id for run in runs) == sorted(row["run_id"] for row in found)
    assert {run.info.status for run in runs} == {"FINISHED"}
