"""What a failed diagnosis leaves on the run and on the model version."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from ilp_service.errors import IlpError, TrackingError
from ilp_service.tracking.connection import is_down
from ilp_service.tracking.registry import is_tracked
from ilp_service.tracking.run import Run
from ilp_service.tracking.store import Tracking

REASON = "ilp.reason"
"""Tag that says in a sentence why the last diagnosis failed."""

_RESULTS = ("ilp.unlearned_rate", "ilp.top_cause")
_LIMIT = 300


@contextlib.contextmanager
def told_to_the_registry(model_uri: str, tracking: Tracking, run: Run) -> Iterator[None]:
    """Mark run and model version as failed when the block raises, so that no earlier ``done`` is left standing.

    The figures of an earlier diagnosis go from the version with it; they stay on the run that found them. An interrupt
    is no failure: the same command goes on.
    """
    try:
        yield
    except Exception as error:
        # A store that is known to be down is not asked again, which would take its time-out once more.
        if not (isinstance(error, TrackingError) and is_down(error)):
            # What went wrong first is what the user must see, whatever goes wrong in telling it.
            with contextlib.suppress(Exception):
                _tell(model_uri, tracking, run, sentence(error))
        raise


def _tell(model_uri: str, tracking: Tracking, run: Run, reason: str) -> None:
    tags = {"ilp.status": "failed", REASON: reason}
    run.set_tags(tags)
    source = tracking.find(model_uri) if is_tracked(model_uri) else None
    if source is not None and source.name and source.version:
        tracking.tag_version(source.name, source.version, {**tags, "ilp.run_id": run.run_id})
        tracking.untag_version(source.name, source.version, _RESULTS)


def sentence(error: Exception) -> str:
    """The first sentence of an error, at most so long that a registry shows it whole."""
    # Names of files may hold halves of characters, which no database takes.
    text = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
    if not isinstance(error, IlpError):
        text = f"{type(error).__name__}: {text}"
    first = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
    return first if len(first) <= _LIMIT else f"{first[: _LIMIT - 1]}…"
