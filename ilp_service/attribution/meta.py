"""The meta-classifier: one calibrated probability a cause from the signals of all causes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.attribution.augmentation import Array, Augmenter, Labels, cause_of
from ilp_service.attribution.plausibility import known_values, limits, plausible, sides_of
from ilp_service.attribution.rules import UNATTRIBUTED

if TYPE_CHECKING:
    import pandas as pd

    from ilp_service.attribution.outcomes import Outcomes

KEYS = ("world", "family", "sample_id", "cause")
"""Columns of the table of signals that are not signals."""

_FOLDS = 3
_MOST_ROWS = 6000
_MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class MetaClassifier:
    """A fitted classifier and the range of the signals that it was fitted on.

    Attributes:
        estimator: A scikit-learn classifier; the columns of ``predict_proba`` follow its ``classes_``, one of
            which is ``unattributed``.
        causes: The causes that it was trained on, in the order of the columns of :meth:`predict_proba`.
        features: The columns ``<cause>.<signal>`` that it looks at.
        low: Smallest value of every feature in training, less a twentieth of the range; shape ``(features,)``.
        high: Largest value, with the same margin; shape ``(features,)``.
        known: Quantiles of every feature among the known samples of its cause; shape ``(features, points)``.
        sides: Whether higher (+1) or lower (-1) values of a feature speak for its cause; shape ``(features,)``.
        most_weakness: How weak a cause's own evidence may be for it to be named; shape ``(causes,)``.
    """

    estimator: Any
    causes: tuple[str, ...]
    features: tuple[str, ...]
    low: Array
    high: Array
    known: Array
    sides: Array
    most_weakness: Array

    def frame(self, table: pa.Table) -> pd.DataFrame:
        """The features of an evidence table as the estimator wants them; NaN where absent or null."""
        import pandas as pd

        columns = {name: _floats(table, name) for name in self.features}
        return pd.DataFrame(columns, index=range(table.num_rows), dtype=np.float64)

    def strangeness(self, table: pa.Table) -> Array:
        """Share of each row's measured signals that lie outside all that training saw; shape ``(rows,)``, 0-1."""
        values = self.frame(table).to_numpy()
        outside = ((values < self.low) | (values > self.high)).sum(axis=1)
        measured = (~np.isnan(values)).sum(axis=1)
        return np.asarray(outside / np.maximum(measured, 1), dtype=np.float64)

    def predict_proba(self, table: pa.Table) -> Array:
        """Probability of every trained cause; what is missing to 1 in a row is *unattributed*.

        A row unlike the training rows keeps only ``(1 - strangeness)^2`` of its probabilities: a classifier is not to
        be sure about what it has never seen. A cause whose own evidence is weaker than in its known cases
        (:func:`~ilp_service.attribution.plausibility.weakness`) has probability 0.

        Args:
            table: Evidence; columns may be absent or null.

        Returns:
            Array of shape ``(rows, causes)``.
        """
        if not self.causes or not table.num_rows:
            return np.zeros((table.num_rows, len(self.causes)))
        found = np.asarray(self.estimator.predict_proba(self.frame(table)), dtype=np.float64)
        place = {name: column for column, name in enumerate(self.estimator.classes_)}
        chosen = found[:, [place[name] for name in self.causes]]
        rows = self.frame(table).to_numpy()
        fit = plausible(rows, self.features, self.causes, self.known, self.sides, self.most_weakness)
        return np.asarray(chosen * fit * (1 - self.strangeness(table))[:, None] ** 2, dtype=np.float64)


def train_meta(table: pa.Table, seed: int = 0, outcomes: Outcomes | None = None) -> MetaClassifier:
    """Fit the classifier on labelled evidence.

    Outcomes of interventions are repeated by their weight among the rows of their cause, and are left out of the
    calibration: they are those samples that a remedy could mend, easier to tell than what a diagnosis meets.

    Args:
        table: Columns ``world, family, sample_id, cause`` and ``<cause>.<signal>``; ``cause`` is the known one, or
            ``unattributed``; rows without one are left out. The order of rows does not matter. A signal whose field
            has no ``direction`` in its metadata is not judged for weakness.
        seed: Of every random draw.
        outcomes: Rows of the user's own interventions; without any of a known cause nothing changes, to the last bit.

    Raises:
        ValueError: A column is missing, a label has no signals, or there are fewer than two causes or two worlds.
    """
    from sklearn.model_selection import GroupKFold

    from ilp_service.attribution.estimator import calibrated_vote

    rng = np.random.default_rng(seed)
    table = _ordered(table)
    planted = np.unique(_worlds(table))
    table = _balanced(table, rng, outcomes)
    labels = np.asarray(table["cause"].to_pylist(), dtype=np.str_)
    worlds = _worlds(table)
    causes = _causes(table, labels)
    features = _features(table, causes)
    rows = np.stack([_floats(table, name) for name in features], axis=1)
    sides = sides_of(table.schema, features)
    low, high = np.nanmin(rows, axis=0), np.nanmax(rows, axis=0)
    margin = _MARGIN * (high - low)
    training = Augmenter(features, rng).apply(rows, labels, worlds)
    folds = GroupKFold(min(_FOLDS, len(np.unique(worlds))))
    estimator = calibrated_vote(list(folds.split(training.rows, training.labels, training.worlds)), seed)
    meta = MetaClassifier(
        estimator,
        causes,
        features,
        low - margin,
        high + margin,
        known_values(rows, labels, features),
        sides,
        limits(rows, labels, worlds, features, causes, sides),
    )
    with warnings.catch_warnings():
        # What scikit-learn says is what is wanted: the weights are for the calibration alone.
        warnings.filterwarnings("ignore", message=".*sample weights will only be used for the calibration")
        calibrating = training.calibrating * np.isin(training.worlds, planted)
        estimator.fit(_named(training.rows, features), training.labels, sample_weight=calibrating)
    # The folds are row numbers of this training table, of no use to whoever loads the classifier.
    estimator.set_params(cv=None)
    return meta


