"""The rows of a data file as they stand, taken from it and written back with as little changed as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from ilp_service.errors import DataFormatError
from ilp_service.intervention.export_parquet import ParquetRows
from ilp_service.intervention.export_rows import PARQUET, Rows
from ilp_service.intervention.export_spans import Span, elements, members, respelled, whole
from ilp_service.samples.sources import parse_json, rows_of


class _Texts(Rows):
    """Rows that are JSON texts; of a changed row only the values that differ are written anew."""

    def columns(self, line: int) -> dict[str, Any]:
        value = parse_json(self._text(line))
        assert isinstance(value, dict)  # noqa: S101 - it was read as a sample
        return value

    def _text(self, line: int) -> str:
        raise NotImplementedError

    def _changed(self, line: int, columns: Mapping[str, Any]) -> str:
        old = self.columns(line)
        return respelled(self._text(line), old, {**old, **columns})


class _Lines(_Texts):
    """JSON lines, read from the disk when they are asked for: they stay as they are to the byte."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._places: dict[int, tuple[int, int]] = {}
        self._file: BinaryIO = path.open("rb")
        start = 0
        for number, line in enumerate(self._file, start=1):
            mark = 3 if number == 1 and line.startswith(b"\xef\xbb\xbf") else 0
            if line[mark:].strip():
                self._places[number] = start + mark, len(line) - mark
            start += len(line)

    def lines(self) -> list[int]:
        return list(self._places)

    def write(self, rows: Sequence[tuple[int, Mapping[str, Any] | None]], path: Path) -> None:
        with path.open("wb") as file:
            for line, columns in rows:
                raw = self._raw(line) if columns is None else self._changed(line, columns).encode()
                file.write(raw if raw.endswith(b"\n") else raw + b"\n")
        self._file.close()

    def _raw(self, line: int) -> bytes:
        start, length = self._places[line]
        self._file.seek(start)
        return self._file.read(length)

    def _text(self, line: int) -> str:
        return self._raw(line).decode("utf-8")


class _Document(_Texts):
    """A JSON document, in whose place its rows go back: what is around them and between them stays."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(path)
        document = parse_json(text)
        rows = rows_of(path, document)
        start, end = whole(text)
        self._document = text
        self._single = rows is not document
        if isinstance(document, dict):
            name = next((name for name, value in document.items() if value is rows), None)
            self._single = name is None
            start, end = (start, end) if name is None else members(text, start)[name]
        self._list: Span = start, end
        self._rows = [self._list] if self._single else elements(text, start)

    def lines(self) -> list[int]:
        return list(range(1, len(self._rows) + 1))

    def write(self, rows: Sequence[tuple[int, Mapping[str, Any] | None]], path: Path) -> None:
        texts = (self._text(line) if columns is None else self._changed(line, columns) for line, columns in rows)
        between = [self._between(line, after) for (line, _), (after, _) in pairwise(rows)]
        head, tail = self._document[: self._list[0]], self._document[self._list[1] :]
        if not self._single and rows:
            head, tail = self._document[: self._rows[0][0]], self._document[self._rows[-1][1] :]
        elif len(rows) != 1:
            head, tail = f"{head}[", f"]{tail}"
        with path.open("wb") as file:
            for text, behind in zip((head, *texts), ("", *between, ""), strict=False):
                file.write(_bytes(text + behind))
            file.write(_bytes(tail))

    def _between(self, line: int, after: int) -> str:
        """What stands between two rows that follow one another, or between the first two."""
        if len(self._rows) == 1:
            return ",\n"
        first = line if after == line + 1 else 1
        return self._document[self._rows[first - 1][1] : self._rows[first][0]]

    def _text(self, line: int) -> str:
        start, end = self._rows[line - 1]
        return self._document[start:end]


def open_rows(path: Path) -> Rows:
    """The rows of a data file that was read before.

    Raises:
        DataFormatError: It cannot be read any more.
    """
    if path.suffix.lower() in PARQUET:
        return ParquetRows(path)
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if path.suffix.lower() == ".json" or start == b"[":
        try:
            return _Document(path, path.read_bytes().decode("utf-8-sig", "surrogateescape"))
        except ValueError:
            # JSON lines under another name, as reading takes them.
            return _Lines(path)
        except RecursionError as error:
            raise DataFormatError(f"{path} is nested too deeply, expected rows.") from error
    return _Lines(path)


def _bytes(text: str) -> bytes:
    """Text as it was decoded: bytes that were not UTF-8 are those bytes again."""
    return text.encode("utf-8", "surrogateescape")
