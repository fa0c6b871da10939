"""Single artifact files by URI."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ilp_service.errors import SourceUnreadableError, TrackingError
from ilp_service.tracking import connection
from ilp_service.tracking.registry import local_folder

if TYPE_CHECKING:
    from ilp_service.tracking.store import Tracking


def local_file(tracking: Tracking, uri: str, folder: Path) -> Path:
    """A file on this machine for a path or an artifact URI (``runs:/…``, ``mlflow-artifacts:/…``, ``s3://…``).

    A file of this machine is used where it lies; another is downloaded once into ``folder``.

    Raises:
        SourceUnreadableError: The artifact cannot be downloaded.
        TrackingError: The store is down or refuses.
    """
    local = local_folder(uri)
    if local is not None:
        return local
    place = folder / hashlib.sha256(f"{tracking.uri}\n{uri}".encode()).hexdigest()[:16]
    name = uri.rstrip("/").rpartition("/")[2]
    if (place / name).is_file():
        return place / name
    import mlflow

    place.mkdir(parents=True, exist_ok=True)
    tracking.client()
    try:
        with connection.translated(tracking.uri):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(place)))
    except TrackingError:
        raise
    except Exception as error:  # each cloud's client raises errors of its own
        reason = " ".join(str(error).split())[:300]
        raise SourceUnreadableError(f"The file {uri} cannot be downloaded: {reason}") from error
