"""The rows of a parquet file: what a change does not concern stays Arrow and is never converted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.errors import DataFormatError
from ilp_service.intervention.export_rows import Rows

_BATCH = 1024
# Whole numbers that a float holds exactly, by its width in bits.
_EXACT = {16: 2**11, 32: 2**24, 64: 2**53}


class ParquetRows(Rows):
    """A parquet file; its schema stays, with a weight beside messages where one is needed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with pq.ParquetFile(path) as file:
            self._table = file.read()
        self._ids: Iterator[int] | None = None

    def lines(self) -> list[int]:
        """Every row."""
        return list(range(1, self._table.num_rows + 1))

    def columns(self, line: int) -> dict[str, Any]:
        """The columns of a row that was read as a sample."""
        row: dict[str, Any] = self._table.slice(line - 1, 1).to_pylist()[0]
        return row

    def fresh_id(self) -> float | None:
        """A number that is no row's id; ``None`` where the column of ids may be null.

        Raises:
            DataFormatError: It may not, and no number of its type is free.
        """
        field = self._table.schema.field("id")
        if field.nullable:
            return None
        if self._ids is None:
            self._ids = _free(self._table["id"].to_pylist(), field.type)
        number = next(self._ids, None)
        if number is None:
            raise DataFormatError(
                f"The column 'id' of {self.path} may not be null and has no {field.type} left for a repeated row; "
                "give it a wider type, or let it be null."
            )
        return float(number) if pa.types.is_floating(field.type) else number

    def write(self, rows: Sequence[tuple[int, Mapping[str, Any] | None]], path: Path) -> None:
        """Write rows in the file's own form: as they stand, or with other values in some columns.

        Raises:
            DataFormatError: A turn is not to be learned and its weight cannot be written.
        """
        weighed = {
            name for _, columns in rows if columns is not None for name, value in columns.items() if _weighed(value)
        }
        schema = self._with_weights(weighed)
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for start in range(0, len(rows), _BATCH):
                pieces = self._pieces(rows[start : start + _BATCH], schema)
                writer.write_table(pa.concat_tables(list(pieces)))

    def _pieces(self, rows: Sequence[tuple[int, Mapping[str, Any] | None]], schema: pa.Schema) -> Iterator[pa.Table]:
        """Tables with the rows one after the other; slices, because not every type can be taken by index."""
        first = length = 0
        for line, columns in rows:
            if columns is None and length and line == first + length:
                length += 1
                continue
            if length:
                yield self._slice(first, length, schema)
            first, length = line, 1
            if columns is not None:
                yield self._slice(line, 1, schema, columns)
                length = 0
        if length:
            yield self._slice(first, length, schema)

    def _slice(self, line: int, length: int, schema: pa.Schema, columns: Mapping[str, Any] | None = None) -> pa.Table:
        table = self._table.slice(line - 1, length)
        for place, field in enumerate(schema):
            if columns is not None and field.name in columns:
                table = table.set_column(place, field, pa.array([_fitted(columns[field.name], field)], field.type))
            elif not field.type.equals(table.schema.field(place).type):
                table = table.set_column(place, field, table.column(place).cast(field.type))
        return table

    def _with_weights(self, weighed: set[str]) -> pa.Schema:
        """The schema with a nullable ``weight`` in the lists of messages that get one and have none."""
        schema = self._table.schema
        for name in weighed:
            place = schema.get_field_index(name)
            field = schema.field(place)
            schema = schema.set(place, field.with_type(self._widened(field)))
        return schema

    def _widened(self, field: pa.Field) -> pa.DataType:
        kind = field.type
        large = pa.types.is_large_list(kind)
        if not (large or pa.types.is_list(kind)) or not pa.types.is_struct(kind.value_type):
            raise self._no_weight(field.name, kind)
        inner = [kind.value_type.field(place) for place in range(kind.value_type.num_fields)]
        place = next((place for place, one in enumerate(inner) if one.name == "weight"), len(inner))
        if place == len(inner) or pa.types.is_null(inner[place].type):
            inner[place:] = [pa.field("weight", pa.int64()), *inner[place + 1 :]]
        elif not _numeric(inner[place].type):
            raise self._no_weight(field.name, inner[place].type)
        make: Callable[[pa.Field], pa.DataType] = pa.large_list if large else pa.list_
        return make(kind.value_field.with_type(pa.struct(inner)))

    def _no_weight(self, column: str, kind: pa.DataType) -> DataFormatError:
        return DataFormatError(
            f"A turn of {column!r} in {self.path} is not to be learned, and its weight cannot be written in {kind}; "
            "expected lists of messages with a weight that is a number, or choose --format trl, axolotl or "
            "llamafactory."
        )


def _numeric(kind: pa.DataType) -> bool:
    types = pa.types
    return any(holds(kind) for holds in (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal))


def _weighed(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(one, dict) and one.get("weight") is not None for one in value)


def _fitted(value: object, field: pa.Field) -> object:
    """A value as its column can hold it."""
    listed = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
    if value is None and listed and not field.nullable:
        return []
    if listed and isinstance(value, list) and _weighed(value):
        weight = field.type.value_type.field("weight").type
        if pa.types.is_boolean(weight):
            return [one if one.get("weight") is None else {**one, "weight": bool(one["weight"])} for one in value]
    return value


def _free(ids: Sequence[float], kind: pa.DataType) -> Iterator[int]:
    """Whole numbers of a type that are no ids yet: above all of them first, then between them."""
    taken = set(ids)
    top = max((math.floor(one) for one in taken if math.isfinite(one)), default=0)
    if pa.types.is_floating(kind):
        most = _EXACT[kind.bit_width]
    else:
        most = 2 ** (kind.bit_width - pa.types.is_signed_integer(kind)) - 1
    above = max(top + 1, 1)
    return (one for one in chain(range(above, most + 1), range(1, min(above, most + 1))) if one not in taken)
