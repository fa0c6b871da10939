"""Runs every cause on the study, each in isolation, and checks what it returns before anybody believes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.plugin import Array, Cause, Need, Signal
from ilp_service.study import Study

Status = Literal["measured", "not_measurable", "failed"]
Mask = npt.NDArray[np.bool_]

_LACKS = {
    Need.BASE_MODEL: "it needs the base model, which is not known; name it with --base or a tag ilp.base_model",
    Need.TRAJECTORY: "it needs the training record; write one with ilp train or the TrajectoryCallback and name it "
    "with --trajectory",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the causes found, one row an unlearned sample, in the order of ``study.unlearned``.

    Attributes:
        table: ``sample_id`` and one column a signal, ``<cause>.<signal>``, with ``unit``, ``direction`` (higher values
            speak for the cause ``+``, against it ``-``, neither ``0``), ``meaning`` and ``kind`` as metadata of the
            field. The columns of a cause that was not measured are there and null.
        status: ``measured``, ``not_measurable`` or ``failed``, by cause.
        reasons: One sentence for every cause that was not measured.
        rules: How strongly each cause's own test holds, 0-1, shape ``(unlearned,)``; ``None`` if not measured.
        excluded: Where the evidence rules each cause out, shape ``(unlearned,)``; ``None`` if not measured.
    """

    table: pa.Table
    status: Mapping[str, Status]
    reasons: Mapping[str, str]
    rules: Mapping[str, Array | None]
    excluded: Mapping[str, Mask | None]


class _RefusedError(Exception):
    """A cause broke its contract; the message is one sentence."""


def collect_evidence(study: Study, causes: Sequence[Cause]) -> Evidence:
    """Ask every cause about the unlearned samples.

    A cause that raises, or returns anything but what it declared, is ``failed``; one whose needs are not met is
    ``not_measurable``. Both are told in a sentence, and the others go on.
    """
    fields = [pa.field("sample_id", pa.string(), nullable=False)]
    columns: list[pa.Array] = [pa.array(study.unlearned, pa.string())]
    status: dict[str, Status] = {}
    reasons: dict[str, str] = {}
    rules: dict[str, Array | None] = {}
    excluded: dict[str, Mask | None] = {}
    for cause in causes:
        name = cause.name
        signals: dict[str, pa.Array] = {}
        rules[name], excluded[name] = None, None
        lacking = _lacking(study, cause)
        if lacking:
            status[name], reasons[name] = "not_measurable", f"{name} cannot be measured: {' and '.join(lacking)}."
        else:
            try:
                signals, rules[name], excluded[name] = _examine(study, cause)
                status[name] = "measured"
            # Whatever somebody's code raises must not end the diagnosis; a person's Ctrl-C still does.
            except (Exception, SystemExit) as error:  # noqa: BLE001
                status[name], reasons[name] = "failed", f"{name} failed: {_told(error)}."
        for signal in cause.signals:
            field = _field(name, signal)
            fields.append(field)
            columns.append(signals.get(signal.name, pa.nulls(len(study.unlearned), field.type)))
    return Evidence(
        pa.Table.from_arrays(columns, schema=pa.schema(fields)),
        MappingProxyType(status),
        MappingProxyType(reasons),
        MappingProxyType(rules),
        MappingProxyType(excluded),
    )


def explanation(cause: Cause, row: Mapping[str, Any]) -> str:
    """The cause's sentence about one sample; ``row`` has its signals without the cause's name before them.

    An explanation that raises, or is no text, becomes a sentence that says so: it never ends a diagnosis.
    """
    try:
        sentence = cause.explain(MappingProxyType(dict(row)))
        if not isinstance(sentence, str) or not sentence.strip():
            raise _RefusedError(f"explain() returned {type(sentence).__name__}, expected a sentence")
    except (Exception, SystemExit) as error:  # noqa: BLE001
        return f"{cause.title} (the plugin could not explain it: {_told(error)})."
    return " ".join(sentence.split())


def signals_of(evidence: pa.Table, cause: Cause) -> list[dict[str, Any]]:
    """One mapping a row of the evidence with the signals of one cause, as ``explain`` wants them."""
    names = [signal.name for signal in cause.signals]
    rows: list[dict[str, Any]] = (
        evidence.select([f"{cause.name}.{name}" for name in names]).rename_columns(names).to_pylist()
    )
    return rows


def _lacking(study: Study, cause: Cause) -> list[str]:
    met = {Need.BASE_MODEL: study.has_base, Need.TRAJECTORY: study.trajectory is not None}
    return [_LACKS[need] for need in sorted(cause.needs) if not met[need]]


def _examine(study: Study, cause: Cause) -> tuple[dict[str, pa.Array], Array, Mask]:
    """The checked signals, rule scores and exclusions of one cause.

    Raises:
        _RefusedError: The cause broke its contract.
    """
    # A copy each: rebinding an attribute by force changes the plugin's own study only; the tables cannot be written.
    table = cause.collect(replace(study))
    rows = _order(table, study.unlearned)
    signals = {signal.name: _checked(table, signal, rows) for signal in cause.signals}
    undeclared = [name for name in table.column_names if name != "sample_id" and name not in signals]
    if undeclared:
        raise _RefusedError(f"collect() returned the column {undeclared[0]!r}, which no Signal declares")
    numbers = {signal.name: signals[signal.name] for signal in cause.signals if signal.kind == "number"}
    return signals, _rule(cause, numbers, len(rows)), _excluded(cause, numbers, len(rows))


