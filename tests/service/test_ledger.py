"""The book: nothing twice, nothing half, and what MLflow is told is the latest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ilp_service.errors import SettingsError, StorageError
from ilp_service.service.desk import Delivery, UnknownJobError
from ilp_service.service.ledger import Ledger
from ilp_service.service.ledger_tables import database_url, now, open_engine


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(open_engine(database_url(None, tmp_path)))
    yield ledger
    ledger.engine.dispose()


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


def test_later_news_join_earlier_ones_and_are_not_lost_while_those_are_told(ledger: Ledger) -> None:
    add(ledger, "j", run_id="r")
    ledger.change("j", {"status": "running"})
    (first,) = ledger.due_notices(10)
    assert first.tags == {"ilp.status": "running", "ilp.reason": None, "ilp.run_id": "r"}
    assert first.run_status is None
    ledger.change("j", {"status": "failed", "reason": "It broke."})
    ledger.notice_told(first)
    (second,) = ledger.due_notices(10)
    assert (second.tags["ilp.status"], second.tags["ilp.reason"]) == ("failed", "It broke.")
    assert second.tags["ilp.unlearned_rate"] is None
    assert (second.run_id, second.run_status) == ("r", "FAILED")
    ledger.notice_later(second, now() + 10_000_000)
    assert ledger.due_notices(10) == []
    ledger.notice_told(second)
    ledger.change("j", {"status": "queued"}, only=["failed"])
    assert ledger.due_notices(10)[0].run_status is None


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


def test_names_with_wildcards_and_quotes_are_only_text(ledger: Ledger) -> None:
    for number, name in enumerate(("50%", "a_b", "x'; DROP TABLE ilp_registrations; --", "axb")):
        add(ledger, f"j{number}", model=name)
    for part, count in (("%", 1), ("A_B", 1), ("'; drop", 1), ("", 4), ("x", 2)):
        assert len(ledger.jobs(model=part, status=None, limit=10, after=None).items) == count
        assert ledger.counts(model=part)["queued"] == count


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
