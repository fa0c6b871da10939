"""What a checkpoint is made of, as one SHA-256: the key under which its results are kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ilp_service.checkpoints import files

_BLOCK = 8 * 1024 * 1024


class Digests:
    """SHA-256 of files, each read once: remembered by path, size and time of change.

    The memory is ``digests.json`` in the working folder. Losing it costs time, nothing else.
    """

    def __init__(self, work_dir: Path) -> None:
        self._path = work_dir / "digests.json"
        self._known: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self._path.read_text(encoding="utf-8"))
            if isinstance(known, dict):
                self._known = {str(key): str(value) for key, value in known.items()}

    def of(self, named: Iterable[tuple[str, Path]]) -> str:
        """Digest of several files under their names; the order does not matter.

        Raises:
            OSError: A file cannot be read.
        """
        whole = hashlib.sha256()
        before = len(self._known)
        for name, path in sorted(named):
            whole.update(f"{name}\0{self._file(path)}\n".encode())
        if len(self._known) != before:
            self._save()
        return whole.hexdigest()

    def _file(self, path: Path) -> str:
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        if key not in self._known:
            digest = hashlib.sha256()
            with path.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
            self._known[key] = digest.hexdigest()
        return self._known[key]

    def _save(self) -> None:
        # A memory that cannot be written must not stop a diagnosis.
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".digests-")
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(self._known, stream)
            Path(name).replace(self._path)


def weight_files(model_dir: Path, *, adapter: bool) -> list[tuple[str, Path]]:
    """Names and paths of the files with weights.

    Raises:
        UnsafeWeightsError: Weights that are not safetensors.
        SourceUnreadableError: Weights that are missing or damaged.
    """
    weights = [files.adapter_file(model_dir)] if adapter else files.weight_files(model_dir)
    return [(path.name, path) for path in weights]


def other_files(model_dir: Path, tokenizer_dir: Path | None, *, adapter: bool) -> list[tuple[str, Path]]:
    """Names and paths of the config and of the tokenizer's files."""
    config = files.ADAPTER_CONFIG if adapter else files.CONFIG
    named = [(config, files.inside(model_dir / config, model_dir))]
    if tokenizer_dir is not None:
        named += [
            (f"tokenizer/{name}", files.bounded(files.inside(tokenizer_dir / name, tokenizer_dir)))
            for name in files.TOKENIZER_FILES
            if (tokenizer_dir / name).is_file()
        ]
    return named
