"""Single artifact files by URI."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ilp_service.errors import SourceUnreadableError, StorageError, TrackingError
from ilp_service.tracking import connection
from ilp_service.tracking.downloads import hold, part, settle
from ilp_service.tracking.registry import local_folder, place_of

if TYPE_CHECKING:
    from ilp_service.tracking.store import Tracking

_PINNED = re.compile(r"#as-of=\d+$")


def pinned(uri: str) -> str:
    """An artifact's URI with the present time: who asks for it again by this text gets the same bytes again.

    Without it, what is there is asked for every time.
    """
    return f"{plain(uri)}#as-of={time.time_ns()}"


def plain(uri: str) -> str:
    """A URI without what ``pinned`` put there."""
    return _PINNED.sub("", uri)


def local_file(tracking: Tracking, uri: str, folder: Path) -> Path:
    """A file on this machine for a path or an artifact URI (``runs:/…``, ``mlflow-artifacts:/…``, ``s3://…``).

    A file of this machine is used where it lies; another is downloaded into ``folder``, where every content has
    a place of its own, so that what somebody reads never changes under him. A download that was cut short is never
    taken for whole.

    Raises:
        SourceUnreadableError: The artifact cannot be downloaded, or not from there.
        TrackingError: The store is down or refuses.
    """
    local = local_folder(uri)
    if local is not None:
        return local
    key = hashlib.sha256(f"{tracking.uri}\n{uri}".encode()).hexdigest()[:16]
    once = folder / f"{key}-pinned"
    if _PINNED.search(uri) and hold(once):
        return _only_file(once)
    import mlflow

    client = tracking.client()
    try:
        with connection.translated(tracking.uri), part(folder) as begun:
            place = place_of(client, tracking.uri, plain(uri))
            arriving, whole = begun / "arriving", begun / "whole"
            whole.mkdir()
            got = Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=place, dst_path=str(arriving), tracking_uri=tracking.uri
                )
            )
            if not got.is_file():
                raise SourceUnreadableError(f"{connection.shown(plain(uri))} is no file; name a file in it.")
            got.rename(whole / got.name)
            end = once if _PINNED.search(uri) else folder / f"{key}-{_digest(whole / got.name)}"
            return _only_file(settle(whole, end))
    except (SourceUnreadableError, StorageError, TrackingError):
        raise
    except Exception as error:  # each cloud's client raises errors of its own
        reason = " ".join(str(error).split())[:300]
        raise SourceUnreadableError(
            f"The file {connection.shown(plain(uri))} cannot be downloaded: {reason}"
        ) from error


def _only_file(folder: Path) -> Path:
    return next(folder.iterdir())


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
