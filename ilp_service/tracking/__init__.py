"""Every MLflow call of the project: the store, a run, the registry."""

from ilp_service.tracking.registry import ModelSource
from ilp_service.tracking.run import Run
from ilp_service.tracking.store import Tracking

__all__ = ["ModelSource", "Run", "Tracking"]
