"""Results in chunks on disk, so that a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ilp_service.tables import write_table

Compute = Callable[[Sequence[str]], pa.Table]
_KEY = b"ilp.chunk"


def digest_of(parts: Mapping[str, object]) -> str:
    """Short digest of everything that a result depends on: digests of inputs, settings, the seed.

    Args:
        parts: Values that JSON can write; the order of names does not matter.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class ChunkStore:
    """Tables that are computed a chunk at a time, each chunk written whole or not at all.

    A chunk is taken from disk when it was made for the same keys in the same order; one that is missing, truncated,
    damaged or made for other keys is computed. The folder has to be named after what else the result depends on, see
    :meth:`for_content`.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        """Use a folder, which need not exist.

        Args:
            folder: Where the chunks lie.
            schema: Columns of every chunk.
        """
        self._folder = folder
        self._schema = schema

    @classmethod
    def for_content(cls, root: Path, parts: Mapping[str, object], schema: pa.Schema) -> ChunkStore:
        """A store in the sub-folder of ``root`` that is named after the digest of ``parts`` and the columns."""
        columns = [f"{field.name}:{field.type}" for field in schema]
        return cls(root / digest_of({"parts": dict(parts), "columns": columns}), schema)

    def run(
        self, name: str, keys: Sequence[str], compute: Compute, chunk_size: int, progress: bool = True
    ) -> Iterator[pa.Table]:
        """Tables of all chunks in the order of the keys, computed where they are not on disk.

        One chunk is in memory at a time. Progress is shown on stderr.

        Args:
            name: Of the step; names the chunks' folder, and with its last part the progress bar.
            keys: What to compute, such as sample ids; unique names of content.
            compute: Gives the table for some of the keys, with the store's columns and any number of rows.
            chunk_size: Keys between two safe points.
            progress: Whether to show progress.

        Yields:
            One table a chunk.

        Raises:
            StorageError: A chunk could not be written; those before it are safe.
            ValueError: ``compute`` gave other columns than the store's.
        """
        with tqdm(total=len(keys), desc=Path(name).name, unit="", disable=not progress, leave=False) as bar:
            for number, begin in enumerate(range(0, len(keys), chunk_size)):
                some = keys[begin : begin + chunk_size]
                path = self._folder / name / f"{number:06d}.parquet"
                table = self._read(path, some)
                if table is None:
                    table = self._write(path, some, compute(some))
                bar.update(len(some))
                yield table

    def collect(
        self, name: str, keys: Sequence[str], compute: Compute, chunk_size: int, progress: bool = True
    ) -> pa.Table:
        """The chunks of :meth:`run` as one table."""
        tables = list(self.run(name, keys, compute, chunk_size, progress))
        return pa.concat_tables(tables) if tables else self._schema.empty_table()

    def _read(self, path: Path, keys: Sequence[str]) -> pa.Table | None:
        """A chunk from disk; None if it is missing, damaged or of other keys."""
        try:
            table = pq.read_table(path, page_checksum_verification=True, partitioning=None)
        except (OSError, pa.ArrowException):
            return None
        if (table.schema.metadata or {}).get(_KEY) != _digest_of_keys(keys):
            return None
        table = table.replace_schema_metadata(self._schema.metadata)
        return table if table.schema.equals(self._schema, check_metadata=False) else None

    def _write(self, path: Path, keys: Sequence[str], table: pa.Table) -> pa.Table:
        if not table.schema.equals(self._schema, check_metadata=False):
            raise ValueError(f"{path.parent.name}: computed the columns {table.schema}, expected {self._schema}")
        table = table.cast(self._schema)
        metadata = {**(self._schema.metadata or {}), _KEY: _digest_of_keys(keys)}
        write_table(table.replace_schema_metadata(metadata), path)
        return table


def _digest_of_keys(keys: Sequence[str]) -> bytes:
    return hashlib.sha256(json.dumps(list(keys)).encode()).hexdigest().encode()
