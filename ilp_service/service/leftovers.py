"""What jobs leave on disk below the working folder, and when it goes."""

from __future__ import annotations

import shutil
from pathlib import Path

from ilp_service.service.desk import UNFINISHED, UnknownJobError
from ilp_service.service.ledger import Ledger
from ilp_service.service.ledger_tables import now
from ilp_service.tracking.downloads import drop_download, tidy_downloads
from ilp_service.tracking.registry import download_folders


def drop_copies(work_dir: Path, model_uri: str) -> None:
    """Delete the downloaded copies of a model, ``models:/name/version``, but for one that a job reads right now.

    A job may read the copy of another one, as the base of its own; only its subprocess knows, and holds a lock on it.
    """
    for folder in download_folders(work_dir / "downloads", model_uri):
        drop_download(folder)


def tidy(work_dir: Path, ledger: Ledger, seconds: float) -> None:
    """Delete downloads that nobody has used for so long, and folders of jobs that ended so long ago."""
    tidy_downloads(work_dir, seconds)
    jobs = work_dir / "jobs"
    for folder in list(jobs.iterdir()) if jobs.is_dir() else ():
        try:
            row = ledger.row(folder.name)
        except UnknownJobError:
            # Of another database, whose service may use this folder too.
            continue
        if row["status"] not in UNFINISHED and (row["ended_at"] or 0) < now() - int(seconds * 1e6):
            shutil.rmtree(folder, ignore_errors=True)
