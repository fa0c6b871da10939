"""The public API of knowledge sources and judges; :mod:`ilp_service.plugin` hands it on.

A *knowledge source* finds documents about what a base model does not know. A *judge* says which of two samples that
contradict each other is right. Both are asked only when a remedy needs them, and both are counted, for they cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from ilp_service.samples.sample import Sample
from ilp_service.study import Study


@dataclass(slots=True)
class Ledger:
    """What a source or judge has asked for so far; its price is set elsewhere.

    ``documents`` and ``judgements`` are counted by whoever asks the plugin, ``requests`` and ``tokens`` by the plugin.

    Attributes:
        documents: Documents it returned, before any of them was left out.
        judgements: Pairs it returned a verdict on.
        requests: Requests it sent, repetitions included.
        tokens: Tokens that endpoints said they used, prompt and answer; ``None`` where none of them told.
        unanswered: Queries or pairs it left unanswered because its budget was spent.
    """

    documents: int = 0
    judgements: int = 0
    requests: int = 0
    tokens: int | None = None
    unanswered: int = 0

    def add_tokens(self, tokens: int) -> None:
        """Count the tokens that an endpoint told."""
        self.tokens = (self.tokens or 0) + tokens


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a source or judge gets beside its questions; read-only, except for the ledger.

    Attributes:
        options: Settings by dotted name (``knowledge_sources.corpus``, ``judge.min_confidence`` …), and those of
            plugins under the names that stand in ``knowledge_sources.options`` and ``judge.options``.
        work_dir: Where it may keep what it need not make twice; may not exist yet.
        ledger: Where it counts its requests and tokens; its own alone.
        study: What was measured about the checkpoint; ``None`` where nothing was.
    """

    options: Mapping[str, Any]
    work_dir: Path
    ledger: Ledger = field(default_factory=Ledger)
    study: Study | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))


@dataclass(frozen=True, slots=True)
class Query:
    """What documents are wanted about.

    Attributes:
        sample_id: The sample that needs them.
        prompt: Its question; never its response, so that no source can copy it.
        entity: Whom or what it asks about, ``None`` if not known.
    """

    sample_id: str
    prompt: str
    entity: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text to learn from.

    Attributes:
        text: What it says.
        source: Where it comes from, for people: a file and place, a URL, a model's name.
        score: How well it fits the query; higher is better, comparable within one answer of one source only.
    """

    text: str
    source: str
    score: float


class KnowledgeSource(ABC):
    """Finds documents about what the base model lacks (arXiv 2604.10079, section 5)."""

    name: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def documents(self, queries: Sequence[Query], limit: int, setup: Setup) -> Sequence[Sequence[Document]]:
        """Documents for each query, best first, at most ``limit`` a query; an empty list where it has none.

        The answer to a query may not depend on the other queries. Documents that hold a training sample are left
        out by the caller.
        """

    def missing(self, setup: Setup) -> str | None:
        """Why it cannot be asked under these settings, one sentence that names the setting; ``None`` if it can."""
        del setup
        return None


class Choice(StrEnum):
    """Which sample of a pair is right."""

    FIRST = "first"
    SECOND = "second"
    BOTH = "both"
    NEITHER = "neither"
    UNSURE = "unsure"

    @property
    def swapped(self) -> Choice:
        """The same for the pair the other way round."""
        return {Choice.FIRST: Choice.SECOND, Choice.SECOND: Choice.FIRST}.get(self, self)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two samples that ask the same and answer otherwise."""

    first: Sample
    second: Sample

    @property
    def swapped(self) -> Pair:
        """The pair the other way round."""
        return Pair(self.second, self.first)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says about a pair.

    Attributes:
        choice: Which of them is right.
        confidence: How sure the judge is of its choice, 0-1; for ``unsure`` how sure it is of the likeliest one.
        reason: One sentence that quotes what speaks for it.
    """

    choice: Choice
    confidence: float
    reason: str


class Judge(ABC):
    """Says which of two contradicting samples is right (arXiv 2604.10079, section 5)."""

    name: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def judge(self, pairs: Sequence[Pair], setup: Setup) -> Sequence[Verdict]:
        """One verdict a pair. It may depend neither on the other pairs nor on which sample comes first."""

    def missing(self, setup: Setup) -> str | None:
        """Why it cannot be asked under these settings, one sentence that names the setting; ``None`` if it can."""
        del setup
        return None
