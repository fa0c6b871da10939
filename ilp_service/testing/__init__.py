"""For plugin authors: studies to try a cause on, and the check that every cause has to pass."""

from ilp_service.testing.conformance import check_cause
from ilp_service.testing.studies import StudyBuilder, fake_study, ready_studies

__all__ = ["StudyBuilder", "check_cause", "fake_study", "ready_studies"]
