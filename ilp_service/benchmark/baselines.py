"""Verdicts by rules instead of a classifier: the paper's taken literally, and the same ideas repaired by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.benchmark.handed_in import PREDICTIONS
from ilp_service.benchmark.plants import CONFLICT, FORGOTTEN, INCONSISTENT, INSUFFICIENT, MISSING, PIPELINE

Array = npt.NDArray[np.float64]

_HALF = 0.5
_FIRM = 0.8
"""Probability from which the base holds a wrong answer firmly; at a half, a guess between two is a conviction."""
_GUESS = 0.2
"""The paper's T: an answer given in less than one of five runs is not one that is held."""
_WORSE = 0.1
"""Nats per token by which the loss rose after the last exposure, and probability per token that was lost."""


def predictions_of(world: str, attributions: pa.Table) -> pa.Table:
    """The attributions of a world as predictions, with every probability."""
    chances = [name for name in attributions.column_names if name.startswith("p_")]
    names = pa.array([world] * attributions.num_rows, pa.string())
    return attributions.select(["sample_id", "cause", "confidence", *chances]).add_column(
        0, PREDICTIONS.field(0), names
    )


def certain(world: str, keys: list[str], causes: list[str]) -> pa.Table:
    """Predictions of a method that has no probabilities: confidence 1 in whatever it says."""
    rows = len(keys)
    return pa.table([[world] * rows, keys, causes, [1.0] * rows], schema=PREDICTIONS)


def paper_rules(world: str, attributions: pa.Table) -> pa.Table:
    """The paper's tests, literally and in its order (arXiv 2604.10079, section 4)."""
    return certain(world, attributions["sample_id"].to_pylist(), attributions["rule_cause"].to_pylist())


def repaired_rules(world: str, evidence: pa.Table) -> pa.Table:
    """The paper's ideas in an order and with thresholds that work, on the same evidence as the classifier.

    The first that holds: a fault of the pipeline touches half of the sample; contradicting twins outvote it; the base
    firmly completes the statement otherwise; it got worse after its last exposure; it was shown half as often as the
    median sample or less; the base guesses when it completes the statement. What is left is too little training.
    Without a statement the sample's own prompt stands in. The base's guess comes late, because it guesses about
    whatever fine-tuning brought in, forgotten and rare things included.
    """
    right = _first_known(evidence, "missing_knowledge.cloze_right", "missing_knowledge.zero_shot_right")
    wrong = _first_known(evidence, "pretraining_conflict.cloze_wrong", "pretraining_conflict.zero_shot_wrong")
    worse = (_number(evidence, "left_side_forgetting.rise_after_last_exposure") > _WORSE) & (
        _number(evidence, "left_side_forgetting.peak_drop") > _WORSE
    )
    tests = (
        (PIPELINE, _number(evidence, "training_pipeline.fault") >= _HALF),
        (INCONSISTENT, _number(evidence, "data_inconsistency.outvoted") == 1),
        (CONFLICT, (wrong > _FIRM) & (right < _GUESS)),
        (FORGOTTEN, worse),
        (INSUFFICIENT, _number(evidence, "insufficient_optimization.exposures_ratio") <= _HALF),
        (MISSING, right < _GUESS),
    )
    named = np.full(evidence.num_rows, INSUFFICIENT, dtype=object)
    for cause, holds in reversed(tests):
        named[holds] = cause
    return certain(world, evidence["sample_id"].to_pylist(), [str(name) for name in named])


def _number(evidence: pa.Table, name: str) -> Array:
    """One signal, NaN where it was not measured; a comparison with NaN holds never."""
    return np.asarray(evidence[name].combine_chunks().cast(pa.float64()).to_numpy(zero_copy_only=False))


def _first_known(evidence: pa.Table, first: str, second: str) -> Array:
    values = _number(evidence, first)
    return np.where(np.isnan(values), _number(evidence, second), values)
