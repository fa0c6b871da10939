"""The rows of a data file as they stand, changed as little as possible, and written back in the file's own form."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.errors import DataFormatError
from ilp_service.samples.formats import taught_places
from ilp_service.samples.sources import parse_json, rows_of

_PARQUET = frozenset({".parquet", ".pq"})
_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Edit:
    """What is otherwise about one copy of a row.

    Attributes:
        responses: Other responses, by turn.
        masked: Turns that are not to be learned (weight 0).
        until: Last turn that is kept; ``None`` keeps all.
        copy: Number of the copy, from 0; a further copy gets an id of its own.
    """

    responses: Mapping[int, str] = field(default_factory=dict)
    masked: frozenset[int] = frozenset()
    until: int | None = None
    copy: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether the row stays as it is."""
        return not self.responses and not self.masked and self.until is None and not self.copy


def edited(row: Mapping[str, Any], row_format: str, edit: Edit) -> dict[str, Any]:
    """A row with an edit; columns that it does not concern stay.

    Args:
        row: The columns.
        row_format: As :attr:`ilp_service.samples.reading.DataSet.format` names it.
        edit: What is otherwise.
    """
    changed = copy.deepcopy(dict(row))
    if edit.copy and changed.get("id") is not None:
        changed["id"] = f"{changed['id']}#{edit.copy + 1}" if isinstance(changed["id"], str) else None
    if edit.masked or edit.until is not None:
        # Statements and other wordings belong to the last turn.
        for name in ("probes", "paraphrases"):
            if changed.get(name) is not None:
                changed[name] = None
    column, before = _conversation(changed, row_format)
    if column is None:
        if 0 in edit.responses:
            _answer(changed, row_format, edit.responses[0])
        return changed
    messages = changed[column]
    places = taught_places(messages, before)
    for turn, response in edit.responses.items():
        _say(messages[places[turn]], response)
    for turn in edit.masked:
        messages[places[turn]]["weight"] = 0
    if edit.until is not None:
        changed[column] = messages[: places[edit.until] + 1]
    return changed


def can_mask(row: Mapping[str, Any], row_format: str) -> bool:
    """Whether a row is a conversation, whose turns can be left out of the loss one by one."""
    return _conversation(row, row_format)[0] is not None


def _conversation(row: Mapping[str, Any], row_format: str) -> tuple[str | None, int]:
    """The column with the messages, and how many messages come before it."""
    if row_format in ("messages", "sharegpt"):
        return ("messages" if row_format == "messages" else "conversations"), 1 if row.get("system") else 0
    if row_format == "prompt_response":
        column = "completion" if row.get("completion") is not None else "response"
        if isinstance(row.get(column), list):
            prompt = row.get("prompt")
            return column, len(prompt) if isinstance(prompt, list) else 1
    return None, 0


def _say(message: dict[str, Any], response: str) -> None:
    content = "content" if message.get("content") is not None else "value"
    if isinstance(message.get(content), list):
        message[content] = [{"type": "text", "text": response}]
    else:
        message[content] = response


def _answer(row: dict[str, Any], row_format: str, response: str) -> None:
    if row_format == "multiple_choice":
        choices = list(row["choices"])
        if response in choices:
            row["gold_index"] = choices.index(response)
        else:
            choices[int(row["gold_index"])] = response
            row["choices"] = choices
    elif row_format == "alpaca":
        row["output"] = response
    else:
        row["completion" if row.get("completion") is not None else "response"] = response


class Rows:
    """The rows of a data file by their line, as ``Sample.line`` counts them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ending = path.suffix.lower()

    def lines(self) -> list[int]:
        """Every row, in file order; blank lines are none."""
        raise NotImplementedError

    def columns(self, line: int) -> dict[str, Any]:
        """The columns of a row."""
        raise NotImplementedError

    def write(self, rows: Sequence[tuple[int, Mapping[str, Any] | None]], path: Path) -> None:
        """Write rows in the file's own form: a line as it stands, or other columns in its place."""
        raise NotImplementedError


class _Lines(Rows):
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

    def columns(self, line: int) -> dict[str, Any]:
        value = parse_json(self._raw(line).decode("utf-8"))
        assert isinstance(value, dict)  # noqa: S101 - it was read as a sample
        return value

    def write(self, rows: Sequence[tuple[int, Mapping[str, Any] | None]], path: Path) -> None:
        with path.open("wb") as file:
            for line, columns in rows:
                raw = self._raw(line) if columns is None else _json_line(columns)
                file.write(raw if raw.endswith(b"\n") else raw + b"\n")
        self._file.close()

    def _raw(self, line: int) -> bytes:
        start, length = self._places[line]
        self._file.seek(start)
        return self._file.read(length)