def _order(table: object, unlearned: Sequence[str]) -> pa.Array:
    """Row of each unlearned sample within the table that a cause returned."""
    if not isinstance(table, pa.Table):
        raise _RefusedError(f"collect() returned {type(table).__name__}, expected a pyarrow.Table")
    if table.column_names.count("sample_id") != 1:
        raise _RefusedError(
            f"collect() returned {table.column_names.count('sample_id')} columns 'sample_id', expected one"
        )
    if table.num_rows != len(unlearned):
        raise _RefusedError(f"collect() returned {table.num_rows} rows, expected {len(unlearned)}")
    ids = table["sample_id"].to_pylist()
    wanted = set(unlearned)
    strange = next((key for key in ids if key not in wanted), None)
    if len(set(ids)) != len(ids) and strange is None:
        raise _RefusedError("collect() returned a sample_id twice, expected one row for each unlearned sample")
    if strange is not None or any(key is None for key in ids):
        raise _RefusedError(f"collect() returned the sample_id {strange!r}, which is not among the unlearned samples")
    place = {key: row for row, key in enumerate(ids)}
    return pa.array([place[key] for key in unlearned], pa.int64())


def _checked(table: pa.Table, signal: Signal, rows: pa.Array) -> pa.Array:
    """One column in the study's order, as float64 or string."""
    found = table.column_names.count(signal.name)
    if found != 1:
        raise _RefusedError(f"collect() returned {found} columns {signal.name!r}, expected one")
    values = table[signal.name].take(rows).combine_chunks()
    kind = values.type
    if signal.kind == "text":
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise _RefusedError(f"signal {signal.name!r} has type {kind}, expected text")
        return values.cast(pa.string())
    if pa.types.is_boolean(kind):
        values = values.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise _RefusedError(f"signal {signal.name!r} has type {kind}, expected numbers")
    values = values.cast(pa.float64())
    if pc.any(pc.is_nan(values)).as_py():
        raise _RefusedError(f"signal {signal.name!r} is NaN for a sample; use null for what could not be measured")
    if pc.any(pc.is_inf(values)).as_py():
        raise _RefusedError(f"signal {signal.name!r} is infinite for a sample, expected finite numbers or null")
    if signal.unit == "0-1" and pc.any(pc.or_(pc.less(values, 0.0), pc.greater(values, 1.0))).as_py():
        bounds = pc.min_max(values).as_py()
        raise _RefusedError(
            f"signal {signal.name!r} goes from {bounds['min']:g} to {bounds['max']:g}, expected 0 to 1 as its unit says"
        )
    return values


def _arrays(numbers: Mapping[str, pa.Array]) -> Mapping[str, Array]:
    """Fresh float arrays with NaN for null, so that a rule that writes into them changes nothing."""
    return MappingProxyType(
        {name: np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64) for name, values in numbers.items()}
    )


def _rule(cause: Cause, numbers: Mapping[str, pa.Array], count: int) -> Array:
    scores = np.asarray(cause.rule(_arrays(numbers)))
    if scores.shape != (count,):
        raise _RefusedError(f"rule() returned an array of shape {scores.shape}, expected ({count},)")
    if not np.issubdtype(scores.dtype, np.number) and scores.dtype != np.bool_:
        raise _RefusedError(f"rule() returned {scores.dtype} values, expected numbers")
    scores = scores.astype(np.float64)
    if np.isnan(scores).any():
        raise _RefusedError("rule() returned NaN for a sample, expected a score from 0 to 1")
    if ((scores < 0) | (scores > 1)).any():
        outside = scores[(scores < 0) | (scores > 1)][0]
        raise _RefusedError(f"rule() returned the score {outside:g}, expected 0 to 1")
    return scores


def _excluded(cause: Cause, numbers: Mapping[str, pa.Array], count: int) -> Mask:
    mask = np.asarray(cause.excluded(_arrays(numbers)))
    if not numbers and mask.shape == (0,):
        # The default of a cause without number signals cannot know how many samples there are.
        return np.zeros(count, dtype=np.bool_)
    if mask.shape != (count,) or (mask.dtype != np.bool_ and count):
        raise _RefusedError(
            f"excluded() returned {mask.dtype} values of shape {mask.shape}, expected bool of ({count},)"
        )
    return mask.astype(np.bool_)


def _field(cause: str, signal: Signal) -> pa.Field:
    kind = pa.float64() if signal.kind == "number" else pa.string()
    described = {"unit": signal.unit, "direction": signal.direction, "meaning": signal.meaning, "kind": signal.kind}
    return pa.field(f"{cause}.{signal.name}", kind, metadata=described)


def _told(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:200].rstrip(".")
    if isinstance(error, _RefusedError):
        return first
    return f"it raised {type(error).__name__}{': ' if first else ''}{first}"
