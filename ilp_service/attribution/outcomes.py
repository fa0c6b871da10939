"""Outcomes of interventions as training rows of the classifier, kept apart from the benchmark's table."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.attribution.augmentation import cause_of
from ilp_service.errors import DataFormatError, DataNotFoundError
from ilp_service.samples.reading import file_digest

KEYS = ("world", "family", "sample_id", "cause")

FAMILY = "user"
"""What stands in the column ``family`` of outcomes; no family of the benchmark has this name."""

WEIGHT = 1.0
"""An outcome counts as one row of the benchmark: both are proved by the same experiment (docs/effects.md)."""

PROVENANCE = b"ilp.outcomes"
"""Key of the table's metadata under which it is said which run it is from, as JSON."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Rows whose cause an intervention proved.

    Attributes:
        table: Columns ``world, family, sample_id, cause`` and signals; one row a sample of a model.
        weight: How many rows of the benchmark each counts as.
        digest: SHA-256 of the files' bytes, hexadecimal.
        contradicted: Samples that were left out because the files prove different causes of them.
    """

    table: pa.Table
    weight: float = WEIGHT
    digest: str = ""
    contradicted: int = 0

    def usable(self, signals: pa.Table) -> pa.Table:
        """The rows with the columns of a table of signals; null where a row has no such signal.

        A cause that the table has no labelled rows of is left out: its signals would be a mark of the user's data, for
        no other row has any.
        """
        known = sorted(set(signals["cause"].drop_null().to_pylist()))
        kept = self.table.filter(pa.array([cause in known for cause in self.table["cause"].to_pylist()], pa.bool_()))
        columns = [
            kept[field.name].cast(field.type)
            if field.name in kept.column_names
            else pa.nulls(kept.num_rows, field.type)
            for field in signals.schema
        ]
        return pa.table(columns, schema=signals.schema)

    def facts(self, signals: pa.Table) -> dict[str, Any]:
        """What is told about them beside a classifier, ready for JSON."""
        used = self.usable(signals)
        return {
            "rows": used.num_rows,
            "left_out": self.table.num_rows - used.num_rows + self.contradicted,
            "weight": self.weight,
            "models": sorted(set(used["world"].to_pylist())),
            "causes": dict(sorted(Counter(used["cause"].to_pylist()).items())),
            "digest": self.digest,
        }


def read_outcomes(paths: Sequence[Path], weight: float = WEIGHT) -> Outcomes | None:
    """Read files that ``ilp intervene`` wrote; ``None`` without any.

    A sample that several files prove the same cause of counts once; one that they contradict each other on is left out.

    Raises:
        DataNotFoundError: There is no such file.
        DataFormatError: It is no table of outcomes, or the weight is negative.
    """
    if weight < 0:
        raise DataFormatError(f"The weight of outcomes is {weight}; expected 0 or more.")
    if not paths:
        return None
    tables = [_read(path) for path in paths]
    joined = pa.concat_tables(tables, promote_options="permissive")
    rows = list(zip(joined["world"].to_pylist(), joined["sample_id"].to_pylist(), strict=True))
    causes: dict[tuple[str, str], dict[str, int]] = {}
    for place, (row, cause) in enumerate(zip(rows, joined["cause"].to_pylist(), strict=True)):
        causes.setdefault(row, {}).setdefault(cause, place)
    kept = sorted(next(iter(found.values())) for found in causes.values() if len(found) == 1)
    digest = hashlib.sha256("".join(sorted(file_digest(path) for path in paths)).encode()).hexdigest()
    return Outcomes(joined.take(pa.array(kept, pa.int64())), weight, digest, len(causes) - len(kept))


def provenance(table: pa.Table) -> Mapping[str, Any]:
    """What the table's metadata say about the run that it is from; empty where they say nothing."""
    raw = (table.schema.metadata or {}).get(PROVENANCE)
    found = json.loads(raw) if raw else {}
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise DataNotFoundError(f"There are no outcomes {path}; 'ilp intervene' writes outcomes.parquet.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataFormatError(f"{path} cannot be read ({error}); expected a parquet file of outcomes.") from error
    missing = [name for name in KEYS if name not in table.column_names]
    if missing:
        raise DataFormatError(f"{path} has no column {missing[0]!r}; expected {', '.join(KEYS)} and signals.")
    table = table.filter(table["cause"].is_valid())
    foreign = sorted(set(table["family"].to_pylist()) - {FAMILY}, key=str)
    if foreign:
        raise DataFormatError(
            f"{path} has rows of the family {foreign[0]!r}; expected outcomes of interventions, whose family is "
            f"{FAMILY!r}. A table of the benchmark goes into --signals."
        )
    wanted = [
        field.name
        for field in table.schema
        if field.name in KEYS or ("." in field.name and cause_of(field.name) and not pa.types.is_string(field.type))
    ]
    return table.select(wanted).replace_schema_metadata(None)
