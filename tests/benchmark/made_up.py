"""Small made-up labels and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from ilp_service.benchmark.metrics import Verdicts
from ilp_service.benchmark.plants import CAUSES

WORLDS = ("a-small-1", "b-small-2", "c-small-3", "d-small-4")


def verdicts(
    truth: Sequence[Sequence[str]], named: Sequence[str], confidence: Sequence[float] | None = None
) -> Verdicts:
    """Verdicts of samples ``s000``, ``s001`` … of one world."""
    return Verdicts(
        tuple(("w", f"s{row:03}") for row in range(len(truth))),
        tuple(tuple(causes) for causes in truth),
        tuple(named),
        tuple(None if name == "unattributed" else name for name in named),
        np.array(confidence if confidence is not None else [1.0] * len(truth), dtype=np.float64),
    )


def label(world: str, key: str, causes: Sequence[str], **other: object) -> Mapping[str, object]:
    """One row of the labels."""
    planted = other.pop("planted", causes[0] if causes else None)
    return {
        "world": world,
        "family": world.partition("-")[0],
        "sample_id": key,
        "origin": "planted",
        "planted": planted,
        "kind": "",
        "block": 0,
        "unlearned": True,
        "causes": list(causes),
        "verdict": ("unverified", "verified", "two_causes")[min(len(causes), 2)],
        "reason": None if causes else "not recovered",
        **other,
    }


def labels(each: int = 4, worlds: Sequence[str] = WORLDS) -> pa.Table:
    """So many verified samples of every cause in every world."""
    return pa.Table.from_pylist(
        [label(world, f"{cause}-{i}", [cause]) for world in worlds for cause in CAUSES for i in range(each)]
    )


def predictions(table: pa.Table, named: Mapping[tuple[str, str], str] | None = None) -> pa.Table:
    """The truth as a prediction, but for what ``named`` says."""
    rows = [
        {
            "world": row["world"],
            "sample_id": row["sample_id"],
            "cause": (named or {}).get((row["world"], row["sample_id"]), (row["causes"] or ["unattributed"])[0]),
            "confidence": 1.0,
        }
        for row in table.to_pylist()
    ]
    return pa.Table.from_pylist(rows)
