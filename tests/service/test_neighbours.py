"""Workers at one database: who is lost, whatever the hosts' clocks say and however long the database was away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ilp_service.service.ledger import Ledger
from ilp_service.service.ledger_tables import database_url, open_engine, workers
from ilp_service.service.neighbours import Neighbours
from tests.deploy.conftest import PASSWORDS
from tests.postgresql_server import Server


class Hosts:
    """Two workers, and the time that goes by between their beats."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._time = ledger, 0.0
        self.a, self.b = (Neighbours(ledger, name, lambda: self._time) for name in ("a", "b"))

    def wait(self, seconds: float) -> None:
        """Let time go by: what is written down gets older."""
        self._time += seconds
        with self._ledger.engine.begin() as connection:
            older = workers.c.seen_at - int(seconds * 1e6)
            connection.execute(sa.update(workers).where(workers.c.seen_at > 0).values(seen_at=older))

    def both(self, beats: int) -> list[str]:
        """Both beat every 15 s; who is taken for lost."""
        lost = []
        for _ in range(beats):
            lost += self.a.beat() + self.b.beat()
            self.wait(15)
        return lost


@pytest.fixture
def ledger(databases: Server, tmp_path: Path) -> Iterator[Ledger]:
    url = databases.url("ilp", PASSWORDS["ILP_DATABASE_PASSWORD"], "ilp")
    engine = open_engine(database_url(url, tmp_path))
    with engine.begin() as connection:
        connection.execute(sa.delete(workers))
    yield Ledger(engine)
    engine.dispose()


def test_the_hosts_clocks_count_for_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts(ledger)
    assert hosts.both(10) == []
    for hours in (-5, 5):
        with monkeypatch.context() as patch:
            patch.setattr("ilp_service.service.ledger.now", lambda hours=hours: 1_700_000_000_000_000 + hours * 3600)
            assert hosts.b.beat() == []
        assert hosts.a.beat() == []


def test_one_that_is_silent_is_lost_and_one_that_left_at_once(ledger: Ledger) -> None:
    hosts = Hosts(ledger)
    hosts.both(1)
    ledger.gone("b")
    assert hosts.a.beat() == ["b"]
    hosts.both(8)
    for _ in range(5):
        assert hosts.a.beat() == []
        hosts.wait(15)
    assert hosts.a.beat() == ["b"]


def test_when_the_database_was_away_the_others_get_time_to_say_that_they_live(ledger: Ledger) -> None:
    hosts = Hosts(ledger)
    hosts.both(10)
    hosts.wait(600)
    assert hosts.a.beat() == []
    hosts.wait(10)
    assert hosts.b.beat() == []
    assert hosts.both(20) == []
    hosts.wait(600)
    lost: list[str] = []
    waited = 0
    while not lost:
        lost = hosts.a.beat()
        hosts.wait(15)
        waited += 15
    assert (lost, waited) == (["b"], 105)


def test_a_database_whose_clock_is_set_loses_nobody(ledger: Ledger) -> None:
    hosts = Hosts(ledger)
    hosts.both(10)
    # To the book, a clock that was set ahead is as if everybody had been silent.
    with ledger.engine.begin() as connection:
        connection.execute(sa.update(workers).values(seen_at=workers.c.seen_at - 300_000_000))
    hosts.a._seen -= 300_000_000
    assert hosts.a.beat() == []
    assert hosts.both(10) == []
