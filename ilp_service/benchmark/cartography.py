"""A baseline that sees the training record alone: forgetting events and data maps.

Toneva et al. (2019, arXiv 1812.05159) count how often a sample goes from right to wrong while training; Swayamdipta
et al. (2020, arXiv 2009.10795) place it by mean and spread of its confidence and the share of points at which it is
right. A random forest learns the causes from these five figures on the training worlds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.benchmark.handed_in import PREDICTIONS
from ilp_service.benchmark.signals import Findings, labelled_signals

Array = npt.NDArray[np.float64]

FEATURES = ("forgetting_events", "first_learned", "mean_confidence", "variability", "correctness")
_CORRECT = 0.5
_TREES = 300


@dataclass(frozen=True, slots=True)
class Cartographer:
    """A fitted forest."""

    forest: Any

    def predict(self, findings: Findings) -> pa.Table:
        """A cause for every unlearned sample; it never abstains."""
        keys = findings.evidence.table["sample_id"].to_pylist()
        rows = dynamics(findings.study.trajectory, keys)
        names = [str(name) for name in self.forest.classes_]
        chances = self.forest.predict_proba(rows) if len(keys) else np.zeros((0, len(names)))
        table = pa.table(
            [
                [findings.built.name] * len(keys),
                keys,
                [names[column] for column in chances.argmax(axis=1)],
                chances.max(axis=1, initial=0.0),
            ],
            schema=PREDICTIONS,
        )
        for column, name in enumerate(names):
            table = table.append_column(f"p_{name}", pa.array(chances[:, column]))
        return table


def train_cartographer(found: Sequence[tuple[Findings, pa.Table]], seed: int = 0) -> Cartographer:
    """Fit the forest on the verified samples of the training worlds, every cause weighing the same."""
    from sklearn.ensemble import RandomForestClassifier

    rows, causes = [], []
    for findings, labels in found:
        held = labelled_signals(findings, labels)
        rows.append(dynamics(findings.study.trajectory, held["sample_id"].to_pylist()))
        causes += held["cause"].to_pylist()
    forest = RandomForestClassifier(
        n_estimators=_TREES, min_samples_leaf=5, class_weight="balanced", random_state=seed, n_jobs=1
    )
    return Cartographer(forest.fit(np.concatenate(rows), causes))


def dynamics(trajectory: pa.Table | None, keys: Sequence[str]) -> Array:
    """The figures of :data:`FEATURES` of some samples; shape ``(samples, 5)``, NaN for one that was not recorded.

    Confidence at a point of the record is the pass rate, or the probability per token where none was recorded; a
    sample is right from a half on. ``first_learned`` is a share of training, 2 for one that never was.
    """
    result = np.full((len(keys), len(FEATURES)), np.nan)
    if trajectory is None:
        return result
    runs: dict[str, list[tuple[int, float]]] = {key: [] for key in keys}
    columns = (trajectory[name].to_pylist() for name in ("sample_id", "step", "loss", "p_correct"))
    end = 1
    for key, step, loss, p in zip(*columns, strict=True):
        end = max(end, step)
        if key in runs and (p is not None or loss is not None):
            runs[key].append((step, p if p is not None else float(np.exp(-max(loss, 0.0)))))
    for row, key in enumerate(keys):
        if runs[key]:
            points = np.array(sorted(runs[key]))
            result[row] = _summary(points[:, 0] / end, points[:, 1])
    return result


def _summary(when: Array, confidence: Array) -> tuple[float, ...]:
    right = confidence >= _CORRECT
    return (
        float((right[:-1] & ~right[1:]).sum()),
        float(when[right.argmax()]) if right.any() else 2.0,
        float(confidence.mean()),
        float(confidence.std()),
        float(right.mean()),
    )
