"""Study tables as float arrays in the order of the unlearned samples, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.plugin import Array, Study

Indices = npt.NDArray[np.int64]


def ids_of(study: Study) -> pa.Array:
    """Ids of all samples, in file order."""
    return pa.array([sample.sample_id for sample in study.samples], pa.string())


def rows_of(wanted: pa.Array | Sequence[str], ids: pa.Array) -> Indices:
    """Index of each wanted id within ``ids``, -1 where it is not there; shape ``(wanted,)``."""
    found = pc.index_in(pa.array(wanted, pa.string()), value_set=ids)
    return np.asarray(pc.fill_null(found, -1).cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)


def floats(values: pa.Array | pa.ChunkedArray) -> Array:
    """A numeric or boolean column with NaN for null."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def column(table: pa.Table, name: str, ids: pa.Array | Sequence[str]) -> Array:
    """One column of a table that is keyed by ``sample_id``, aligned to ``ids``; NaN where it is not known."""
    ids = pa.array(ids, pa.string())
    if name not in table.column_names or table.num_rows == 0:
        return np.full(len(ids), np.nan)
    rows = rows_of(ids, table["sample_id"].combine_chunks())
    return np.where(rows >= 0, floats(table[name])[np.maximum(rows, 0)], np.nan)


def evidence_table(study: Study, columns: Mapping[str, Array | Sequence[str | None]]) -> pa.Table:
    """The table that a cause returns: float arrays become numbers (NaN becomes null), sequences become text."""
    arrays: dict[str, pa.Array] = {"sample_id": pa.array(study.unlearned, pa.string())}
    for name, values in columns.items():
        arrays[name] = (
            pa.array(values.astype(np.float64), pa.float64(), from_pandas=True)
            if isinstance(values, np.ndarray)
            else pa.array(values, pa.string())
        )
    return pa.table(arrays)


def flag(condition: npt.NDArray[np.bool_], *measured: Array) -> Array:
    """1 or 0, and NaN wherever one of the ``measured`` arrays is NaN."""
    result = condition.astype(np.float64)
    for values in measured:
        result = np.where(np.isnan(values), np.nan, result)
    return result


def ratio(part: Array, whole: Array) -> Array:
    """``part / whole``, NaN where ``whole`` is zero or either is unknown."""
    result: Array = np.full(np.shape(part), np.nan)
    return np.divide(part, whole, out=result, where=np.nan_to_num(whole) != 0)


def share_below(values: Array, population: Array) -> Array:
    """Rank in [0, 1]: the share of the population that is smaller, ties counted half."""
    known = np.sort(population[~np.isnan(population)])
    if not known.size:
        return np.full(values.shape, np.nan)
    low = np.searchsorted(known, values, side="left")
    high = np.searchsorted(known, values, side="right")
    return np.where(np.isnan(values), np.nan, (low + high) / (2 * known.size))


def most(values: Sequence[Array]) -> Array:
    """Element-wise maximum that skips NaN and is NaN only where all are."""
    return np.asarray(np.fmax.reduce(np.stack(values), axis=0), dtype=np.float64)
