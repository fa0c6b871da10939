"""Outcomes of an experiment as labelled signals, from which a classifier of one's own can learn.

The benchmark's table knows what was planted; a user's samples have no plant, but one whose remedy makes it learned
while no placebo does has a label of the same standing. Both tables are kept apart
(:mod:`ilp_service.attribution.outcomes` reads this one).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ilp_service import __version__
from ilp_service.attribution.outcomes import FAMILY, PROVENANCE
from ilp_service.intervention.verdicts import SampleVerdict


def outcomes_of(verdicts: Sequence[SampleVerdict], evidence: pa.Table, *, model: str, run_id: str) -> pa.Table:
    """The signals of every sample of which exactly one cause was proved.

    Args:
        verdicts: What the experiment proved.
        evidence: ``sample_id`` and ``<cause>.<signal>`` of the diagnosed model's unlearned samples.
        model: The diagnosed model with its version, ``models:/name/3``.
        run_id: Run of the diagnosis.

    Returns:
        ``world`` (the model), ``family`` (``user``), ``sample_id, cause, attributed, seeds, arms, run_id`` and the
        number signals as float64 with their metadata, by id; the table's metadata tell where they are from.
    """
    proved = {one.sample_id: one for one in verdicts if one.verdict == "proved"}
    ids = evidence["sample_id"].to_pylist()
    wanted = sorted(place for place, key in enumerate(ids) if key in proved)
    table = evidence.take(pa.array(wanted, pa.int64())).sort_by("sample_id")
    rows = [proved[key] for key in table["sample_id"].to_pylist()]
    count = len(rows)
    made = pa.table(
        [
            pa.array([model] * count, pa.string()),
            pa.array([FAMILY] * count, pa.string()),
            pa.array([one.sample_id for one in rows], pa.string()),
            pa.array([one.proved[0] for one in rows], pa.string()),
            pa.array([one.attributed for one in rows], pa.string()),
            pa.array([one.seeds for one in rows], pa.int64()),
            pa.array([sorted(one.recovered_by) for one in rows], pa.list_(pa.string())),
            pa.array([run_id] * count, pa.string()),
        ],
        schema=_keys(),
    )
    for field in table.schema:
        if "." in field.name and not pa.types.is_string(field.type):
            values = pc.cast(table[field.name], pa.float64())
            made = made.append_column(field.with_type(pa.float64()).with_nullable(True), values)
    facts = {
        "model": model,
        "run_id": run_id,
        "ilp_service": __version__,
        "rows": dict(sorted(Counter(one.proved[0] for one in rows).items())),
        "confirmed": sum(one.confirmed is True for one in rows),
    }
    return made.replace_schema_metadata({PROVENANCE: json.dumps(facts, sort_keys=True).encode()})


def _keys() -> pa.Schema:
    def field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
        return pa.field(name, kind, metadata={"unit": "", "direction": "", "meaning": meaning})

    return pa.schema(
        [
            field("world", pa.string(), "the diagnosed model and its version"),
            field("family", pa.string(), "'user': the row is of no planted world"),
            field("sample_id", pa.string(), "the sample"),
            field("cause", pa.string(), "the one cause whose remedy recovers it while no placebo does"),
            field("attributed", pa.string(), "cause that the diagnosis gave it, or unattributed"),
            field("seeds", pa.int64(), "fewest seeds of a remedy that proves the cause"),
            field("arms", pa.list_(pa.string()), "arms that make it learned under some seed"),
            field("run_id", pa.string(), "run of the diagnosis"),
        ]
    )
