"""The other way in: what the registry has and the book does not is handed in.

Versions that were registered straight into the database, while the service was down, or whose webhook was lost are
found here, within one interval.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ilp_service.errors import IlpError
from ilp_service.service.jobs import Jobs
from ilp_service.tracking import watch
from ilp_service.tracking.watch import Registered, Version

LOG = logging.getLogger("ilp.service")
_SKEW_MS = 60_000
_MARGIN_MS = 600_000
"""Versions this much older than the newest one of the last look are looked at again: those that another server's
clock, or a slow commit, put behind it."""
_WHOLE_SECONDS = 3600.0
"""So often every version is looked at that is not older than the service: some could not be read before."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the registry found.

    Attributes:
        versions: Looked at.
        new: Handed in.
        left_out: By their tags.
    """

    versions: int
    new: int
    left_out: int


class Reconciler:
    """Looks at the registry every so often."""

    def __init__(self, jobs: Jobs, *, counted: Callable[[Look], None] = lambda _look: None) -> None:
        self._jobs, self._counted = jobs, counted
        self._settings, self._tracking = jobs.settings, jobs.tracking
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)
        self._began_ms = _now_ms()
        self._down: str | None = None
        self._whole_at: float | None = None

    def start(self) -> None:
        """Begin to look, at once and then so often that what is registered is handed in within an interval."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._counted(self.look())
                if self._down is not None:
                    LOG.warning("the registry can be read again")
                self._down = None
            except IlpError as error:
                # Once for every cause, not once for every interval.
                if str(error) != self._down:
                    LOG.warning("the registry cannot be read, and will be tried again: %s", error)
                self._down = str(error)
            except Exception:
                if self._down is None:
                    LOG.exception("the registry cannot be read, and will be tried again")
                self._down = "defect"
            self._stopping.wait(_pause(self._settings.interval, time.monotonic() - began))

    def look(self) -> Look:
        """Hand in what is new.

        Raises:
            TrackingError: The store is down or refuses.
            StorageError: The book cannot be written.
        """
        since, looked = self._since(), self._looked()
        began = time.monotonic()
        whole = self._whole_at is None or began - self._whole_at >= _WHOLE_SECONDS
        until = since + 1 if whole else max(since + 1, looked - _MARGIN_MS)
        models: dict[str, Registered] | None = None
        seen = new = left_out = newest = 0
        token: str | None = None
        while not self._stopping.is_set():
            page, token = watch.newest_versions(self._tracking, token)
            seen += len(page)
            newest = max([newest, *(version.created for version in page)])
            fresh = self._unknown([version for version in page if version.created >= until])
            if fresh and models is None:
                models = {model.name: model for model in watch.registered_models(self._tracking)}
            for version in fresh:
                verdict = self._hand_in(version, (models or {}).get(version.name))
                new, left_out = new + (verdict == "new"), left_out + (verdict == "left_out")
            if not token or not page or page[-1].created < until:
                break
        else:
            return Look(seen, new, left_out)
        if self._jobs.filters.needs_aliases:
            new += self._by_aliases()
        if whole:
            self._whole_at = began
        # A registry whose clock was ahead must not hide what is registered once it is right again.
        if (reached := min(newest, _now_ms())) > looked:
            self._jobs.ledger.set_mark(self._mark("looked"), str(reached))
        return Look(seen, new, left_out)

    def _unknown(self, versions: list[Version]) -> list[Version]:
        """Those of the wanted names that nobody handed in, oldest first."""
        wanted = [version for version in versions if self._jobs.filters.by_name(version.name) is None]
        known = self._jobs.ledger.known(self._jobs.store, [(one.name, one.number) for one in wanted])
        return [version for version in reversed(wanted) if (version.name, version.number) not in known]

    def _hand_in(self, version: Version, model: Registered | None) -> str:
        filters = self._jobs.filters
        if filters.needs_aliases:
            return "later"
        reason = filters.by_tags(version.tags, model.tags if model else {})
        if reason is not None:
            return "left_out" if self._jobs.leave_out(version.name, version.number, reason).new else "known"
        return "new" if self._jobs.submit(version.name, version.number, via="reconcile").new else "known"

    def _by_aliases(self) -> int:
        """Hand in what a wanted alias points at, also where it was left out before it had the alias."""
        filters, jobs, new = self._jobs.filters, self._jobs, 0
        wanted = set(self._settings.aliases)
        for model in watch.registered_models(self._tracking):
            numbers = sorted({number for alias, number in model.aliases.items() if alias in wanted})
            if not numbers or filters.by_name(model.name) is not None:
                continue
            known = jobs.ledger.known(jobs.store, [(model.name, number) for number in numbers])
            for number in numbers:
                status, job_id = known.get((model.name, number), ("", ""))
                if not status:
                    version = watch.look_up(self._tracking, model.name, number)
                    if filters.by_tags(version.tags, version.model_tags) is None:
                        new += jobs.submit(model.name, number, via="reconcile").new
                elif status == "skipped":
                    version = watch.look_up(self._tracking, model.name, number)
                    if filters.reason(model.name, version.tags, version.model_tags, version.aliases) is None:
                        jobs.retry(job_id)
                        new += 1
        return new

    def _since(self) -> int:
        """Creation time up to which versions count as older than the service, by the registry's clock, ms."""
        if self._settings.backfill:
            return -1
        name = self._mark("since")
        known = self._jobs.ledger.get_mark(name)
        if known is None:
            page, _ = watch.newest_versions(self._tracking)
            newest = max((version.created for version in page), default=0)
            # What was registered while the service was starting is new, even by a clock that is a little slow.
            known = self._jobs.ledger.mark(name, str(min(newest, self._began_ms - _SKEW_MS)))
        return int(known)

    def _looked(self) -> int:
        return min(int(self._jobs.ledger.get_mark(self._mark("looked")) or 0), _now_ms())

    def _mark(self, what: str) -> str:
        import hashlib

        mode = "all" if self._settings.backfill else "new"
        return f"{what}:{mode}:{hashlib.sha256(self._jobs.store.encode()).hexdigest()[:24]}"


def _now_ms() -> int:
    return int(time.time() * 1000)


def _pause(interval: float, took: float) -> float:
    """Seconds until the next look, so that this one's latecomers are handed in an interval after its begin.

    What is registered as a look begins waits for all of that look, the pause, and all of the next one, which may take
    longer. However slow the registry is, it has half an interval of rest.
    """
    return max(interval / 2, interval - 3 * took)
