"""The folder of downloads: copies appear whole or not at all, and go when nobody has used them for some time.

Whoever uses a copy holds a shared lock on it until its process ends, and sets its time of change. Where the file
system knows no locks, the time alone protects it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_PART = ".part-"
_HELD: dict[Path, int] = {}
_GUARD = threading.Lock()


@contextlib.contextmanager
def part(folder: Path) -> Iterator[Path]:
    """A new folder for a download in work; what is still there at the end is deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=_PART, dir=folder))
    handle = _lock(path, fcntl.LOCK_SH)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def settle(got: Path, whole: Path) -> Path:
    """Put a finished download in its place, unless another process was quicker, whose copy is as good.

    Raises:
        OSError: It cannot be put there.
    """
    while True:
        try:
            got.rename(whole)
        except OSError:
            if not whole.is_dir():
                raise
        # Tidying may have been quicker, where an old copy was in place.
        if hold(whole):
            return whole


def hold(whole: Path) -> bool:
    """Keep a copy from being tidied away until this process ends; ``False`` where there is none."""
    with _GUARD:
        for path in [path for path, handle in _HELD.items() if not _is(handle, path)]:
            os.close(_HELD.pop(path))
        if whole not in _HELD:
            handle = _lock(whole, fcntl.LOCK_SH)
            if handle is None and not whole.is_dir():
                return False
            # It may have gone between the look and the lock.
            if handle is not None and not _is(handle, whole):
                os.close(handle)
                return False
            if handle is not None:
                _HELD[whole] = handle
    with contextlib.suppress(OSError):
        os.utime(whole)
    return True


def drop_download(whole: Path) -> bool:
    """Delete a copy, unless a process uses it.

    Returns:
        Whether it is gone.
    """
    return _drop(whole, None)


def tidy_downloads(work_dir: Path, older_than_seconds: float) -> int:
    """Delete downloads below a working folder that were cut short, or that nobody has used for so long.

    Never one that is in use. Any process may call it at any time.

    Args:
        work_dir: Whose ``downloads/`` is looked through.
        older_than_seconds: Since the last use; of those cut short, since they began.

    Returns:
        How many were deleted.
    """
    limit = time.time() - older_than_seconds
    folder = work_dir / "downloads"
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return 0
    return sum(_drop(path, limit) for path in sorted(found))


def _drop(path: Path, limit: float | None) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return limit is None
    except OSError:
        return False
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            # No locks on this file system.
            pass
        if not _is(handle, path) or (limit is not None and os.fstat(handle).st_mtime > limit):
            return False
        # At once for everybody who looks: half a copy must not be taken for a whole one.
        gone = path
        if not path.name.startswith(_PART):
            gone = Path(tempfile.mkdtemp(prefix=_PART, dir=path.parent))
            path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(handle)
    return not gone.exists()


def _lock(path: Path, kind: int) -> int | None:
    """A handle with a lock; ``None`` where there is no such folder, or no locks."""
    handle = None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(handle, kind)
    except OSError:
        if handle is not None:
            os.close(handle)
        return None
    return handle


def _is(handle: int, path: Path) -> bool:
    """Whether a handle's folder still is the one at a path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
