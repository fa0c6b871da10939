"""The trajectory on disk: written whole at every point of measurement, read with everything checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.errors import TrajectoryError
from ilp_service.tables import TRAJECTORY, write_table

_FACTS = b"ilp.trajectory"
_REQUIRED = ("sample_id", "step")


def read_trajectory(path: Path, known_ids: frozenset[str]) -> pa.Table:
    """Read a training record in the form of ``docs/trajectory.md``, parquet or JSONL.

    Args:
        path: The file; ``.parquet`` is parquet, anything else is JSONL.
        known_ids: The ids of the samples that it may speak of.

    Returns:
        Columns of ``ilp_service.tables.TRAJECTORY``, missing ones null, ordered by step and then as in the file.

    Raises:
        TrajectoryError: The file is missing, malformed or incomplete, names samples that the data does not have, or
            holds a value that cannot be.
    """
    if not path.is_file():
        raise TrajectoryError(f"There is no trajectory file {path}; expected a .parquet or .jsonl file.")
    table = _read_parquet(path) if path.suffix == ".parquet" else _read_jsonl(path)
    if not table.num_rows:
        raise TrajectoryError(f"The trajectory {path} has no rows; expected one for each sample and measurement.")
    table = _conform(table, path)
    _check_values(table, path)
    unknown = sorted(set(table["sample_id"].to_pylist()) - known_ids)
    if unknown:
        shown = ", ".join(repr(sample_id) for sample_id in unknown[:3])
        raise TrajectoryError(
            f"The trajectory {path} names {len(unknown)} samples that the data does not have ({shown}"
            f"{', ...' if len(unknown) > 3 else ''}); use the data file of the training, unchanged."
        )
    return table.take(_stable_order(table["step"].to_pylist()))


def trajectory_facts(path: Path) -> dict[str, object]:
    """What a recorded trajectory says about its training (``docs/trajectory.md``); empty for an imported one.

    Raises:
        TrajectoryError: The file is no parquet file, or its facts are no JSON object.
    """
    if path.suffix != ".parquet":
        return {}
    try:
        raw = (pq.read_schema(path).metadata or {}).get(_FACTS)
        facts = json.loads(raw) if raw else {}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TrajectoryError(f"The trajectory {path} cannot be read ({error}); expected a parquet file.") from error
    if not isinstance(facts, dict):
        raise TrajectoryError(f"The trajectory {path} has facts that are no JSON object; record it again.")
    return facts


def write_trajectory(path: Path, table: pa.Table, facts: Mapping[str, object]) -> None:
    """Write a trajectory with its facts, whole or not at all.

    Raises:
        StorageError: The file could not be written.
    """
    schema = TRAJECTORY.with_metadata({_FACTS: json.dumps(dict(facts), sort_keys=True, default=str).encode()})
    write_table(table.cast(schema), path)


def add_facts(path: Path, facts: Mapping[str, object]) -> None:
    """Add facts to a recorded trajectory."""
    write_trajectory(path, pq.read_table(path), {**trajectory_facts(path), **facts})


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise TrajectoryError(f"The trajectory {path} cannot be read ({error}); expected a parquet file.") from error


def _read_jsonl(path: Path) -> pa.Table:
    rows = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(_row(line, number, path))
    except UnicodeDecodeError as error:
        raise TrajectoryError(f"The trajectory {path} is no UTF-8 text; expected JSONL or parquet.") from error
    try:
        names = [name for name in TRAJECTORY.names if any(name in row for row in rows)] or ["step"]
        return pa.Table.from_pydict({name: [row.get(name) for row in rows] for name in names})
    except pa.ArrowException as error:
        raise TrajectoryError(
            f"The trajectory {path} mixes types in a column ({error}); see docs/trajectory.md."
        ) from error


def _row(line: str, number: int, path: Path) -> dict[str, object]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TrajectoryError(f"Line {number} of the trajectory {path} is no JSON ({error}).") from error
    if not isinstance(row, dict):
        raise TrajectoryError(f"Line {number} of the trajectory {path} is {type(row).__name__}; expected an object.")
    return row


def _conform(table: pa.Table, path: Path) -> pa.Table:
    """The public columns in their order and types; other columns are left out."""
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        raise TrajectoryError(
            f"The trajectory {path} has no column {' and no column '.join(missing)}; expected at least sample_id, step."
        )
    columns = []
    for field in TRAJECTORY:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[field.name]
        if pa.types.is_boolean(column.type) or (pa.types.is_string(field.type) and not _is_text(column.type)):
            raise TrajectoryError(
                f"Column {field.name} of the trajectory {path} is of type {column.type}; expected {field.type}."
            )
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            raise TrajectoryError(
                f"Column {field.name} of the trajectory {path} does not hold {field.type} values ({error})."
            ) from error
    return pa.table(columns, schema=pa.schema([field.with_nullable(nullable=True) for field in TRAJECTORY]))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _check_values(table: pa.Table, path: Path) -> None:
    for name in _REQUIRED:
        if table[name].null_count:
            at = table[name].to_pylist().index(None) + 1
            raise TrajectoryError(f"Row {at} of the trajectory {path} has no {name}; every row needs one.")
    for name in ("step", "epoch", "exposures", "trained_tokens", "loss", "p_correct"):
        for at, value in enumerate(table[name].to_pylist(), start=1):
            if value is not None and not (
                math.isfinite(value) and 0 <= value <= (1 if name == "p_correct" else math.inf)
            ):
                expected = "a value from 0 to 1" if name == "p_correct" else "a finite value of 0 or more, or null"
                raise TrajectoryError(f"Row {at} of the trajectory {path} has {name} {value}; expected {expected}.")
    seen: set[tuple[str, int]] = set()
    for pair in zip(table["sample_id"].to_pylist(), table["step"].to_pylist(), strict=True):
        if pair in seen:
            raise TrajectoryError(
                f"The trajectory {path} has sample {pair[0]!r} at step {pair[1]} twice; expected one row for each pair."
            )
        seen.add(pair)


def _stable_order(steps: Sequence[int]) -> list[int]:
    return sorted(range(len(steps)), key=lambda index: steps[index])
