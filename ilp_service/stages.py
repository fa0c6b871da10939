"""Folders that are filled whole or not at all, and only again when what went into them changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ilp_service.tables import storage_errors


def digest_of(*parts: object) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@contextmanager
def stage(folder: Path, digest: str) -> Iterator[Path | None]:
    """A folder to fill, put in its place when it is full; ``None`` where it was filled before from the same."""
    mark = folder / "digest"
    if mark.is_file() and mark.read_text() == digest:
        yield None
        return
    partial = folder.with_name(f".{folder.name}.part")
    with storage_errors(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        (partial / "digest").write_text(digest)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
