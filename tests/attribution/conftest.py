"""One classifier for all tests: fitting takes a second."""

from __future__ import annotations

import pytest

from ilp_service.attribution.meta import MetaClassifier, train_meta
from tests.attribution.tables import signals_table


@pytest.fixture(scope="session")
def meta() -> MetaClassifier:
    return train_meta(signals_table())
