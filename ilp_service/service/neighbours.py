"""Other workers at the same database: which of them are lost, so that what they had in hand is taken up."""

from __future__ import annotations

import time
from collections.abc import Callable

from ilp_service.service.ledger import Ledger

LOST_SECONDS = 90.0
_GAP_SECONDS = 45.0


class Neighbours:
    """Says that this worker lives, and looks for those that no longer do; used by one thread."""

    def __init__(self, ledger: Ledger, worker: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger, self._worker, self._clock = ledger, worker, clock
        self._beaten: float | None = None
        self._seen = 0
        self._judging_from = 0.0

    def beat(self) -> list[str]:
        """Say that this worker lives; returns those that are lost.

        All times are the database's, since the hosts' clocks may differ. A worker that could not say so itself for a
        while, because the database was away or its clock was set, gives the others as long again to say so: they may
        have been kept from it as well. One that left in order is lost at once.

        Raises:
            IlpError: The book cannot be read or written.
        """
        seen, at = self._ledger.alive(self._worker), self._clock()
        gap = max(at - self._beaten, (seen - self._seen) / 1e6) if self._beaten is not None else float("inf")
        if gap > _GAP_SECONDS:
            self._judging_from = at + LOST_SECONDS
        self._beaten, self._seen = at, seen
        judging = at >= self._judging_from
        return self._ledger.lost_workers(self._worker, seen - int(LOST_SECONDS * 1e6) if judging else 1)
