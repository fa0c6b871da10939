"""Retention: what is learned is shown more often too, so that what others are taught does not crowd it out.

Teaching some samples costs others: in planted worlds about half of the rows that a prescription left unlearned had been
safe before. They were seen no less often, but among several times as many appearances of others. Continual
learning mends that by rehearsal of what was learned (Robins 1995, "Catastrophic forgetting, rehearsal and
pseudorehearsal").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from ilp_service.changes import Change

_PARTS = 16
"""In which the factor is turned down until it fits."""


def retaining(change: Change, sample_ids: Iterable[str], factor: float, fits: Callable[[Change], bool]) -> Change:
    """The change, with samples that it does not show more often shown up to ``factor`` times as often.

    Where nothing is taught, or everything is shown more often anyway, nothing is added.

    Args:
        change: What is taught.
        sample_ids: Whom to retain.
        factor: Times as often, at least 1 (which means not at all).
        fits: Whether a change is within the budget; if the full factor is not, the largest part of it that is.
    """
    if factor <= 1 or change.epochs is not None or not (change.exposures or change.documents):
        return change
    others = [key for key in sample_ids if key not in change.exposures and key not in change.removed]
    for part in range(_PARTS if others else 0, 0, -1):
        times = 1 + (factor - 1) * part / _PARTS
        longer = replace(change, exposures={**change.exposures, **dict.fromkeys(others, times)})
        if fits(longer):
            return longer
    return change


def retained(taught: Change, change: Change) -> tuple[int, float]:
    """How many samples a change shows more often only to retain them, and how many times as often (1: none)."""
    others = change.exposures.keys() - taught.exposures.keys()
    return len(others), max((change.exposures[key] for key in others), default=1.0)
