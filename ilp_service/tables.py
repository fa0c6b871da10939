"""The public tables: their columns, and writing them so that nothing half-written is taken for whole."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.errors import StorageError

TRAJECTORY = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False, metadata={"meaning": "optimizer step of the measurement"}),
        pa.field("epoch", pa.float64(), metadata={"meaning": "passes over the data so far"}),
        pa.field("subset", pa.string()),
        pa.field("position", pa.int64()),
        pa.field("loss", pa.float64(), metadata={"unit": "nats per response token"}),
        pa.field("p_correct", pa.float64(), metadata={"unit": "0-1", "meaning": "expected pass rate, if measured"}),
        pa.field("exposures", pa.int64(), metadata={"meaning": "times the sample was in a batch so far"}),
        pa.field(
            "trained_tokens",
            pa.int64(),
            metadata={"meaning": "response tokens of the sample that entered the loss so far, if known"},
        ),
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("raw", pa.string(), metadata={"meaning": "start of the refused row"}),
    ]
)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a failed write into a :class:`StorageError` that says what to do.

    Raises:
        StorageError: The disk is full, a quota is used up, or the folder may not be written or cannot be made.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"The disk that holds {path} is full; free some space and start the same command again, "
                "it goes on where it stopped."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(f"{path} may not be written ({error.strerror}); choose a folder you own.") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise StorageError(
                f"{path} cannot be written ({error.strerror}: {error.filename}); name a folder, not a file."
            ) from error
        # A folder that cannot be made, as below /proc, is said to be missing.
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP):
            raise StorageError(
                f"{path} cannot be written ({error.strerror}: {error.filename}); name a folder that can be made."
            ) from error
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, moved to ``path`` only after the block has ended well.

    Raises:
        StorageError: The file could not be written; ``path`` is then as it was.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_table(table: pa.Table, path: Path) -> None:
    """Write one parquet file whole or not at all.

    Raises:
        StorageError: The file could not be written.
    """
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
