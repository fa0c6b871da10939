"""The classifier that comes with the package: loaded as it was fitted, or fitted anew where it would be another."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import version
from importlib.resources import as_file, files

import pyarrow.parquet as pq

from ilp_service.attribution.meta import MetaClassifier, train_meta, untrained_meta
from ilp_service.attribution.stored import ESTIMATOR, FACTS, StoredClassifier, read_facts, restored
from ilp_service.errors import IlpWarning, SourceUnreadableError
from ilp_service.samples.reading import file_digest

SIGNALS = files("ilp_service.attribution").joinpath("signals.parquet")
"""The table of signals that comes with the package."""

FITTED = files("ilp_service.attribution").joinpath("builtin")
"""What was fitted on it, in the form of a registered classifier."""

SEED = 0
"""Of the fitting."""

_LIBRARY = "scikit-learn"


@cache
def signals_digest() -> str | None:
    """SHA-256 of the built-in table of signals; ``None`` where there is none."""
    with as_file(SIGNALS) as path:
        return file_digest(path) if path.is_file() else None


@cache
def builtin_meta() -> MetaClassifier:
    """The classifier fitted on the table of signals that comes with the package.

    It is loaded in half a second. Fitting takes ten, and is done where what was fitted is not to be had
    (:func:`shipped`). Without the table the rules stand in, with a warning.
    """
    if signals_digest() is None:
        warnings.warn(
            "the table of signals (ilp_service/attribution/signals.parquet) is not there, so no classifier could be "
            "trained; every cause's own rule stands in",
            IlpWarning,
            stacklevel=2,
        )
        return untrained_meta()
    stored = shipped()
    if stored is not None:
        return stored.meta
    with as_file(SIGNALS) as path:
        return train_meta(pq.read_table(path), SEED)


def shipped() -> StoredClassifier | None:
    """What was fitted before; ``None`` where it was fitted on another table or by another scikit-learn than is here.

    The same where the files are not there, are damaged, or give other probabilities than when they were written.
    """
    try:
        text = FITTED.joinpath(FACTS).read_bytes()
        facts = read_facts(text)
        same = facts["signals"].get("digest") == signals_digest()
        if not same or facts["libraries"].get(_LIBRARY) != version(_LIBRARY):
            return None
        return restored(text, FITTED.joinpath(ESTIMATOR).read_bytes())
    except (OSError, SourceUnreadableError):
        return None
