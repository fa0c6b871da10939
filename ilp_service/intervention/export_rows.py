"""One row of a data file with an edit, and rows written in a form of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.intervention.export_spans import json_text
from ilp_service.samples.formats import taught_places

PARQUET = frozenset({".parquet", ".pq"})


@dataclass(frozen=True, slots=True)
class Edit:
    """What is otherwise about a row.

    Attributes:
        responses: Other responses, by turn.
        masked: Turns that are not to be learned (weight 0).
        until: Last turn that is kept; ``None`` keeps all.
    """

    responses: Mapping[int, str] = field(default_factory=dict)
    masked: frozenset[int] = frozenset()
    until: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the row stays as it is."""
        return not self.responses and not self.masked and self.until is None


def edited(row: Mapping[str, Any], row_format: str, edit: Edit) -> dict[str, Any]:
    """A row with an edit; columns that it does not concern stay.

    Args:
        row: The columns.
        row_format: As :attr:`ilp_service.samples.reading.DataSet.format` names it.
        edit: What is otherwise.
    """
    changed = copy.deepcopy(dict(row))
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
    truth = any(isinstance(message.get("weight"), bool) for message in messages)
    for turn in edit.masked:
        messages[places[turn]]["weight"] = False if truth else 0
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
    parts = message.get(content)
    if isinstance(parts, list):
        bare = any(isinstance(part, str) for part in parts)
        message[content] = [response if bare else {"type": "text", "text": response}]
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

    def lines(self) -> list[int]:
        """Every row, in file order; blank lines are none."""
        raise NotImplementedError

    def columns(self, line: int) -> dict[str, Any]:
        """The columns of a row that was read as a sample."""
        raise NotImplementedError

    def fresh_id(self) -> float | None:
        """A number that is no row's id, for a copy of a row whose id is a number; ``None`` where it may have none.

        Raises:
            DataFormatError: There must be one and none is free.
        """
        return None

    def write(self, rows: Sequence[tuple[int, Mapping[str, Any] | None]], path: Path) -> None:
        """Write rows in the file's own form: as they stand, or with other values in some columns.

        Raises:
            DataFormatError: A column cannot hold its other value.
        """
        raise NotImplementedError


def write_new(rows: Iterable[Mapping[str, Any]], path: Path, ending: str = ".jsonl") -> None:
    """Write rows of another form, in the kind of file that an ending stands for."""
    if ending in PARQUET:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, compression="zstd")
        return
    with path.open("wb") as file:
        if ending == ".json":
            file.write(json_text([dict(row) for row in rows], indent=2).encode() + b"\n")
            return
        for row in rows:
            file.write(json_text(row).encode() + b"\n")
