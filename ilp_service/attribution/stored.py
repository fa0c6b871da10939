"""A fitted classifier as files: the estimator in skops form, everything else as JSON; restored exactly or refused."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ilp_service import __version__
from ilp_service.attribution.estimator import TRUSTED_TYPES
from ilp_service.attribution.meta import MetaClassifier
from ilp_service.attribution.rules import UNATTRIBUTED
from ilp_service.errors import SourceUnreadableError

if TYPE_CHECKING:
    from ilp_service.attribution.augmentation import Array

FORMAT = 1
"""Raised whenever an older reader would misunderstand the JSON."""

FACTS = "classifier.json"
CARD = "card.md"
ESTIMATOR = "model.skops"
EXTRA = "extra_files"
"""Where MLflow puts files that go with a model, below the model's folder."""

_PARTS = ("classifier", "check", "signals", "libraries")
_LIBRARIES = ("scikit-learn", "skops", "numpy")
_SHARES = (-0.2, 0.0, 0.25, 0.5, 0.75, 1.0)
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class SignalsFacts:
    """The table that a classifier was trained from.

    Attributes:
        digest: SHA-256 of the file's bytes, hexadecimal.
        rows: Labelled rows.
        provenance: What the table's own metadata say: recipe, worlds, rows a cause.
    """

    digest: str
    rows: int
    provenance: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredClassifier:
    """A classifier that was restored from files.

    Attributes:
        meta: The classifier.
        facts: The JSON beside it: versions, seed, signals.
        digest: SHA-256 of both files, hexadecimal.
    """

    meta: MetaClassifier
    facts: Mapping[str, Any]
    digest: str


