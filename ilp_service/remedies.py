"""The public API of mitigations; :mod:`ilp_service.plugin` hands it on.

A *mitigation* is a remedy for one or more causes (arXiv 2604.10079, section 5). It looks at a :class:`Case` and writes
down a :class:`Plan`: what to change about the training run, for which samples, at what price. It neither trains nor
evaluates itself, and what it cannot treat it refuses, with a reason.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from ilp_service.changes import (
    GENERAL_SHARE,
    Change,
    ConflictingStatement,
    Correction,
    EpochIncrement,
    Resampling,
    TeachingDocument,
    merge,
)
from ilp_service.errors import SettingsError
from ilp_service.knowledge import Document, Pair, Verdict
from ilp_service.samples.sample import Sample
from ilp_service.study import Study

__all__ = [
    "GENERAL_SHARE",
    "Case",
    "Change",
    "ConflictingStatement",
    "Consult",
    "Correction",
    "EpochIncrement",
    "Found",
    "Mitigation",
    "Parameter",
    "Plan",
    "Price",
    "Resampling",
    "TeachingDocument",
    "merge",
]

_CHARACTERS_A_TOKEN = 4.0
"""Where nothing was rendered."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A knob of a mitigation.

    Attributes:
        name: Dotted name of the setting, ``mitigations.general_share``; one's own go into ``mitigations.options``.
        default: What holds where nothing is set; its type is the parameter's.
        meaning: One sentence for people, with the unit.
        source: Where the default comes from: the section of the paper, or why it is ours.
    """

    name: str
    default: bool | int | float | str
    meaning: str
    source: str

    def typed(self, given: object) -> Any:  # noqa: ANN401 - of the default's type
        """A value in the type of the default.

        Raises:
            SettingsError: It is of another type.
        """
        kind: Any = type(self.default)
        if isinstance(given, kind):
            return given
        try:
            if kind is bool:
                return {"true": True, "false": False}[str(given).strip().lower()]
            return kind(given)
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(
                f"{self.name} is {given!r}, expected {kind.__name__}; {self.default!r} is the default."
            ) from error


@dataclass(frozen=True, slots=True)
class Found:
    """What knowledge sources gave.

    Attributes:
        documents: For each sample that was asked about, the documents that may be used, best first.
        reasons: One sentence for each source that was not asked, or failed, by its name.
    """

    documents: Mapping[str, tuple[Document, ...]]
    reasons: Mapping[str, str] = field(default_factory=dict)


class Consult(Protocol):
    """Whom a mitigation may ask; everything that is asked is counted, for it costs."""

    def documents(self, sample_ids: Sequence[str], limit: int) -> Found:
        """Documents about samples, at most ``limit`` each; none of them holds a training sample."""

    def judge(self, pairs: Sequence[Pair]) -> Sequence[Verdict]:
        """One verdict a pair; ``unsure`` below the least confidence of the settings."""

    def entity(self, sample_id: str) -> str | None:
        """Whom or what a sample asks about, ``None`` where that is not known."""

    def leaks(self, text: str, sample_id: str) -> bool:
        """Whether a text holds a training sample, or nearly the one that it is for."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a plan costs at most, over doing the diagnosed training again; prices add up.

    Attributes:
        training_tokens: Further tokens that go through the model in training, general text included.
        documents: Documents received from knowledge sources, used or not.
        judgements: Pairs judged.
    """

    training_tokens: int = 0
    documents: int = 0
    judgements: int = 0

    def __add__(self, other: Price) -> Price:
        return Price(
            self.training_tokens + other.training_tokens,
            self.documents + other.documents,
            self.judgements + other.judgements,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a mitigation would do.

    Attributes:
        mitigation: Its name.
        treats: Ids of the targets that it treats, in the order of the targets.
        refused: Why each other target is not treated, one line each.
        change: What to change about the training run.
        price: What that costs at most.
        summary: One sentence for people.
    """

    mitigation: str
    treats: tuple[str, ...]
    refused: Mapping[str, str]
    change: Change
    price: Price
    summary: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "refused", MappingProxyType(dict(self.refused)))


