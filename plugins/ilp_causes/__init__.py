"""The six built-in causes of incomplete learning, registered like anybody's plugin."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_causes.data_inconsistency import DataInconsistency
from ilp_causes.insufficient_optimization import InsufficientOptimization
from ilp_causes.left_side_forgetting import LeftSideForgetting
from ilp_causes.missing_knowledge import MissingKnowledge
from ilp_causes.pretraining_conflict import PretrainingConflict
from ilp_causes.training_pipeline import TrainingPipeline
from ilp_service.plugin import Cause, hookimpl

__all__ = [
    "DataInconsistency",
    "InsufficientOptimization",
    "LeftSideForgetting",
    "MissingKnowledge",
    "PretrainingConflict",
    "TrainingPipeline",
    "ilp_causes",
]


@hookimpl
def ilp_causes() -> Sequence[Cause]:
    """The causes in the paper's order, after the one to rule out first."""
    return (
        TrainingPipeline(),
        MissingKnowledge(),
        PretrainingConflict(),
        DataInconsistency(),
        LeftSideForgetting(),
        InsufficientOptimization(),
    )
