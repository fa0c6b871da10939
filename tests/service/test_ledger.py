"""The book: nothing twice, nothing half, and what MLflow is told is the latest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ilp_service.errors import SettingsError, StorageError
from ilp_service.service.desk import STATUSES, Delivery, UnknownJobError
from ilp_service.service.ledger import Ledger, Notice
from ilp_service.service.ledger_tables import (
    database_url,
    deliveries,
    marks,
    notices,
    now,
    open_engine,
    registrations,
    workers,
)
from tests.deploy.conftest import PASSWORDS
from tests.postgresql_server import Server

TABLES = (registrations, deliveries, notices, workers, marks)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """An empty book, in either database."""
    url = None
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("databases")
        url = server.url("ilp", PASSWORDS["ILP_DATABASE_PASSWORD"], "ilp")
    engine = open_engine(database_url(url, tmp_path))
    with engine.begin() as connection:
        for table in TABLES:
            connection.execute(sa.delete(table))
    yield Ledger(engine)
    engine.dispose()


def add(ledger: Ledger, job_id: str, delivery: Delivery | None = None, **changes: object) -> bool:
    values = {"store": "s", "model": "m", "version": "1", "status": "queued", "priority": 0, "via": "api"}
    return ledger.add({"job_id": job_id, **values, **changes}, delivery, lambda _connection: None)


def test_many_threads_hand_in_the_same_and_one_is_first(ledger: Ledger) -> None:
    firsts = []
    threads = [
        threading.Thread(target=lambda n=n: firsts.append(add(ledger, "j", Delivery(f"d{n}", n))))  # type: ignore[misc]
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(firsts) == [False] * 11 + [True]
    assert all(ledger.seen(f"d{n}") for n in range(12))
    assert ledger.counts()["queued"] == 1


def test_job_and_what_comes_with_it_are_written_together_or_not_at_all(ledger: Ledger) -> None:
    def broken(_connection: sa.Connection) -> None:
        raise RuntimeError

    values = {"job_id": "j", "store": "s", "model": "m", "version": "1", "status": "queued", "priority": 0}
    with pytest.raises(RuntimeError):
        ledger.add({**values, "via": "api"}, Delivery("d", 1), broken)
    assert not ledger.seen("d")
    with pytest.raises(UnknownJobError):
        ledger.job("j")


def test_a_finished_job_is_not_changed_by_its_worker(ledger: Ledger) -> None:
    add(ledger, "j")
    assert ledger.change("j", {"status": "cancelled", "reason": "It was cancelled."})
    assert not ledger.change("j", {"status": "done"})
    assert ledger.job("j").status == "cancelled"


def test_a_round_that_was_left_changes_nothing_of_the_next(ledger: Ledger) -> None:
    add(ledger, "j")
    assert ledger.change("j", {"status": "running"}, turn=0)
    assert ledger.change("j", {"status": "queued", "round": 1}, turn=0)
    assert not ledger.change("j", {"status": "done"}, turn=0)
    assert not ledger.change("j", {"status": "queued", "round": 1}, turn=0)
    assert (ledger.job("j").status, ledger.row("j")["round"]) == ("queued", 1)


def taken(ledger: Ledger) -> Notice:
    """The only notice that is due, taken in hand."""
    (due,) = ledger.due_notices(10)
    notice = ledger.take_notice(due)
    assert notice is not None
    return notice


def test_later_news_join_earlier_ones_and_are_not_lost_while_those_are_told(ledger: Ledger) -> None:
    add(ledger, "j", run_id="r")
    ledger.change("j", {"status": "running"})
    first = taken(ledger)
    assert first.tags == {"ilp.status": "running", "ilp.reason": None, "ilp.run_id": "r"}
    assert first.run_status is None
    ledger.change("j", {"status": "failed", "reason": "It broke."})
    ledger.notice_told(first)
    second = taken(ledger)
    assert (second.tags["ilp.status"], second.tags["ilp.reason"]) == ("failed", "It broke.")
    assert second.tags["ilp.unlearned_rate"] is None
    assert (second.run_id, second.run_status) == ("r", "FAILED")
    ledger.notice_later(second, now() + 10_000_000)
    assert ledger.due_notices(10) == []
    ledger.change("j", {"status": "queued"}, only=["failed"])
    if ledger.engine.dialect.name == "sqlite":
        assert taken(ledger).run_status is None


def test_what_another_worker_tells_is_left_to_it_until_it_is_lost(ledger: Ledger) -> None:
    if ledger.engine.dialect.name == "sqlite":
        # It has one worker, which never waits for itself.
        add(ledger, "j")
        ledger.change("j", {"status": "running"})
        assert taken(ledger) == taken(ledger)
        return
    add(ledger, "j", run_id="r")
    ledger.change("j", {"status": "running"})
    (seen,) = ledger.due_notices(10)
    old = ledger.take_notice(seen)
    assert old is not None
    assert ledger.take_notice(seen) is None
    # News come while it is told: nobody tells them before.
    ledger.change("j", {"status": "done"})
    assert ledger.due_notices(10) == []
    assert ledger.take_notice(seen) is None
    ledger.notice_told(old)
    new = taken(ledger)
    assert new.tags["ilp.status"] == "done"
    # The one that has it now is gone: after a while others take it, with all that there is to tell.
    with ledger.engine.begin() as connection:
        connection.execute(sa.update(notices).values(due=now() - 1))
    ledger.change("j", {"status": "queued"}, only=["done"])
    newest = ledger.take_notice(seen)
    assert newest is not None
    assert newest.tags["ilp.status"] == "queued"
    # It was not gone, only slow.
    ledger.notice_told(new)
    ledger.notice_later(new, 0)
    assert ledger.take_notice(seen) is None
    ledger.notice_told(newest)
    assert ledger.take_notice(seen) is None
    assert ledger.due_notices(10) == []


def test_known_versions_do_not_depend_on_the_settings(ledger: Ledger) -> None:
    add(ledger, "a", model="m", version="1")
    add(ledger, "b", model="n", version="2", status="skipped")
    add(ledger, "c", model="m", version="3", store="other")
    asked = [("m", "1"), ("m", "2"), ("n", "2"), ("n", "1"), ("m", "3")]
    assert ledger.known("s", asked) == {("m", "1"): ("queued", "a"), ("n", "2"): ("skipped", "b")}
    assert ledger.known("s", []) == {}


def test_marks_and_workers(ledger: Ledger) -> None:
    assert ledger.get_mark("x") is None
    assert [ledger.mark("x", "1"), ledger.mark("x", "2")] == ["1", "1"]
    ledger.set_mark("x", "3")
    assert ledger.get_mark("x") == "3"
    ledger.alive("a")
    ledger.alive("b")
    assert ledger.lost_workers("a", now() - 1_000_000) == []
    ledger.gone("b")
    assert ledger.lost_workers("a", now() - 1_000_000) == ["b"]
    ledger.forget_worker("b")
    assert ledger.lost_workers("a", now()) == []
    add(ledger, "j", Delivery("d", 1))
    ledger.forget_deliveries(now())
    assert not ledger.seen("d")


def test_what_no_known_worker_has_is_unfinished_for_all(ledger: Ledger) -> None:
    ledger.alive("a")
    ledger.alive("b")
    for job_id, worker in (("j1", None), ("j2", "a"), ("j3", "b"), ("j4", "forgotten"), ("j5", None)):
        add(ledger, job_id, worker=worker, status="done" if job_id == "j5" else "queued")
    assert {row["job_id"] for row in ledger.unfinished("a", now() + 1)} == {"j1", "j2", "j4"}
    assert ledger.unfinished("a", now() - 60_000_000) == []
    assert ledger.workers() == {"a", "b"}
    for worker in ("a", "b"):
        ledger.forget_worker(worker)
    assert {row["job_id"] for row in ledger.unfinished("a", now() + 1)} == {"j1", "j2", "j3", "j4"}


def test_names_with_wildcards_and_quotes_are_only_text(ledger: Ledger) -> None:
    for number, name in enumerate(("50%", "a_b", "x'; DROP TABLE ilp_registrations; --", "axb")):
        add(ledger, f"j{number}", model=name)
    for part, count in (("%", 1), ("A_B", 1), ("'; drop", 1), ("", 4), ("x", 2)):
        assert len(ledger.jobs(model=part, status=None, limit=10, after=None).items) == count
        assert ledger.counts(model=part)["queued"] == count


def test_services_that_start_at_once_make_the_tables_once(ledger: Ledger) -> None:
    url = ledger.engine.url
    with ledger.engine.begin() as connection:
        for table in TABLES:
            table.drop(connection)
    # At one file there is one service.
    number = 1 if url.get_backend_name() == "sqlite" else 6
    begin, opened = threading.Barrier(number), []

    def start() -> None:
        begin.wait()
        opened.append(open_engine(url))

    threads = [threading.Thread(target=start) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == number
    assert Ledger(opened[0]).counts() == dict.fromkeys(STATUSES, 0)
    for engine in opened:
        engine.dispose()


def test_an_unusable_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot be written"):
        open_engine(database_url(None, tmp_path / "file" / "mlruns"))
    (tmp_path / "ilp-service.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="not a database"):
        open_engine(database_url(None, tmp_path))
    with pytest.raises(SettingsError, match="postgresql"):
        database_url("mysql://u:secret@h/d", tmp_path)
    with pytest.raises(SettingsError) as caught:
        database_url("mysql://u:secret@h/d", tmp_path)
    assert "secret" not in str(caught.value)
    assert database_url("postgresql://u:p@h/d", tmp_path).drivername == "postgresql+psycopg"
