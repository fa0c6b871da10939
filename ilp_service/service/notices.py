"""Tells MLflow what the book says: every status as tags of the version, and the end of runs that could not end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ilp_service.errors import IlpError, ModelNotFoundError, TrackingError
from ilp_service.service.ledger import Ledger, Notice
from ilp_service.service.ledger_tables import now
from ilp_service.tracking import watch
from ilp_service.tracking.connection import is_down
from ilp_service.tracking.store import Tracking

LOG = logging.getLogger("ilp.service")
_BATCH = 50
_IDLE_SECONDS = 10.0
_LATER_SECONDS = 60.0
_DOWN_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)


class Notices:
    """A thread that tells MLflow, and keeps what could not be told for later."""

    def __init__(self, ledger: Ledger, tracking: Tracking, stopping: threading.Event, woken: threading.Event) -> None:
        self._ledger, self._tracking = ledger, tracking
        self._stopping, self.woken = stopping, woken
        self._down = 0
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name="notices", daemon=True)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Tell what is due, if MLflow can be told within some time, and end."""
        self.woken.set()
        self._thread.join(seconds)
        deadline = time.monotonic() + seconds
        try:
            self.tell(lambda: time.monotonic() > deadline)
        except Exception as error:  # noqa: BLE001 - the rest of an orderly stop must not depend on it
            LOG.warning("notices wait for the next start: %s", error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.woken.clear()
                told_all = self.tell(self._stopping.is_set)
            except Exception as error:  # noqa: BLE001 - what cannot be told now is told later
                LOG.warning("notices wait: %s", error)
                told_all = False
            if told_all:
                self.woken.wait(_IDLE_SECONDS)
            else:
                self._stopping.wait(_DOWN_SECONDS[min(self._down, len(_DOWN_SECONDS)) - 1] if self._down else 1.0)

    def tell(self, enough: Callable[[], bool]) -> bool:
        """Tell what is due; ``False`` when MLflow does not answer, or when it was enough."""
        while not enough():
            due = self._ledger.due_notices(_BATCH)
            if not due:
                return True
            for one in due:
                if enough():
                    return False
                notice = self._ledger.take_notice(one)
                if notice is not None and not self._tell(notice):
                    return False
        return False

    def _tell(self, notice: Notice) -> bool:
        try:
            try:
                watch.retag_version(self._tracking, notice.model, notice.version, notice.tags)
            finally:
                if notice.run_id and notice.run_status:
                    # A run that was finished in order has its tags.
                    own = {} if notice.run_status == "FINISHED" else notice.tags
                    tags = {key: value for key, value in own.items() if value is not None}
                    watch.end_run(self._tracking, notice.run_id, notice.run_status, tags)
        except ModelNotFoundError:
            # Version or run were deleted: there is nobody left to tell.
            self._ledger.notice_told(notice)
            return True
        except TrackingError as error:
            if is_down(error) and " refuses (" not in str(error):
                self._down += 1
                if self._down == 1:
                    LOG.warning("MLflow cannot be told of jobs for now: %s", error)
                self._ledger.notice_later(notice, 0)
                return False
            self._complain(error)
            self._ledger.notice_later(notice, now() + int(_LATER_SECONDS * 1e6))
            return True
        except IlpError as error:
            self._complain(error)
            self._ledger.notice_later(notice, now() + int(_LATER_SECONDS * 1e6))
            return True
        if self._down:
            LOG.warning("MLflow answers again")
        self._down, self._complaint = 0, ""
        self._ledger.notice_told(notice)
        return True

    def _complain(self, error: IlpError) -> None:
        """Say a complaint once."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            LOG.warning("a version could not be tagged: %s", error)
