"""Reads labels and predictions, anybody's, and says in one sentence what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ilp_service.attribution.rules import UNATTRIBUTED
from ilp_service.benchmark.plants import CAUSES
from ilp_service.errors import DataEmptyError, DataFormatError, DataNotFoundError

LABELS_FILE = "labels.parquet"

PREDICTIONS = pa.schema(
    [
        pa.field("world", pa.string(), nullable=False, metadata={"meaning": "name of the world, as in the labels"}),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("cause", pa.string(), nullable=False, metadata={"meaning": "the named cause, or unattributed"}),
        pa.field(
            "confidence",
            pa.float64(),
            nullable=False,
            metadata={"unit": "0-1", "meaning": "probability of the most probable cause, named or not"},
        ),
    ]
)
"""What everybody hands in; ``p_<cause>`` (0-1, null where unknown) may stand beside it."""

_LABELS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("world", "sample_id", "origin", "planted")),
        pa.field("causes", pa.list_(pa.string())),
        pa.field("verdict", pa.string()),
    ]
)


def read_labels(source: Path | pa.Table) -> pa.Table:
    """The labels of a file, of all worlds in a folder, or of a table, checked; the columns that a score needs.

    Args:
        source: ``labels.parquet``, a folder with that file, or a folder whose sub-folders (the worlds) have one each.

    Raises:
        DataNotFoundError: There are no labels.
        DataFormatError: A column is missing or of the wrong type, or a sample is labelled twice.
    """
    tables = [source] if isinstance(source, pa.Table) else _label_files(source)
    # Worlds of another recipe may have other runs; what is scored stands in all of them.
    table = pa.concat_tables([_label_columns(part) for part in tables])
    _once(table, "Labels")
    return table


def read_samples_of(folder: Path, worlds: Iterable[str]) -> frozenset[tuple[str, str]]:
    """World and id of every sample of these worlds, labelled or not, as far as the folder has them."""
    found: set[tuple[str, str]] = set()
    for world in sorted(set(worlds)):
        path = folder / world / "truth.parquet"
        if path.is_file():
            found |= {(world, key) for key in _read(path, "Truth")["sample_id"].to_pylist()}
    return frozenset(found)


def read_predictions(
    source: Path | pa.Table, labels: pa.Table, others: frozenset[tuple[str, str]] = frozenset()
) -> pa.Table:
    """Predictions, checked against the labels.

    Args:
        source: A parquet file or a table with the columns of :data:`PREDICTIONS`.
        labels: The labels.
        others: World and id of samples that have no label and may be named all the same (learned ones).

    Returns:
        The columns of :data:`PREDICTIONS` and ``p_<cause>``, float64, in the order of the file.

    Raises:
        DataNotFoundError: There is no such file.
        DataFormatError: A column is missing or of the wrong type, a world, sample or cause is unknown, a sample is
            there twice, or a probability is null or outside 0-1.
        DataEmptyError: There are no labels.
    """
    table = source if isinstance(source, pa.Table) else _read(source, "Predictions")
    _columns(table, PREDICTIONS.names, "Predictions")
    chances = [name for name in table.column_names if name.startswith("p_")]
    _columns(table, chances, "Predictions")
    fields = [*PREDICTIONS, *(pa.field(name, pa.float64()) for name in chances)]
    columns = []
    for field in fields:
        column = table[field.name].combine_chunks()
        text = pa.types.is_string(field.type)
        if text is not _is_text(column.type) or not (text or _is_number(column.type)):
            kind = "text" if text else "numbers"
            raise DataFormatError(f"Predictions have {column.type} in column {field.name!r}; expected {kind}.")
        if not field.nullable and column.null_count:
            raise DataFormatError(f"Predictions have no {field.name!r} in {column.null_count} rows; fill it in.")
        column = column.cast(field.type)
        if not text:
            _in_range(column, field.name)
        columns.append(column)
    table = pa.Table.from_arrays(columns, schema=pa.schema(fields))
    _once(table, "Predictions")
    _known(table, labels, others)
    _causes(table["cause"].to_pylist(), [name.removeprefix("p_") for name in chances])
    return table


def _label_columns(table: pa.Table) -> pa.Table:
    """The columns that a score needs, all of one type."""
    _columns(table, [field.name for field in _LABELS], "Labels")
    try:
        return table.select(_LABELS.names).cast(_LABELS)
    except (pa.ArrowException, ValueError) as error:
        raise DataFormatError(
            f"Labels are not of the types that 'ilp benchmark labels' writes ({str(error).splitlines()[0][:120]})."
        ) from error


def _label_files(source: Path) -> list[pa.Table]:
    if source.is_file():
        return [_read(source, "Labels")]
    whole = source / LABELS_FILE
    paths = [whole] if whole.is_file() else sorted(source.glob(f"*/{LABELS_FILE}"))
    if not paths:
        raise DataNotFoundError(
            f"{source} holds no {LABELS_FILE}, nor does a folder in it; 'ilp benchmark --out {source}' makes worlds."
        )
    return [_read(path, "Labels") for path in paths]


def _read(path: Path, what: str) -> pa.Table:
    if not path.is_file():
        raise DataNotFoundError(f"{what}: there is no file {path}; name a parquet file.")
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataFormatError(f"{what}: {path} is no parquet file ({str(error).splitlines()[0][:120]}).") from error


def _columns(table: pa.Table, wanted: Sequence[str], what: str) -> None:
    for name in wanted:
        found = table.column_names.count(name)
        if found != 1:
            raise DataFormatError(f"{what} have {found} columns {name!r}; expected one each of {', '.join(wanted)}.")


def _pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["world"].to_pylist(), table["sample_id"].to_pylist(), strict=True))


def _once(table: pa.Table, what: str) -> None:
    seen: set[tuple[str, str]] = set()
    for world, key in _pairs(table):
        if (world, key) in seen:
            raise DataFormatError(f"{what} have sample {key!r} of world {world!r} twice; keep one row of it.")
        seen.add((world, key))


def _known(table: pa.Table, labels: pa.Table, others: frozenset[tuple[str, str]]) -> None:
    labelled = set(_pairs(labels))
    worlds = {world for world, _ in labelled | others}
    if not worlds:
        raise DataEmptyError("There is no labelled sample at all, so nothing can be scored; build more worlds.")
    for world, key in _pairs(table):
        if world not in worlds:
            raise DataFormatError(f"Predictions name the world {world!r}; the labels have {', '.join(sorted(worlds))}.")
        if (world, key) not in labelled and (world, key) not in others:
            raise DataFormatError(
                f"Predictions name the sample {key!r}, which world {world!r} does not have among its labels; "
                "take the ids of its evaluation table."
            )


def _causes(named: Sequence[str], given: Sequence[str]) -> None:
    allowed = {*CAUSES, UNATTRIBUTED, *given}
    strange = next((name for name in named if name not in allowed), None)
    if strange is not None:
        raise DataFormatError(
            f"Predictions name the cause {strange!r}; expected {', '.join(CAUSES)} or {UNATTRIBUTED}, "
            "or a cause with a column p_<cause> of its own."
        )


def _in_range(column: pa.Array, name: str) -> None:
    bad = pc.or_(pc.is_nan(column), pc.or_(pc.less(column, 0.0), pc.greater(column, 1.0)))
    strange = column.filter(pc.fill_null(bad, False))
    if len(strange):
        raise DataFormatError(f"Predictions have {strange[0].as_py()} in column {name!r}; expected 0 to 1.")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind))