def untrained_meta() -> MetaClassifier:
    """A classifier of no cause: every sample is *unattributed*, so that the causes' own rules stand in."""
    from ilp_service.attribution.estimator import constant

    features = ("none",)
    estimator = constant(UNATTRIBUTED).fit(_named(np.zeros((1, 1)), features), [UNATTRIBUTED])
    nothing = np.zeros(1)
    return MetaClassifier(estimator, (), features, nothing, nothing, np.zeros((1, 1)), nothing, np.zeros(0))


def _floats(table: pa.Table, name: str) -> Array:
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    values = table[name].combine_chunks().cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(values), values, np.nan)


def _named(rows: Array, features: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(features))


def _ordered(table: pa.Table) -> pa.Table:
    missing = [name for name in KEYS if name not in table.column_names]
    if missing:
        raise ValueError(f"the table of signals has no column {missing[0]!r}; expected {', '.join(KEYS)} and signals")
    table = table.filter(table["cause"].is_valid())
    return table.sort_by([(name, "ascending") for name in ("family", "world", "sample_id")])


def _worlds(table: pa.Table) -> Labels:
    pairs = zip(table["family"].to_pylist(), table["world"].to_pylist(), strict=True)
    worlds = np.asarray([f"{family}/{world}" for family, world in pairs], dtype=np.str_)
    if len(np.unique(worlds)) < 2:
        raise ValueError("calibration leaves whole worlds out, so the table of signals needs at least two worlds")
    return worlds


def _balanced(table: pa.Table, rng: np.random.Generator, outcomes: Outcomes | None) -> pa.Table:
    """Equally many rows of every label, and no more in all than are trained on in seconds.

    How often a cause was planted says nothing about how often it occurs. Rows are repeated rather than weighted:
    each repetition is masked in its own way, and scikit-learn bins weighted rows ten times slower.
    """
    pool = np.arange(table.num_rows)
    if outcomes is not None:
        own = _ordered(outcomes.usable(table))
        pool = np.concatenate([pool, table.num_rows + _counted(own, table, outcomes.weight, rng)])
        table = pa.concat_tables([table, own])
    labels = np.asarray(table["cause"].to_pylist(), dtype=np.str_)[pool]
    names = np.unique(labels)
    each = -(-min(len(pool), _MOST_ROWS) // max(len(names), 1))
    places = [_draw(pool[labels == name], each, rng) for name in names]
    return table.take(pa.array(np.sort(np.concatenate(places)) if places else np.zeros(0, dtype=np.int64)))


def _counted(own: pa.Table, table: pa.Table, weight: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows of the outcomes, each as often as its weight, but no more of a cause than the table has.

    Else thousands of outcomes would leave next to nothing of the table, on which alone the calibration stands.
    """
    labels = np.asarray(own["cause"].to_pylist(), dtype=np.str_)
    known = np.asarray(table["cause"].to_pylist(), dtype=np.str_)
    drawn = [np.zeros(0, dtype=np.int64)]
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        drawn.append(_draw(rows, min(round(weight * len(rows)), int((known == name).sum())), rng))
    return np.concatenate(drawn)


def _draw(rows: npt.NDArray[np.int64], count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """So many of the rows, each as often as any other but for one time."""
    whole, rest = divmod(count, len(rows))
    return np.concatenate([np.tile(rows, whole), rng.choice(rows, size=rest, replace=False)])


def _causes(table: pa.Table, labels: Labels) -> tuple[str, ...]:
    """The labelled causes, in the order of their columns."""
    have = dict.fromkeys(cause_of(name) for name in table.column_names if name not in KEYS)
    strange = sorted(set(labels.tolist()) - set(have) - {UNATTRIBUTED})
    if strange:
        raise ValueError(f"the table of signals names the cause {strange[0]!r} but has no signal of it")
    causes = tuple(name for name in have if name in labels)
    if len(causes) < 2:
        raise ValueError(f"the table of signals labels {len(causes)} causes, expected at least two")
    return causes


def _features(table: pa.Table, causes: Sequence[str]) -> tuple[str, ...]:
    """The number signals of the labelled causes that are not the same everywhere.

    A cause without labels is not looked at: within the worlds its signals could only be a mark of something else.
    """
    names = []
    for field in table.schema:
        numeric = pa.types.is_floating(field.type) or pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
        if field.name in KEYS or not numeric or cause_of(field.name) not in causes:
            continue
        values = _floats(table, field.name)
        known = values[~np.isnan(values)]
        if known.size and known.min() < known.max():
            names.append(field.name)
    return tuple(names)
