"""The five built-in remedies, registered like anybody's plugin."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mitigations.conflict_bucketing import ConflictBucketing
from ilp_mitigations.corrective_cpt import CorrectiveCpt
from ilp_mitigations.epoch_increment import EpochIncrementing
from ilp_mitigations.knowledge_cpt import KnowledgeCpt
from ilp_mitigations.replay_resampling import ReplayResampling
from ilp_service.plugin import Mitigation, hookimpl

__all__ = [
    "ConflictBucketing",
    "CorrectiveCpt",
    "EpochIncrementing",
    "KnowledgeCpt",
    "ReplayResampling",
    "ilp_mitigations",
]


@hookimpl
def ilp_mitigations() -> Sequence[Mitigation]:
    """The remedies in the order of the causes that they are for."""
    return (KnowledgeCpt(), CorrectiveCpt(), ConflictBucketing(), ReplayResampling(), EpochIncrementing())
