"""The loop over the registry finds what nobody announced, and nothing twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow import MlflowClient

from ilp_service.errors import TrackingError
from ilp_service.service import reconcile
from ilp_service.service.configuration import ServiceSettings
from ilp_service.service.jobs import Jobs
from ilp_service.service.reconcile import Reconciler, _pause
from ilp_service.tracking import watch

STUB = ("/bin/false",)
Start = Callable[..., Reconciler]


class Registry:
    """The embedded store, into which versions are written directly, so that hundreds cost nothing."""

    def __init__(self, folder: Path) -> None:
        uri = f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"
        self.client = MlflowClient(uri)
        self._engine = sa.create_engine(uri)
        self._clock = int(time.time() * 1000) - 10_000_000

    def add(self, name: str, count: int = 1, *, created: int | None = None, **tags: str) -> list[str]:
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        with self._engine.begin() as connection:
            last = connection.execute(
                sa.text("SELECT coalesce(max(version), 0) FROM model_versions WHERE name = :name"), {"name": name}
            ).scalar_one()
            numbers = range(last + 1, last + 1 + count)
            for number in numbers:
                self._clock += 10
                connection.execute(
                    sa.text(
                        "INSERT INTO model_versions (name, version, creation_time, last_updated_time, current_stage, "
                        "source, status) VALUES (:name, :version, :at, :at, 'None', 's3://nowhere/x', 'READY')"
                    ),
                    {"name": name, "version": number, "at": created or self._clock},
                )
        for key, value in tags.items():
            for number in numbers:
                self.client.set_model_version_tag(name, str(number), key, value)
        return [str(number) for number in numbers]


@pytest.fixture
def registry(workplace: Path) -> Registry:
    return Registry(workplace)


@pytest.fixture
def start(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A service whose jobs wait, and whose loop is turned by hand."""
    started: list[Jobs] = []
    monkeypatch.setattr(Jobs, "_run", lambda _self, _job_id, _turn: None)
    monkeypatch.setattr(Jobs, "_take_up_strays", lambda _self: None)

    def begin(**changes: object) -> Reconciler:
        given: dict[str, Any] = changes
        jobs = Jobs(ServiceSettings(**given), command=STUB)
        jobs.start()
        started.append(jobs)
        return Reconciler(jobs)

    yield begin
    for jobs in started:
        jobs.stop()


def found(reconciler: Reconciler) -> set[tuple[str, str, str]]:
    page = reconciler._jobs.jobs(limit=1000)
    return {(job.model, job.version, job.status) for job in page.items}


def test_what_was_there_before_is_left_alone_and_what_comes_is_found_once(start: Start, registry: Registry) -> None:
    registry.add("old", 3)
    loop = start()
    assert loop.look().new == 0
    registry.add("bot", 2)
    registry.add("ilp-meta-classifier")
    assert loop.look().new == 2
    assert found(loop) == {("bot", "1", "queued"), ("bot", "2", "queued")}
    assert loop.look().new == 0
    # One that was registered while the service was down, and one that a slow commit put behind others.
    loop._jobs.stop()
    registry.add("bot", created=registry._clock - 300_000 + 10_000_000)
    again = start()
    registry.add("bot")
    assert again.look().new == 2
    assert again.look().new == 0


def test_a_late_commit_with_an_earlier_time_is_found(start: Start, registry: Registry) -> None:
    registry.add("bot", created=1_000_000_000_000)
    loop = start()
    loop.look()
    registry.add("bot", created=1_000_000_900_000)
    assert loop.look().new == 1
    registry.add("bot", created=1_000_000_500_000)
    assert loop.look().new == 1


def test_backfill_pages_through_everything(start: Start, registry: Registry) -> None:
    registry.add("bot", 450)
    registry.add("off", 5, **{"ilp.enabled": "false"})
    loop = start(backfill=True)
    look = loop.look()
    assert (look.versions, look.new, look.left_out) == (455, 450, 5)
    begin = time.perf_counter()
    look = loop.look()
    assert (look.new, look.left_out) == (0, 0)
    assert time.perf_counter() - begin < 3
    assert loop._jobs.counts()["queued"] == 450


def test_only_the_pages_that_can_hold_something_new_are_read(
    start: Start, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add("bot", 250, created=1_000_000_000_000)
    registry.add("bot", 150, created=1_000_010_000_000)
    loop = start(backfill=True)
    assert loop.look().versions == 400
    registry.add("bot", created=1_000_020_000_000)
    look = loop.look()
    assert look.new == 1
    assert look.versions <= 200


def test_a_registry_whose_clock_was_ahead_hides_nothing_later(start: Start, registry: Registry) -> None:
    loop = start(backfill=True)
    registry.add("bot", created=int(time.time() * 1000) + 86_400_000)
    assert loop.look().new == 1
    registry.add("bot", created=int(time.time() * 1000))
    assert loop.look().new == 1
    assert loop.look().new == 0


def test_what_could_not_be_read_before_is_found_by_a_whole_look(
    start: Start, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, hidden = watch.newest_versions, [True]

    def readable(*arguments: Any) -> Any:  # noqa: ANN401
        page, token = real(*arguments)
        return [version for version in page if not (hidden[0] and version.name == "secret")], token

    monkeypatch.setattr(watch, "newest_versions", readable)
    registry.add("secret", created=1_000_000_000_000)
    registry.add("bot", created=1_000_010_000_000)
    loop = start(backfill=True)
    assert loop.look().new == 1
    hidden[0] = False
    assert loop.look().new == 0
    monkeypatch.setattr(reconcile, "_WHOLE_SECONDS", 0.0)
    assert loop.look().new == 1
    assert ("secret", "1", "queued") in found(loop)


def test_versions_are_found_when_their_alias_comes(start: Start, registry: Registry) -> None:
    registry.add("bot", 2)
    loop = start(aliases=("prod",), backfill=True)
    assert loop.look().new == 0
    registry.client.set_registered_model_alias("bot", "prod", "2")
    assert loop.look().new == 1
    assert loop.look().new == 0
    assert found(loop) == {("bot", "2", "queued")}


def test_a_server_that_is_down_is_told_of_once_and_tried_again(
    start: Start, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = start(interval=0.02, backfill=True)
    registry.add("bot")
    real, down = watch.newest_versions, [True]

    def sometimes(*arguments: Any) -> Any:  # noqa: ANN401
        if down[0]:
            raise TrackingError("The tracking server does not answer.")
        return real(*arguments)

    monkeypatch.setattr(watch, "newest_versions", sometimes)
    with caplog.at_level(logging.WARNING, "ilp.service"):
        loop.start()
        time.sleep(0.3)
        down[0] = False
        deadline = time.monotonic() + 10
        while not found(loop):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        loop.stop()
    assert sum("does not answer" in record.message for record in caplog.records) == 1
    assert sum("can be read again" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("took", [0.0, 0.5, 2.0, 4.0])
def test_what_is_registered_as_a_look_begins_is_handed_in_within_an_interval(took: float) -> None:
    # The next look may take twice as long as this one.
    assert took + _pause(30.0, took) + 2 * took <= 30.0


def test_a_slow_registry_has_half_an_interval_of_rest() -> None:
    assert _pause(30.0, 60.0) == 15.0
