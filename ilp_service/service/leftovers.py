"""What jobs leave on disk below the working folder, and when it goes."""

from __future__ import annotations

from pathlib import Path

from ilp_service.tracking.registry import download_folders


def drop_copies(work_dir: Path, model_uri: str) -> None:
    """Delete the downloaded copies of a model, ``models:/name/version``, but for one that a job reads right now.

    A job may read the copy of another one, as the base of its own; only its subprocess knows, and holds a lock on it.
    """
    from ilp_service.tracking.downloads import drop_download

    for folder in download_folders(work_dir / "downloads", model_uri):
        drop_download(folder)
