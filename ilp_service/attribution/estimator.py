"""The scikit-learn classifier itself: plain scikit-learn classes only, so that it loads anywhere in skops form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

TRUSTED_TYPES = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils._bunch.Bunch",
)
"""Types beyond skops's own list that the classifier is made of; all are numpy's and scikit-learn's."""

Splits = Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]


def boosted_trees(seed: int) -> HistGradientBoostingClassifier:
    """Small, regularised trees; a missing value is a branch of its own."""
    return HistGradientBoostingClassifier(
        max_iter=40,
        learning_rate=0.15,
        max_leaf_nodes=8,
        min_samples_leaf=20,
        l2_regularization=1.0,
        max_bins=63,
        # Half of the signals at each split: no single one may carry the verdict alone.
        max_features=0.5,
        early_stopping=False,
        random_state=seed,
    )


def linear_model(seed: int) -> object:
    """Logistic regression on signals clipped to the range that was seen, with a flag for each that is missing."""
    return make_pipeline(
        MinMaxScaler(clip=True),
        SimpleImputer(strategy="median", add_indicator=True),
        StandardScaler(),
        LogisticRegression(C=0.05, max_iter=200, random_state=seed),
    )


def calibrated_vote(splits: Splits, seed: int) -> CalibratedClassifierCV:
    """Both models' mean probability, with one temperature found on folds that leave whole worlds out."""
    vote = VotingClassifier([("trees", boosted_trees(seed)), ("linear", linear_model(seed))], voting="soft")
    return CalibratedClassifierCV(vote, method="temperature", cv=list(splits), ensemble=False)


def constant(label: str) -> DummyClassifier:
    """A classifier that always gives the same answer."""
    return DummyClassifier(strategy="constant", constant=label)
