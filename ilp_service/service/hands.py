"""Which rounds of jobs a worker has in hand, when another may begin, and when copies of checkpoints may go."""

from __future__ import annotations

import threading
from collections.abc import Callable

Round = tuple[str, int]
"""A job's id, and how often it had been started again."""

_MOST_SPENT = 10


class Hands:
    """What this worker has in hand; safe to use from any thread.

    A job may read the copy of a checkpoint that another one downloaded, as the base of its own, and only its
    subprocess knows of it. So copies go when no job runs. Where there are always some, the next ones wait for that
    moment once there are ``_MOST_SPENT`` copies, so that a long queue does not fill the disk.
    """

    def __init__(self, discard: Callable[[str], None]) -> None:
        """Nothing is in hand.

        Args:
            discard: Deletes the copies of a model, ``models:/name/version``.
        """
        self._discard = discard
        self._lock = threading.Lock()
        self._held: set[Round] = set()
        self._begun: set[Round] = set()
        self._spent: set[str] = set()

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

    def begin(self, one: Round) -> bool:
        """Begin a round that was taken; ``False`` when it has to wait.

        A job that was cancelled and started again at once has a subprocess that is still ending; the two would share
        a folder and a run.
        """
        with self._lock:
            if any(job_id == one[0] and turn < one[1] for job_id, turn in self._held):
                return False
            if self._begun and len(self._spent) >= _MOST_SPENT:
                return False
            self._begun.add(one)
            return True

    def spent(self, model_uri: str) -> None:
        """A job is over for good, and the copies of its model are not needed for it any more."""
        with self._lock:
            self._spent.add(model_uri)

    def leave(self, one: Round) -> None:
        """Nothing of a round goes on any more."""
        with self._lock:
            self._begun.discard(one)
            try:
                # None can begin meanwhile.
                while self._spent and not self._begun:
                    self._discard(self._spent.pop())
            finally:
                self._held.discard(one)
