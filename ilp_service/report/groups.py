"""The groups of unexplained samples as the report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from ilp_service.plugin import Sample

MOST_GROUPS = 8
"""Groups that are written out; the table has all."""

_SPEAKS = {"+": "higher speaks for", "-": "higher speaks against"}


@dataclass(frozen=True, slots=True)
class SignalFigure:
    """One signal that sets a group apart; ``speaks`` says what a higher value means for which cause."""

    name: str
    meaning: str
    unit: str
    speaks: str
    group: float
    others: float


@dataclass(frozen=True, slots=True)
class GroupFigure:
    """One group; ``phrases`` and ``subsets`` are the table's structures, ``examples`` have prompt and response."""

    number: int
    size: int
    share: float
    cohesion: float
    by_chance: float
    signals: Sequence[SignalFigure]
    phrases: Sequence[Mapping[str, Any]]
    subsets: Sequence[Mapping[str, Any]]
    examples: Sequence[Mapping[str, str]]


def group_figures(candidates: pa.Table, samples: Sequence[Sample]) -> list[GroupFigure]:
    """The largest groups of ``candidate_causes.parquet``."""
    rows = candidates.slice(0, MOST_GROUPS).to_pylist()
    wanted = {key for row in rows for key in row["examples"]}
    texts = {s.sample_id: {"prompt": s.prompt, "response": s.response} for s in samples if s.sample_id in wanted}
    return [
        GroupFigure(
            row["group"],
            row["size"],
            row["share"],
            row["cohesion"],
            row["cohesion_by_chance"],
            [_signal(signal) for signal in row["signals"]],
            row["phrases"],
            row["subsets"],
            [texts[key] for key in row["examples"] if key in texts],
        )
        for row in rows
    ]


def _signal(signal: Mapping[str, Any]) -> SignalFigure:
    cause, _, name = signal["signal"].partition(".")
    speaks = _SPEAKS.get(signal["direction"])
    return SignalFigure(
        name.replace("_", " "),
        signal["meaning"],
        signal["unit"],
        f"{speaks} {cause.replace('_', ' ')}" if speaks else "",
        signal["group"],
        signal["others"],
    )
