"""The classifier as people find it in a run: through the real MLflow store, in skops form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skops.io

from ilp_service.attribution.estimator import TRUSTED_TYPES
from ilp_service.attribution.meta import MetaClassifier, untrained_meta
from ilp_service.tracking.store import Tracking
from tests.attribution.tables import CAUSES, evidence_rows


def test_it_loads_back_with_the_same_probabilities(meta: MetaClassifier, workplace: Path) -> None:
    import mlflow

    rows = meta.frame(evidence_rows([CAUSES[0], CAUSES[3]]))
    with Tracking().run("diagnose", {}) as run:
        uri = run.log_sklearn(meta.estimator, "meta_classifier", rows, TRUSTED_TYPES)
    expected = meta.estimator.predict_proba(rows)
    loaded = mlflow.sklearn.load_model(uri)
    np.testing.assert_allclose(loaded.predict_proba(rows), expected, atol=1e-12)
    assert "unattributed" in loaded.classes_
    np.testing.assert_allclose(mlflow.pyfunc.load_model(uri).predict(rows), expected, atol=1e-12)


def test_it_holds_no_type_beyond_the_listed_ones(meta: MetaClassifier) -> None:
    for estimator in (meta.estimator, untrained_meta().estimator):
        untrusted = skops.io.get_untrusted_types(data=skops.io.dumps(estimator))
        assert set(untrusted) <= set(TRUSTED_TYPES)
        assert all(name.startswith(("sklearn.", "numpy.")) for name in untrusted)
