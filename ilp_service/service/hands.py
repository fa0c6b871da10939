"""Which rounds of jobs a worker has in hand, and when another may begin."""

from __future__ import annotations

import threading

Round = tuple[str, int]
"""A job's id, and how often it had been started again."""


class Hands:
    """What this worker has in hand; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[Round] = set()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, one: Round) -> bool:
        return one in self._held

    def take(self, one: Round) -> bool:
        """Take a round in hand; ``False`` when it is in hand already."""
        with self._lock:
            if one in self._held:
                return False
            self._held.add(one)
            return True

    def may_begin(self, one: Round) -> bool:
        """Whether a round that was taken may begin.

        A job that was cancelled and started again at once has a subprocess that is still ending; the two would share
        a folder and a run.
        """
        with self._lock:
            return not any(job_id == one[0] and turn < one[1] for job_id, turn in self._held)

    def leave(self, one: Round) -> None:
        """Nothing of a round goes on any more."""
        with self._lock:
            self._held.discard(one)
