"""Reading texts from JSONL, parquet, CSV and plain files, a row at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.plugin import KnowledgeSourceError

ROWS = (".jsonl", ".ndjson", ".parquet", ".pq")
PLAIN = (".txt", ".md")
_BATCH_ROWS = 1024
_LONGEST_LINE = 16 << 20


def rows_of(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Every row of a JSONL, CSV or parquet file with its number from 1; of parquet the named columns alone.

    Raises:
        KnowledgeSourceError: The file cannot be read, or lacks a column.
    """
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            yield from _parquet_rows(path, columns)
        elif path.suffix.lower() == ".csv":
            yield from _csv_rows(path, columns)
        else:
            yield from _json_rows(path, columns)
    except (OSError, UnicodeDecodeError, pa.ArrowException, csv.Error) as error:
        first = (str(error).splitlines() or [""])[0][:200].rstrip(".")
        raise KnowledgeSourceError(f"{path} cannot be read ({first}); expected UTF-8 text or parquet.") from error


def paragraphs_of(path: Path, longest: int) -> Iterator[tuple[int, str]]:
    """Paragraphs of a text file, which blank lines part, with the line they begin on, from 1.

    Args:
        path: A UTF-8 file.
        longest: A paragraph of more lines than this is cut, so that no file has to fit in memory.

    Raises:
        KnowledgeSourceError: The file cannot be read or is not UTF-8.
    """
    lines: list[str] = []
    begin = 1
    try:
        for number, line in _lines(path):
            if not lines:
                begin = number
            if line.strip():
                lines.append(line.strip())
            if lines and (not line.strip() or len(lines) >= longest):
                yield begin, " ".join(lines)
                lines = []
    except (OSError, UnicodeDecodeError) as error:
        raise KnowledgeSourceError(f"{path} cannot be read ({error}); expected UTF-8 text.") from error
    if lines:
        yield begin, " ".join(lines)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; one that is longer than 16 MiB comes in parts."""
    with path.open(encoding="utf-8-sig") as file:
        number = 1
        while line := file.readline(_LONGEST_LINE):
            yield number, line
            number += line.endswith("\n")


def _json_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise KnowledgeSourceError(f"{path}, line {number}, is no JSON object; expected one a line.")
        lacking = [name for name in columns if name not in row]
        if lacking:
            raise KnowledgeSourceError(_lacks(f"{path}, line {number},", lacking, row))
        yield number, row


def _csv_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # The module's own limit is shorter than many a document.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_LINE))
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in columns if name not in (reader.fieldnames or ())]
        if lacking:
            raise KnowledgeSourceError(_lacks(str(path), lacking, dict.fromkeys(reader.fieldnames or ())))
        yield from enumerate(reader, start=1)


def _parquet_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        lacking = [name for name in columns if name not in names]
        if lacking:
            raise KnowledgeSourceError(_lacks(str(path), lacking, dict.fromkeys(names)))
        number = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _lacks(where: str, lacking: list[str], row: Mapping[str, Any]) -> str:
    has = (", ".join(map(str, row)) or "none")[:200]
    return f"{where} has no column {' and '.join(map(repr, lacking))}; found {has}."
