"""A data file to samples: one a taught assistant turn, every refused row kept with its reason."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import pyarrow as pa

from ilp_service.errors import AllRowsRefusedError, DataEmptyError, DataFormatError, DataNotFoundError
from ilp_service.samples.formats import (
    FORMATS,
    RowFormat,
    RowRefusedError,
    detect,
    parse_paraphrases,
    parse_probes,
    text_of,
)
from ilp_service.samples.sample import Sample, iter_stable_ids
from ilp_service.samples.sources import Refusal, Row, iter_rows, kind, shown
from ilp_service.settings import DataSettings
from ilp_service.tables import QUARANTINE

_DETECTION_ROWS = 100
_DEFAULT_SUBSET = "all"


@dataclass(frozen=True, slots=True)
class DataSet:
    """What a data file holds.

    Attributes:
        samples: Samples in file order, at most ``limit`` of them.
        all_ids: Ids of every sample of the file, whatever the limit.
        quarantine: Refused rows (schema ``ilp_service.tables.QUARANTINE``).
        format: Row format that was found or set.
        digest: SHA-256 of the file's bytes, hexadecimal.
        rows: Rows of the file, refused ones included; blank lines are no rows.
        path: The file.
        unused_columns: Columns that no part of the row format reads, sorted.
        context_only_turns: Assistant turns that are no samples: nothing stands before them, or their weight is 0.
        row_ids: Explicit ``id`` of the row by sample id, where the file has one.
    """

    samples: tuple[Sample, ...]
    all_ids: frozenset[str]
    quarantine: pa.Table
    format: str
    digest: str
    rows: int
    path: Path
    unused_columns: tuple[str, ...] = ()
    context_only_turns: int = 0
    row_ids: Mapping[str, str] = field(default_factory=dict)


def read_samples(path: Path, settings: DataSettings, limit: int | None = None) -> DataSet:
    """Read a data file; rows that cannot be used go to the quarantine.

    Args:
        path: A ``.jsonl``, ``.json`` or ``.parquet`` file.
        settings: Row format, subset column and size limit.
        limit: Keep the first so many samples; ids are those of the whole file either way.

    Raises:
        DataNotFoundError: No such file.
        DataEmptyError: The file has no rows.
        DataFormatError: The file or its columns are of no known format.
        AllRowsRefusedError: Not one row could be used.
    """
    path = Path(path)
    rows = iter_rows(path, settings.max_row_bytes)
    reader = _Reader(path, settings)
    kept: list[Sample] = []
    all_ids: set[str] = set()
    row_ids: dict[str, str] = {}
    for sample in iter_stable_ids(reader.read(rows)):
        all_ids.add(sample.sample_id)
        if limit is None or len(kept) < limit:
            kept.append(sample)
            if reader.explicit_id is not None:
                row_ids[sample.sample_id] = reader.explicit_id
    if reader.rows == 0:
        raise DataEmptyError(f"{path} has no rows, expected at least one; check that it was written to its end.")
    if not all_ids:
        raise _all_refused(path, reader)
    return DataSet(
        samples=tuple(kept),
        all_ids=frozenset(all_ids),
        quarantine=quarantine_table(path, reader.refused),
        format=reader.format,
        digest=file_digest(path),
        rows=reader.rows,
        path=path,
        unused_columns=tuple(sorted(reader.columns - reader.read_columns)),
        context_only_turns=reader.context_only,
        row_ids=row_ids,
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal.

    Raises:
        DataNotFoundError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataNotFoundError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error


def quarantine_table(path: Path, refused: list[Refusal]) -> pa.Table:
    """Refused rows as a table of the public schema ``QUARANTINE``."""
    return pa.Table.from_pydict(
        {
            "file": [str(path)] * len(refused),
            "line": [refusal.line for refusal in refused],
            "reason": [shown_reason(refusal.reason) for refusal in refused],
            "raw": [shown(refusal.raw) for refusal in refused],
        },
        schema=QUARANTINE,
    )


def shown_reason(reason: str) -> str:
    """A reason as text that can always be stored."""
    return reason.encode("utf-8", "backslashreplace").decode("utf-8")


class _Reader:
    """One pass over the rows, with the tallies that are only known at its end."""

    def __init__(self, path: Path, settings: DataSettings) -> None:
        self.path = path
        self.settings = settings
        self.format: str = settings.format
        self.refused: list[Refusal] = []
        self.rows = 0
        self.columns: set[str] = set()
        self.read_columns: frozenset[str] = frozenset()
        self.context_only = 0
        self.explicit_id: str | None = None
        self._ids: dict[str, int] = {}

    def read(self, rows: Iterator[Row | Refusal]) -> Iterator[Sample]:
        """Samples without ids, in file order."""
        head, readable = [], 0
        for row in rows:
            head.append(row)
            readable += isinstance(row, Row)
            if readable >= _DETECTION_ROWS:
                break
        row_format = self._choose([row.columns for row in head if isinstance(row, Row)])
        for row in chain(head, rows):
            position = self.rows
            self.rows += 1
            if isinstance(row, Refusal):
                self.refused.append(row)
                continue
            self.columns.update(row.columns)
            try:
                samples = self._samples(row, row_format, position)
            except RowRefusedError as refusal:
                self.refused.append(Refusal(row.line, str(refusal), row.raw))
            else:
                yield from samples

    def _choose(self, readable: list[dict[str, object]]) -> RowFormat:
        if self.format == "auto":
            found = detect(readable)
            if found is None and readable:
                names = ", ".join(sorted({repr(name)[:40] for row in readable for name in row})[:12]) or "no columns"
                raise DataFormatError(
                    f"{self.path} has rows with {names}, expected the columns of one format: prompt + choices + "
                    "gold_index, messages, conversations, instruction + output, or prompt + completion/response; "
                    "rename its columns."
                )
            self.format = found or "prompt_response"
        row_format = FORMATS[self.format]
        self.read_columns = row_format.reads | {"id", "probes", "paraphrases", self.settings.subset_field}
        return row_format

    def _samples(self, row: Row, row_format: RowFormat, position: int) -> list[Sample]:
        identity = self._identity(row.columns.get("id"))
        subset = self._subset(row.columns.get(self.settings.subset_field))
        parsed = row_format.parse(row.columns)
        last = len(parsed.turns) - 1
        samples = [
            Sample(
                sample_id="",
                context=turn.context,
                response=turn.response,
                chat=turn.chat,
                subset=subset,
                position=position,
                turn=index,
                choices=turn.choices,
                gold_index=turn.gold_index,
                probes=parse_probes(row.columns.get("probes"), turn.response) if index == last else (),
                paraphrases=parse_paraphrases(row.columns.get("paraphrases")) if index == last else (),
                line=row.line,
                plain_prompt=turn.plain_prompt,
            )
            for index, turn in enumerate(parsed.turns)
        ]
        if identity is not None:
            self._ids[identity] = row.line
        self.explicit_id = identity
        self.context_only += parsed.context_only
        return samples

    def _identity(self, value: object) -> str | None:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise RowRefusedError(f"'id' is {kind(value)}, expected text or a number.")
        identity = text_of(str(value), "'id'", may_be_empty=True)
        if identity in self._ids:
            raise RowRefusedError(f"The id {identity[:60]!r} was used before, on line {self._ids[identity]}.")
        return identity or None

    def _subset(self, value: object) -> str:
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            return _DEFAULT_SUBSET
        if not isinstance(value, str | int | float):
            raise RowRefusedError(f"'{self.settings.subset_field}' is {kind(value)}, expected text.")
        return text_of(str(value), f"'{self.settings.subset_field}'", may_be_empty=True)


def _all_refused(path: Path, reader: _Reader) -> AllRowsRefusedError:
    (reason, count), *_ = Counter(refusal.reason for refusal in reader.refused).most_common(1)
    first = next(refusal.line for refusal in reader.refused if refusal.reason == reason)
    return AllRowsRefusedError(
        f"All {reader.rows} rows of {path} were refused, {count} of them like line {first}: {shown_reason(reason)} "
        "Mend the rows, or set data.format if the format was taken for another."
    )