class _Document(Rows):
    """A JSON document, in whose place its rows go back."""

    def __init__(self, path: Path, document: object) -> None:
        super().__init__(path)
        self._document = document
        self._rows = rows_of(path, document)

    def lines(self) -> list[int]:
        return list(range(1, len(self._rows) + 1))

    def columns(self, line: int) -> dict[str, Any]:
        value = self._rows[line - 1]
        assert isinstance(value, dict)  # noqa: S101 - it was read as a sample
        return value

    def write(self, rows: Sequence[tuple[int, Mapping[str, Any] | None]], path: Path) -> None:
        wanted: list[object] = [self._rows[line - 1] if columns is None else columns for line, columns in rows]
        document: object = wanted
        if isinstance(self._document, dict) and self._rows != [self._document]:
            document = {name: wanted if value is self._rows else value for name, value in self._document.items()}
        text = json.dumps(document, ensure_ascii=False, indent=2)
        path.write_bytes(text.encode("utf-8", "surrogateescape") + b"\n")


class _Parquet(Rows):
    """A parquet file; its schema stays, with a weight beside messages where one is needed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._table = pq.read_table(path)

    def lines(self) -> list[int]:
        return list(range(1, self._table.num_rows + 1))

    def columns(self, line: int) -> dict[str, Any]:
        row: dict[str, Any] = self._table.slice(line - 1, 1).to_pylist()[0]
        return row

    def write(self, rows: Sequence[tuple[int, Mapping[str, Any] | None]], path: Path) -> None:
        weighed = any(_weighed(columns) for _, columns in rows if columns is not None)
        schema = _with_weights(self._table.schema) if weighed else self._table.schema
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for start in range(0, len(rows), _BATCH):
                part = rows[start : start + _BATCH]
                values = self._table.take([line - 1 for line, _ in part]).to_pylist()
                values = [
                    value if columns is None else dict(columns)
                    for value, (_, columns) in zip(values, part, strict=True)
                ]
                writer.write_table(pa.Table.from_pylist(values, schema=schema))


def open_rows(path: Path) -> Rows:
    """The rows of a data file that was read before.

    Raises:
        DataFormatError: It cannot be read any more.
    """
    if path.suffix.lower() in _PARQUET:
        return _Parquet(path)
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if path.suffix.lower() == ".json" or start == b"[":
        try:
            return _Document(path, parse_json(path.read_bytes().decode("utf-8-sig", "surrogateescape")))
        except ValueError:
            # JSON lines under another name, as reading takes them.
            return _Lines(path)
        except RecursionError as error:
            raise DataFormatError(f"{path} is nested too deeply, expected rows.") from error
    return _Lines(path)


def write_new(rows: Iterable[Mapping[str, Any]], path: Path, ending: str = ".jsonl") -> None:
    """Write rows of another form, in the kind of file that an ending stands for."""
    if ending in _PARQUET:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, compression="zstd")
        return
    if ending == ".json":
        path.write_text(json.dumps([dict(row) for row in rows], ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        return
    with path.open("wb") as file:
        for row in rows:
            file.write(_json_line(row))


def _json_line(columns: Mapping[str, Any]) -> bytes:
    return json.dumps(columns, ensure_ascii=False, default=str).encode("utf-8", "surrogateescape") + b"\n"


def _weighed(columns: Mapping[str, Any]) -> bool:
    return any(
        isinstance(value, list) and any(isinstance(one, dict) and "weight" in one for one in value)
        for value in columns.values()
    )


def _with_weights(schema: pa.Schema) -> pa.Schema:
    """The schema with a nullable ``weight`` in every list of messages that has none."""

    def widened(kind: pa.DataType) -> pa.DataType:
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
            return kind
        names = {kind.value_type.field(place).name for place in range(kind.value_type.num_fields)}
        if "weight" in names or not names & {"role", "from"}:
            return kind
        fields = [kind.value_type.field(place) for place in range(kind.value_type.num_fields)]
        struct = pa.struct([*fields, pa.field("weight", pa.int64())])
        make: Callable[[pa.DataType], pa.DataType] = pa.large_list if pa.types.is_large_list(kind) else pa.list_
        return make(struct)

    return pa.schema([one.with_type(widened(one.type)) for one in schema], schema.metadata)
