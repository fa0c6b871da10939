"""For plugin authors: studies and cases to try a plugin on, and the checks that every plugin has to pass."""

from ilp_service.testing.conformance import check_cause
from ilp_service.testing.knowledge import check_judge, check_source
from ilp_service.testing.remedies import ScriptedConsult, check_mitigation, make_case
from ilp_service.testing.studies import StudyBuilder, fake_study, ready_studies

__all__ = [
    "ScriptedConsult",
    "StudyBuilder",
    "check_cause",
    "check_judge",
    "check_mitigation",
    "check_source",
    "fake_study",
    "make_case",
    "ready_studies",
]