def facts_of(
    meta: MetaClassifier, signals: SignalsFacts, seed: int, outcomes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All that the skops file does not hold, ready for JSON; ``outcomes`` only where there are any.

    ``check`` holds the classifier's answers to fixed rows, so that one that would answer otherwise after loading
    (another release of scikit-learn, a file that was changed) is noticed.
    """
    parts = {field.name: getattr(meta, field.name) for field in fields(meta) if field.name != "estimator"}
    return {
        "format": FORMAT,
        "ilp_service": __version__,
        "libraries": {name: version(name) for name in _LIBRARIES},
        "seed": seed,
        "signals": {"digest": signals.digest, "rows": signals.rows, "provenance": dict(signals.provenance)},
        **({"outcomes": dict(outcomes)} if outcomes else {}),
        "classifier": {name: _encoded(name, value) for name, value in parts.items()},
        "check": _encoded("check", _answers(meta)),
    }


def restore(folder: Path, trusted: Sequence[str] = TRUSTED_TYPES) -> StoredClassifier:
    """Load a classifier from the folder of its MLflow model; nothing but skops is ever read, and no other type.

    MLflow's own loader trusts whatever types the model's description lists, so it is not used.

    Args:
        folder: Holds ``model.skops`` and ``extra_files/classifier.json``.
        trusted: Full names of the types beyond skops's own that may be made.

    Raises:
        SourceUnreadableError: A file is missing or damaged, holds other types or other fields, or the classifier
            gives other probabilities than when it was saved.
    """
    try:
        text = (folder / EXTRA / FACTS).read_bytes()
        weights = (folder / ESTIMATOR).read_bytes()
    except OSError as error:
        raise SourceUnreadableError(
            f"{error.filename} cannot be read ({error.strerror}); expected a model that 'ilp classifier register' made."
        ) from error
    return restored(text, weights, trusted)


def restored(text: bytes, weights: bytes, trusted: Sequence[str] = TRUSTED_TYPES) -> StoredClassifier:
    """A classifier from what its two files hold.

    Args:
        text: Of ``classifier.json``.
        weights: Of ``model.skops``.
        trusted: Full names of the types beyond skops's own that may be made.

    Raises:
        SourceUnreadableError: As :func:`restore`.
    """
    facts = read_facts(text)
    meta = _assembled(_estimator(weights, trusted), facts)
    _check(meta, facts)
    return StoredClassifier(meta, facts, hashlib.sha256(text + weights).hexdigest())


def middle(meta: MetaClassifier) -> pa.Table:
    """One row in the middle of all that training saw; shows the estimator's columns."""
    return _rows(meta, (0.5,))


def _rows(meta: MetaClassifier, shares: Sequence[float]) -> pa.Table:
    """Rows at these shares of the range of every feature, those below 0 and above 1 outside of it."""
    low, high = np.asarray(meta.low, np.float64), np.asarray(meta.high, np.float64)
    with np.errstate(invalid="ignore"):
        values = [low + (high - low) * share for share in shares]
    return pa.table({name: [row[i] for row in values] for i, name in enumerate(meta.features)})


def _answers(meta: MetaClassifier) -> Array:
    """For fixed rows, in and out of range and one of which nothing is known: the estimator's and our probabilities.

    Both, because what is made of the estimator's may be zero wherever a row is unlike the training rows.
    """
    tables = (_rows(meta, _SHARES), pa.table({"sample_id": [""]}))
    return np.concatenate(
        [
            np.column_stack(
                [meta.estimator.predict_proba(meta.frame(table)), meta.strangeness(table), meta.predict_proba(table)]
            )
            for table in tables
        ]
    )


def _check(meta: MetaClassifier, facts: Mapping[str, Any]) -> None:
    try:
        expected = np.asarray(_decoded(facts["check"]), dtype=np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _answers(meta)
    # Whatever an estimator that does not fit its description raises.
    except Exception as error:
        raise SourceUnreadableError(f"Its estimator cannot be asked: {_first_line(error)}") from error
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=_TOLERANCE, equal_nan=True):
        saved = ", ".join(f"{name} {value}" for name, value in facts.get("libraries", {}).items())
        here = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
        raise SourceUnreadableError(
            f"It gives other probabilities than when it was saved (with {saved}; here {here}); register it anew with "
            "'ilp classifier register'."
        )


def _estimator(data: bytes, trusted: Sequence[str]) -> Any:  # noqa: ANN401 - scikit-learn has no types
    import skops.io

    try:
        strange = sorted(set(skops.io.get_untrusted_types(data=data)) - set(trusted))
        if strange:
            raise SourceUnreadableError(
                f"{ESTIMATOR} holds types that are not trusted: {', '.join(strange[:3])}; it was not loaded."
            )
        with warnings.catch_warnings():
            # Another release of scikit-learn is told by the check of the probabilities, where it matters.
            warnings.simplefilter("ignore")
            return skops.io.loads(data, trusted=list(trusted))
    except SourceUnreadableError:
        raise
    # A damaged file may raise anything: a bad archive, bad JSON, a constructor.
    except Exception as error:
        raise SourceUnreadableError(f"{ESTIMATOR} cannot be loaded: {_first_line(error)}") from error


def read_facts(text: bytes) -> dict[str, Any]:
    """What ``classifier.json`` says.

    Raises:
        SourceUnreadableError: It is of another form, or incomplete.
    """
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceUnreadableError(f"{FACTS} is no JSON: {_first_line(error)}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
        raise SourceUnreadableError(f"{FACTS} has format {found!r}, this version reads {FORMAT}; register it anew.")
    wrong = [name for name in _PARTS if not isinstance(facts.get(name), dict)]
    if wrong or not isinstance(facts["signals"].get("provenance"), dict):
        raise SourceUnreadableError(
            f"{FACTS} has no {(*wrong, 'provenance')[0]!r} that is an object; register it anew."
        )
    return facts


def _assembled(estimator: Any, facts: Mapping[str, Any]) -> MetaClassifier:  # noqa: ANN401 - scikit-learn has no types
    wanted = {field.name for field in fields(MetaClassifier)} - {"estimator"}
    found = facts["classifier"]
    if set(found) != wanted:
        raise SourceUnreadableError(
            f"{FACTS} describes a classifier of another version of ilp ({facts.get('ilp_service')}, here "
            f"{__version__}); register it anew with 'ilp classifier register'."
        )
    try:
        meta = MetaClassifier(estimator=estimator, **{name: _decoded(value) for name, value in found.items()})
        count = len(meta.features)
        fits = np.shape(meta.low) == np.shape(meta.high) == (count,)
        fits = fits and set(meta.causes) <= set(map(str, estimator.classes_)) <= {*meta.causes, UNATTRIBUTED}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SourceUnreadableError(f"{FACTS} cannot be understood: {_first_line(error)}") from error
    if not fits:
        raise SourceUnreadableError(f"{FACTS} and {ESTIMATOR} do not belong together: other causes or ranges.")
    return meta


def _encoded(name: str, value: object) -> Any:  # noqa: ANN401 - any JSON
    """Plain JSON that gives the same value back, bit for bit; Python writes floats so that they read back exactly."""
    if isinstance(value, np.ndarray):
        flat = [_encoded(name, item) for item in value.ravel().tolist()]
        return {"array": flat, "shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, Mapping):
        return {"mapping": {str(key): _encoded(name, item) for key, item in value.items()}}
    if isinstance(value, tuple | list):
        return [_encoded(name, item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"the part {name!r} of the classifier is of type {type(value).__name__}, which is not stored")


def _decoded(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, list):
        return tuple(_decoded(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "mapping" in value:
        return {key: _decoded(item) for key, item in value["mapping"].items()}
    return np.array([_decoded(item) for item in value["array"]], dtype=value["dtype"]).reshape(value["shape"])


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200].rstrip('.')}."
