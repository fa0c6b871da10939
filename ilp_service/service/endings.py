"""What an error means for a job: whether trying again may help, and which status it ends with if not."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from ilp_service.diagnosis.failure import sentence
from ilp_service.errors import (
    DataNotFoundError,
    EndpointError,
    IlpError,
    RemoteCodeError,
    SourceUnreadableError,
    StorageError,
    TrackingError,
    UnsafeWeightsError,
)
from ilp_service.service.desk import Status
from ilp_service.tracking.connection import is_down

_REFUSED = (UnsafeWeightsError, RemoteCodeError, SourceUnreadableError)
_NETWORK = ("connection", "timed out", "timeout", "temporarily", "unreachable", "reset by peer", "too many requests")
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended.

    Attributes:
        status: Of the job, when it is not tried again.
        reason: One sentence.
        again: Whether another attempt may end otherwise.
        down: Whether the tracking store did not answer, which is nothing that the job did.
        expected: Whether it is an error that a user can mend, as against a defect.
    """

    status: Status
    reason: str
    again: bool = False
    down: bool = False
    expected: bool = True


def ending_of(error: Exception) -> Ending:
    """What an error means for the job that it ended."""
    reason = sentence(error)
    if isinstance(error, TrackingError):
        # One that answers, and lets this user do nothing, will not mend itself by waiting for it.
        return Ending("failed", reason, again=True, down=is_down(error) and " refuses (" not in str(error))
    if isinstance(error, StorageError | EndpointError):
        return Ending("failed", reason, again=True)
    if isinstance(error, DataNotFoundError):
        return Ending("needs_data", reason)
    if isinstance(error, _REFUSED):
        # A source behind a network that fails for a moment is not a bad source.
        return Ending("failed", reason, again=True) if _network(error) else Ending("refused", reason)
    if isinstance(error, IlpError):
        return Ending("failed", reason)
    passing = isinstance(error, ConnectionError | TimeoutError | MemoryError) or (
        isinstance(error, OSError) and error.errno in _PASSING
    )
    return Ending("failed", reason, again=passing, expected=False)


def _network(error: BaseException) -> bool:
    """Whether an error comes from the network, by what it was raised from."""
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, ConnectionError | TimeoutError):
            return True
        text = f"{type(cause).__name__} {cause}".lower()
        if not isinstance(cause, IlpError) and any(mark in text for mark in _NETWORK):
            return True
        cause = cause.__cause__
    return False
