"""Files to rows: JSON lines, JSON and parquet, one bad row never taking its neighbours with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.errors import DataFormatError, DataNotFoundError

RAW_CHARACTERS = 200
_RAW_BYTES = 4 * RAW_CHARACTERS
_MAX_JSON_BYTES = 1 << 30
_LINES = frozenset({".jsonl", ".ndjson"})
_PARQUET = frozenset({".parquet", ".pq"})
_LIST_KEYS = ("data", "train", "rows", "samples", "examples", "instances")
_MAGIC = (
    (b"\x1f\x8b", "gzip-compressed", "unpack it"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "unpack it"),
    (b"BZh", "bzip2-compressed", "unpack it"),
    (b"\xfd7zXZ", "xz-compressed", "unpack it"),
    (b"\xff\xfe", "in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "in UTF-16", "save it as UTF-8"),
    (b"PAR1", "a parquet file", "give it the ending .parquet"),
    (b"ARROW1", "an Arrow file", "save it as parquet"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One readable row: its number from 1, its columns, and the start of its text."""

    line: int
    columns: dict[str, object]
    raw: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row that cannot be read, with the reason in one sentence."""

    line: int
    reason: str
    raw: bytes


def shown(raw: bytes) -> str:
    """The start of a row as valid text of at most ``RAW_CHARACTERS`` characters."""
    return raw[:_RAW_BYTES].decode("utf-8", "replace")[:RAW_CHARACTERS]


def iter_rows(path: Path, max_row_bytes: int) -> Iterator[Row | Refusal]:
    """Every row of a file in file order; blank lines are no rows.

    JSON lines and parquet are streamed; a JSON document is read whole.

    Raises:
        DataNotFoundError: No such file.
        DataFormatError: A folder, an unknown ending, a compressed or binary file, broken parquet or JSON.
    """
    if path.is_dir():
        raise DataFormatError(f"{path} is a folder, expected one .jsonl, .json or .parquet file; name the file in it.")
    if not path.is_file():
        raise DataNotFoundError(f"There is no data file {path}; check the path given with --data.")
    ending = path.suffix.lower()
    if ending in _PARQUET:
        return _parquet_rows(path, max_row_bytes)
    if ending not in _LINES and ending != ".json":
        raise DataFormatError(
            f"{path} ends in {ending or 'nothing'!r}, expected .jsonl, .json or .parquet; convert or rename it."
        )
    starts_with = _sniff(path)
    if ending == ".json" or starts_with == b"[":
        return _json_rows(path, max_row_bytes)
    return _line_rows(path, max_row_bytes)


def _sniff(path: Path) -> bytes:
    """The first byte that is not white space, once the file is known to be text."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise DataNotFoundError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
    for magic, what, remedy in _MAGIC:
        if start.startswith(magic):
            raise DataFormatError(f"{path} is {what}, expected JSON text in UTF-8; {remedy} first.")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"\0" in start and text[:1] not in (b"{", b"["):
        raise DataFormatError(f"{path} is a binary file, expected JSON text in UTF-8; check that it is the data file.")
    return text[:1]


