"""The folder in which a diagnosis keeps its finished slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ilp_service.diagnosis.watching import Watcher
from ilp_service.errors import StorageError
from ilp_service.scoring.chunks import ChunkStore


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """Slices of every step, one sub-folder a step.

    Attributes:
        folder: Named after everything that can change a number.
        size: Samples between two safe points.
        progress: Show bars on stderr.
        watcher: Is told of every slice.
    """

    folder: Path
    size: int
    progress: bool = True
    watcher: Watcher = field(default_factory=Watcher)

    def run(
        self, name: str, keys: Sequence[str], schema: pa.Schema, compute: Callable[[Sequence[str]], pa.Table]
    ) -> Iterator[pa.Table]:
        """Tables of all slices in the order of the keys; what is on disk is not computed again.

        Raises:
            StorageError: A slice could not be written; those before it are safe.
        """
        tables = ChunkStore(self.folder, schema).run(name, keys, compute, self.size, self.progress)
        for number, table in enumerate(tables, 1):
            self.watcher.advanced(name, min(number * self.size, len(keys)), len(keys))
            yield table

    def read(self, name: str, keys: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
        """The same of a step that is done, without progress."""

        def lost(some: Sequence[str]) -> pa.Table:
            raise StorageError(
                f"The slice of {name} with sample {some[0]} vanished from {self.folder}; start the command again."
            )

        return ChunkStore(self.folder, schema).run(name, keys, lost, self.size, progress=False)