@dataclass(frozen=True, slots=True)
class Case:
    """All that a mitigation may look at, read-only.

    Attributes:
        study: What was measured about the checkpoint and its training data.
        evidence: The evidence table: ``sample_id``, then ``<cause>.<signal>``.
        attributions: The attributions table (``docs/tables.md``).
        targets: Ids to treat: unlearned samples attributed to one of the mitigation's causes, most severe first, and
            samples at risk where they were asked for. For the latter little was measured.
        options: Settings by dotted name (``mitigations.general_share`` …), and those of plugins of one's own.
        consult: Whom it may ask.
    """

    study: Study
    evidence: pa.Table
    attributions: pa.Table
    targets: tuple[str, ...]
    options: Mapping[str, Any]
    consult: Consult

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def value(self, parameter: Parameter) -> Any:  # noqa: ANN401 - of the default's type
        """What a parameter is set to, in the type of its default.

        Raises:
            SettingsError: It is set to something of another type.
        """
        return parameter.typed(self.options.get(parameter.name, parameter.default))

    def samples(self) -> dict[str, Sample]:
        """Every sample by its id."""
        return {sample.sample_id: sample for sample in self.study.samples}

    def tokens_of(self, sample_ids: Sequence[str]) -> dict[str, int]:
        """Tokens of each sample, prompt and response, as training saw them."""
        table = self.study.rendering
        columns = [table[name].to_pylist() for name in ("prompt_tokens", "response_tokens", "truncated_tokens")]
        tokens = {
            key: max(prompt + response - truncated, 0)
            for key, prompt, response, truncated in zip(table["sample_id"].to_pylist(), *columns, strict=True)
        }
        return {key: tokens[key] for key in sample_ids}

    def text_tokens(self, texts: Sequence[str]) -> int:
        """About how many tokens texts have, by what the tokenizer made of the samples."""
        rendered = self.study.rendering
        tokens = sum(rendered["prompt_tokens"].to_pylist()) + sum(rendered["response_tokens"].to_pylist())
        characters = sum(_characters(sample) for sample in self.study.samples)
        rate = characters / tokens if tokens and characters else _CHARACTERS_A_TOKEN
        return ceil(sum(map(len, texts)) / rate)

    def exposures_of(self, sample_ids: Sequence[str]) -> dict[str, int | None]:
        """How often the diagnosed run trained on each sample; ``None`` where no record tells."""
        last: dict[str, tuple[int, int]] = {}
        if self.study.trajectory is not None:
            table = self.study.trajectory.select(["sample_id", "step", "exposures"])
            for key, step, count in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if count is not None and step >= last.get(key, (-1, 0))[0]:
                    last[key] = step, count
        return {key: last[key][1] if key in last else None for key in sample_ids}

    def training_tokens(self, change: Change) -> int:
        """Tokens that training reads more than the diagnosed run did, at most; what is left out is not taken off.

        Documents bring their share of general text with them. A sample whose exposures are not known counts with the
        median of those that are, else with one. Resampling keeps the number of steps.
        """
        ids = [sample.sample_id for sample in self.study.samples]
        tokens, seen = self.tokens_of(ids), self.exposures_of(ids)
        usual = median([count for count in seen.values() if count] or [1])
        more = sum(
            (factor - 1) * tokens[key] * (seen[key] or usual) for key, factor in change.exposures.items() if key in seen
        )
        if change.documents and change.general_share is not None:
            read = self.text_tokens([document.text for document in change.documents]) * change.document_passes
            more += read / (1 - change.general_share)
        if change.epochs is not None:
            kept = (key for key in ids if key not in change.removed)
            more += change.epochs.most * sum(tokens[key] * change.exposures.get(key, 1.0) for key in kept)
        return ceil(round(more, 6))


def _characters(sample: Sample) -> int:
    """Of all that was rendered of a sample: system prompt and earlier turns have tokens as well."""
    plain = sample.plain_prompt
    asked = sum(len(message.content) for message in sample.context) if plain is None else len(plain)
    return asked + len(sample.response)


class Mitigation(ABC):
    """A remedy for one or more causes."""

    name: ClassVar[str]
    title: ClassVar[str]
    causes: ClassVar[frozenset[str]]
    parameters: ClassVar[tuple[Parameter, ...]] = ()

    @abstractmethod
    def plan(self, case: Case) -> Plan:
        """What to change so that the targets are learned.

        Every target is treated or refused; the same case gives the same plan. What cannot be told from the case is
        refused, never guessed.
        """
