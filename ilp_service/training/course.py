"""Which samples a fine-tuning trains on, in which order, and the same otherwise: a course and its changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Course:
    """What a fine-tuning trains on.

    Attributes:
        passes: Sample ids, pass after pass; no optimizer step reaches over the end of a pass.
    """

    passes: tuple[tuple[str, ...], ...]

    @property
    def exposures(self) -> Mapping[str, int]:
        """How often each sample is trained on."""
        return Counter(key for ids in self.passes for key in ids)
