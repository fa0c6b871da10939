"""Reports of finished jobs, whatever store they are in."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Protocol

from ilp_service.errors import SourceUnreadableError
from ilp_service.tracking.artifacts import local_file
from ilp_service.tracking.store import Tracking

MOST_BYTES = 8_000_000
"""A report has at most five million; more is no report of ours."""


class Reports(Protocol):
    """Gives a report by its artifact URI."""

    def read(self, uri: str) -> bytes:
        """The HTML.

        Raises:
            SourceUnreadableError: It is gone, or is no report.
            TrackingError: The store is down or refuses.
        """


class StoredReports:
    """Reports of a tracking store; nothing stays on disk."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    def read(self, uri: str) -> bytes:
        """See ``Reports.read``."""
        if not uri.endswith(".html"):
            raise SourceUnreadableError("The job's report is no HTML file.")
        with tempfile.TemporaryDirectory(prefix="ilp-report-") as folder:
            path = local_file(self._tracking, uri, Path(folder))
            try:
                with path.open("rb") as file:
                    found = file.read(MOST_BYTES + 1)
            except OSError as error:
                raise SourceUnreadableError(f"The report cannot be read: {error.strerror}.") from error
        if len(found) > MOST_BYTES:
            raise SourceUnreadableError(f"The report is larger than {MOST_BYTES} bytes.")
        return found
