"""The public plugin API: all that a plugin needs to import.

A plugin is a module with functions marked ``@hookimpl``: ``ilp_causes`` returns :class:`Cause` objects,
``ilp_mitigations`` :class:`Mitigation` objects, ``ilp_knowledge_sources`` :class:`KnowledgeSource` objects,
``ilp_judges`` :class:`Judge` objects.
See ``docs/plugins.md`` for a walk through.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pluggy
import pyarrow as pa

from ilp_service.errors import EndpointError, IlpWarning, KnowledgeSourceError, SettingsError
from ilp_service.knowledge import Choice, Document, Judge, KnowledgeSource, Ledger, Pair, Query, Setup, Verdict
from ilp_service.remedies import (
    GENERAL_SHARE,
    Case,
    Change,
    ConflictingStatement,
    Consult,
    Correction,
    EpochIncrement,
    Found,
    Mitigation,
    Parameter,
    Plan,
    Price,
    Resampling,
    TeachingDocument,
    merge,
)
from ilp_service.samples.answers import normalise_answer
from ilp_service.samples.sample import Message, Probe, Sample
from ilp_service.study import Study

__all__ = [
    "GENERAL_SHARE",
    "Array",
    "Case",
    "Cause",
    "Change",
    "Choice",
    "ConflictingStatement",
    "Consult",
    "Correction",
    "Document",
    "EndpointError",
    "EpochIncrement",
    "Found",
    "IlpWarning",
    "Judge",
    "KnowledgeSource",
    "KnowledgeSourceError",
    "Ledger",
    "Message",
    "Mitigation",
    "Need",
    "Pair",
    "Parameter",
    "Plan",
    "Price",
    "Probe",
    "Query",
    "Resampling",
    "Sample",
    "SettingsError",
    "Setup",
    "Signal",
    "Study",
    "TeachingDocument",
    "Verdict",
    "hookimpl",
    "merge",
    "normalise_answer",
]

hookimpl = pluggy.HookimplMarker("ilp_service")
Array = npt.NDArray[np.float64]


class Need(StrEnum):
    """What a cause cannot be measured without."""

    BASE_MODEL = "base_model"
    TRAJECTORY = "trajectory"


@dataclass(frozen=True, slots=True)
class Signal:
    """One column of evidence.

    Attributes:
        name: Column name, without the cause's name before it.
        unit: ``0-1``, ``nats``, ``bits``, ``count``, ``tokens``, ``text`` …
        direction: Whether a higher value speaks for the cause (``+``), against it (``-``), or neither (``0``).
        meaning: One sentence for people.
        kind: ``number`` goes to the meta-classifier (null where it could not be measured);
            ``text`` is only quoted in explanations.
    """

    name: str
    unit: str
    direction: Literal["+", "-", "0"]
    meaning: str
    kind: Literal["number", "text"] = "number"


class Cause(ABC):
    """One reason why a sample may have stayed unlearned.

    ``rule`` and ``excluded`` get the number signals as float arrays of shape ``(unlearned,)``
    with NaN for null; ``explain`` gets one row with every signal, text included.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    signals: ClassVar[tuple[Signal, ...]]
    threshold: ClassVar[float] = 0.5

    @abstractmethod
    def collect(self, study: Study) -> pa.Table:
        """Evidence: ``sample_id`` and one column a signal, one row for each of ``study.unlearned``."""

    @abstractmethod
    def rule(self, signals: Mapping[str, Array]) -> Array:
        """How strongly the paper's test (or the author's) holds, in [0, 1]; the verdict is ``>= threshold``."""

    @abstractmethod
    def explain(self, row: Mapping[str, Any]) -> str:
        """One sentence that tells a person what speaks for this cause, quoting the evidence."""

    def excluded(self, signals: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """Where the evidence rules this cause out, whatever a classifier thinks."""
        return np.zeros(len(next(iter(signals.values()))) if signals else 0, dtype=np.bool_)
