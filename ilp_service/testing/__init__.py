"""For plugin authors: studies to try a plugin on, and the checks that every cause, source and judge has to pass."""

from ilp_service.testing.conformance import check_cause
from ilp_service.testing.knowledge import check_judge, check_source
from ilp_service.testing.studies import StudyBuilder, fake_study, ready_studies

__all__ = ["StudyBuilder", "check_cause", "check_judge", "check_source", "fake_study", "ready_studies"]
