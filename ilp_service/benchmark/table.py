"""The table of signals from which the meta-classifier is trained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from ilp_service import __version__
from ilp_service.benchmark.recipe import VERSION
from ilp_service.benchmark.signals import Findings, labelled_signals
from ilp_service.tables import write_table

PROVENANCE = b"ilp.signals"


def signals_table(found: Sequence[tuple[Findings, pa.Table]]) -> pa.Table:
    """The labelled signals of several worlds, rows ordered by world and sample id, with their provenance.

    Args:
        found: What was found in each world, and its verified labels.
    """
    table = pa.concat_tables([labelled_signals(*world) for world in found], promote_options="default")
    table = table.sort_by([("world", "ascending"), ("sample_id", "ascending")])
    worlds = {findings.built.name: _provenance(findings) for findings, _ in found}
    facts = {"recipe": VERSION, "ilp_service": __version__, "worlds": worlds, "rows": _counts(table)}
    return table.replace_schema_metadata({PROVENANCE: json.dumps(facts, sort_keys=True).encode()})


def write_signals(table: pa.Table, path: Path) -> None:
    """Write the table in single precision, which halves it and changes no decision.

    Raises:
        StorageError: The file could not be written.
    """
    fields = [
        field.with_type(pa.float32() if pa.types.is_float64(field.type) else field.type) for field in table.schema
    ]
    write_table(table.cast(pa.schema(fields, table.schema.metadata)), path)


def _provenance(findings: Findings) -> Mapping[str, object]:
    built = findings.built
    return {"family": built.family, "seed": built.seed, "size": built.size, **built.facts}


def _counts(table: pa.Table) -> Mapping[str, int]:
    return dict(sorted(Counter(table["cause"].to_pylist()).items()))