def parse_json(text: str) -> object:
    """A JSON value; NaN and Infinity, which are no JSON, read as null.

    Raises:
        ValueError: Not JSON, nested too deeply to be read, or a number of thousands of digits.
    """
    try:
        return json.loads(text, parse_constant=lambda _constant: None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _line_rows(path: Path, max_row_bytes: int) -> Iterator[Row | Refusal]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(max_row_bytes + 3):
            number += 1
            size, ended = len(line), line.endswith(b"\n")
            if not ended and size == max_row_bytes + 3:
                size += _skip_line(file)
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            body = line.strip()
            if size > max_row_bytes and len(body) > max_row_bytes:
                yield _too_large(number, size, max_row_bytes, body)
            elif body:
                yield _parse_line(number, body)


def _skip_line(file: BinaryIO) -> int:
    """Read to the end of an overlong line in bounded pieces; the bytes skipped."""
    skipped = 0
    while piece := file.readline(1 << 20):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


def _parse_line(number: int, body: bytes) -> Row | Refusal:
    raw = body[:_RAW_BYTES]
    try:
        value = parse_json(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Refusal(number, f"The line is not valid UTF-8 (byte {error.start + 1}).", raw)
    except json.JSONDecodeError as error:
        return Refusal(number, f"The line is not valid JSON: {error.msg} at character {error.pos + 1}.", raw)
    except ValueError as error:
        return Refusal(number, f"The line cannot be read as JSON: {error}.", raw)
    return _as_row(number, value, raw)


def _as_row(number: int, value: object, raw: bytes) -> Row | Refusal:
    if not isinstance(value, dict):
        return Refusal(number, f"The row is {kind(value)}, expected an object with named columns.", raw)
    return Row(number, value, raw)


def _too_large(number: int, size: int, limit: int, raw: bytes) -> Refusal:
    return Refusal(number, f"The row has {size} bytes, more than data.max_row_bytes = {limit}.", raw[:_RAW_BYTES])


def _json_rows(path: Path, max_row_bytes: int) -> Iterator[Row | Refusal]:
    size = path.stat().st_size
    if size > _MAX_JSON_BYTES:
        raise DataFormatError(
            f"{path} has {size} bytes, more than the {_MAX_JSON_BYTES} that are read as one JSON document; "
            "convert it to JSON lines."
        )
    # A byte that is not UTF-8 becomes a lone surrogate, so that only the row that holds it is refused.
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    if not text.strip():
        return
    try:
        document = parse_json(text)
    except ValueError as error:
        if _has_object_line(text):
            yield from _line_rows(path, max_row_bytes)
            return
        raise DataFormatError(f"{path} is not valid JSON: {error}; check that it was written to its end.") from error
    for number, value in enumerate(rows_of(path, document), start=1):
        yield _measured(number, value, max_row_bytes)


def _has_object_line(text: str) -> bool:
    """Whether a file that is no JSON document is JSON lines under the wrong name."""
    for line in text.split("\n", 20)[:20]:
        try:
            if isinstance(parse_json(line), dict):
                return True
        except ValueError:
            continue
    return False


def rows_of(path: Path, document: object) -> list[object]:
    """The rows of a JSON document: itself, a list that it holds, or the one row that it is.

    Raises:
        DataFormatError: It has no one list of rows.
    """
    if isinstance(document, list):
        return document
    if isinstance(document, dict):
        lists = {name: value for name, value in document.items() if isinstance(value, list)}
        for name in _LIST_KEYS:
            if name in lists:
                return lists[name]
        if "messages" in lists or "conversations" in lists or not lists:
            return [document]
        of_objects = [value for value in lists.values() if all(isinstance(item, dict) for item in value)]
        if len(of_objects) == 1:
            return of_objects[0]
        if "choices" in lists:
            return [document]
    raise DataFormatError(
        f"{path} holds {kind(document)} without one list of rows; expected an array of objects, "
        f"or an object with such a list under one of {', '.join(_LIST_KEYS)}."
    )


def _measured(number: int, value: object, max_row_bytes: int) -> Row | Refusal:
    try:
        raw = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")
    except (RecursionError, ValueError):
        return Refusal(number, "The row is nested too deeply.", b"")
    if len(raw) > max_row_bytes:
        return _too_large(number, len(raw), max_row_bytes, raw)
    return _as_row(number, value, raw[:_RAW_BYTES])


def _parquet_rows(path: Path, max_row_bytes: int) -> Iterator[Row | Refusal]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for value in _batch_values(batch):
                    number += 1
                    if isinstance(value, str):
                        yield Refusal(number, value, b"")
                    else:
                        yield _measured(number, value, max_row_bytes)
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataFormatError(
            f"{path} cannot be read as parquet ({first.rstrip('.')}); check that it was copied to its end."
        ) from error


def _batch_values(batch: pa.RecordBatch) -> Iterator[dict[str, object] | str]:
    """Rows of a batch; a reason in place of a row whose text is not UTF-8."""
    try:
        yield from batch.to_pylist()
    except (UnicodeDecodeError, ValueError, OverflowError):
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "A text of the row is not valid UTF-8."
            except (ValueError, OverflowError) as error:
                yield f"A value of the row cannot be read: {error}."


def kind(value: object) -> str:
    """What a value is, in words for a sentence."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for types, name in (
        ((int, float), "a number"),
        ((str,), "text"),
        ((list, tuple), "a list"),
        ((dict,), "an object"),
        ((bytes,), "binary"),
    ):
        if isinstance(value, types):
            return name
    return f"a {type(value).__name__}"
