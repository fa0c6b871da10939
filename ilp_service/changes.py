"""What a remedy changes about a training run, written down so that it can be looked at, merged and applied elsewhere.

A :class:`Change` says what is to be otherwise, not how: nothing here trains. Changes of several remedies merge into
one, whatever their order; :func:`merge` has the rules.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

GENERAL_SHARE = 0.8
"""C_mix: share of general text in continued pre-training (arXiv 2604.10079, section 5)."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, order=True)
class TeachingDocument:
    """A text that continued pre-training reads before the samples are trained on again.

    Attributes:
        text: What it says; never a training sample.
        sample_ids: The samples that it is about, sorted.
        causes: The causes that it is to mend, sorted.
        sources: Where it comes from, for people, sorted.
    """

    text: str
    sample_ids: tuple[str, ...]
    causes: tuple[str, ...]
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("sample_ids", "causes", "sources"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))


@dataclass(frozen=True, slots=True, order=True)
class Correction:
    """Another response for a sample.

    Attributes:
        response: What the sample is to say instead.
        reason: Why, one line.
    """

    response: str
    reason: str


@dataclass(frozen=True, slots=True, order=True)
class ConflictingStatement:
    """What no general document of the mix may state.

    Attributes:
        entity: Whom or what it is about.
        answer: What the base model believes wrongly.
        sample_id: The sample that it speaks against.
        within: Right answers that hold this one as a part of them, sorted; where it stands in one of these, as "New
            York" does in "New York City", nothing wrong is stated.
    """

    entity: str
    answer: str
    sample_id: str
    within: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "within", tuple(sorted(set(self.within))))

    def stated_by(self, text: str) -> bool:
        """Whether the entity and the answer both stand in a text as whole words, without regard to case."""
        return _stands_in(self.entity, text) and _stands_in(self.answer, text, self.within)

    def public(self) -> dict[str, Any]:
        """Ready for JSON; ``within`` only where there is any."""
        found: dict[str, Any] = {"entity": self.entity, "answer": self.answer, "sample_id": self.sample_id}
        return {**found, "within": list(self.within)} if self.within else found


@dataclass(frozen=True, slots=True)
class Resampling:
    """Parts of the data that are forgotten are drawn more often; the number of steps stays.

    Attributes:
        every: K: optimizer steps between two looks at every subset's accuracy.
        fall: Relative fall of a subset's accuracy since its best, from which it is drawn more often, 0-1.
        factor: Times as often, until the next look.
    """

    every: int
    fall: float
    factor: float

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 < self.fall <= 1 or not (math.isfinite(self.factor) and self.factor >= 1):
            raise ValueError(f"{self} is none; expected every >= 1, 0 < fall <= 1 and factor >= 1.")


@dataclass(frozen=True, slots=True)
class EpochIncrement:
    """Further passes over all data, one at a time, while held-out loss improves.

    Attributes:
        most: Passes that are added at most.
        tolerance: Nats a token; it stops at the first pass after which held-out loss is higher by more than this.
    """

    most: int
    tolerance: float

    def __post_init__(self) -> None:
        if self.most < 1 or not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ValueError(f"{self} is none; expected most >= 1 and tolerance >= 0.")


@dataclass(frozen=True, slots=True)
class Change:
    """How a training run is to differ from the one that was diagnosed; by default not at all.

    Attributes:
        documents: Read in continued pre-training, before the fine-tuning is done again; one entry a text.
        general_share: Share of general text in continued pre-training, 0-1; ``None`` where there is none. With
            documents it is below 1, without them continued pre-training on general text alone is meant (a placebo).
        document_passes: How often continued pre-training reads each document.
        removed: Samples that are left out, with one line of reason each.
        corrected: Samples that get another response.
        contested: Samples for which different corrections were asked; none of them is made.
        exposures: Samples that are trained on so many times as often, a factor above 1.
        apart: Pairs of samples, each with the smaller id first, that never share a mini-batch; see ``buckets``.
        shuffled: Whether all data are shuffled together in every pass instead of one subset after the other.
        resampling: Drawing forgotten subsets more often; ``None``: no.
        epochs: Further passes over all data; ``None``: none.
        conflicting_documents: What general documents in the mix may not state; those that do are left out.

    Raises:
        ValueError: A number is out of range, a pair is of one sample, or a reason is no single line.
    """

    documents: tuple[TeachingDocument, ...] = ()
    general_share: float | None = None
    document_passes: int = 1
    removed: Mapping[str, str] = field(default_factory=dict)
    corrected: Mapping[str, Correction] = field(default_factory=dict)
    contested: Mapping[str, tuple[Correction, ...]] = field(default_factory=dict)
    exposures: Mapping[str, float] = field(default_factory=dict)
    apart: frozenset[tuple[str, str]] = frozenset()
    shuffled: bool = False
    resampling: Resampling | None = None
    epochs: EpochIncrement | None = None
    conflicting_documents: frozenset[ConflictingStatement] = frozenset()

    def __post_init__(self) -> None:
        """Bring it into one form, so that equal changes compare as equal; what was removed keeps nothing else."""
        self._check()
        removed = self.removed
        put = object.__setattr__
        put(self, "documents", _united(self.documents))
        if self.documents and self.general_share is None:
            put(self, "general_share", GENERAL_SHARE)
        put(self, "removed", _frozen({key: _lines([reason]) for key, reason in removed.items()}))
        wanted: dict[str, set[Correction]] = defaultdict(set)
        for key, correction in self.corrected.items():
            wanted[key].add(correction)
        for key, corrections in self.contested.items():
            wanted[key].update(corrections)
        put(self, "corrected", _frozen(_agreed({key: all_ for key, all_ in wanted.items() if key not in removed})))
        put(self, "contested", _frozen(_disputed({key: all_ for key, all_ in wanted.items() if key not in removed})))
        exposures = {key: float(factor) for key, factor in self.exposures.items() if factor > 1 and key not in removed}
        put(self, "exposures", _frozen(exposures))
        pairs = {(min(pair), max(pair)) for pair in self.apart if not {*pair} & removed.keys()}
        put(self, "apart", frozenset(pairs))
        put(self, "conflicting_documents", frozenset(self.conflicting_documents))

    def _check(self) -> None:
        share = self.general_share
        if share is not None and not (0 <= share < 1 if self.documents else 0 <= share <= 1):
            raise ValueError(f"general_share is {share!r}; expected a number from 0 up to, but not including, 1.")
        if self.document_passes < 1:
            raise ValueError(f"document_passes is {self.document_passes!r}; expected at least 1.")
        for key, factor in self.exposures.items():
            if not math.isfinite(factor) or factor < 1:
                raise ValueError(f"exposures has {factor!r} for {key!r}; expected a factor of at least 1.")
        for first, second in self.apart:
            if first == second:
                raise ValueError(f"apart has a pair of {first!r} with itself; expected two samples.")
        if empty := [key for key, reason in self.removed.items() if not reason.strip()]:
            raise ValueError(f"removed has no reason for {empty[0]!r}; expected one line.")

    @property
    def buckets(self) -> Mapping[str, int]:
        """A bucket for each sample of ``apart``: rows of different buckets never share a mini-batch.

        As few buckets as a greedy colouring finds, most entangled samples first, ties by id. Samples that are not
        named here may go with any.
        """
        neighbours: dict[str, set[str]] = defaultdict(set)
        for first, second in self.apart:
            neighbours[first].add(second)
            neighbours[second].add(first)
        buckets: dict[str, int] = {}
        for key in sorted(neighbours, key=lambda one: (-len(neighbours[one]), one)):
            taken = {buckets[other] for other in neighbours[key] if other in buckets}
            buckets[key] = next(number for number in range(len(taken) + 1) if number not in taken)
        return _frozen(buckets)

    @property
    def sample_ids(self) -> frozenset[str]:
        """Every sample of the training data whose row is changed; those that documents are about are not."""
        pairs = (key for pair in self.apart for key in pair)
        return frozenset({*self.removed, *self.corrected, *self.contested, *self.exposures, *pairs})

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return self == Change()

    def public(self) -> dict[str, Any]:
        """Ready for JSON; :meth:`from_public` takes it back."""
        return {
            "documents": [asdict(document) for document in self.documents],
            "general_share": self.general_share,
            "document_passes": self.document_passes,
            "removed": dict(self.removed),
            "corrected": {key: asdict(one) for key, one in self.corrected.items()},
            "contested": {key: [asdict(one) for one in all_] for key, all_ in self.contested.items()},
            "exposures": dict(self.exposures),
            "apart": [list(pair) for pair in sorted(self.apart)],
            "shuffled": self.shuffled,
            "resampling": asdict(self.resampling) if self.resampling else None,
            "epochs": asdict(self.epochs) if self.epochs else None,
            "conflicting_documents": [one.public() for one in sorted(self.conflicting_documents)],
        }

    @classmethod
    def from_public(cls, public: Mapping[str, Any]) -> Change:
        """The change that :meth:`public` wrote down."""
        return cls(
            documents=tuple(
                TeachingDocument(one["text"], tuple(one["sample_ids"]), tuple(one["causes"]), tuple(one["sources"]))
                for one in public["documents"]
            ),
            general_share=public["general_share"],
            document_passes=public["document_passes"],
            removed=public["removed"],
            corrected={key: Correction(**one) for key, one in public["corrected"].items()},
            contested={key: tuple(Correction(**one) for one in all_) for key, all_ in public["contested"].items()},
            exposures=public["exposures"],
            apart=frozenset((first, second) for first, second in public["apart"]),
            shuffled=public["shuffled"],
            resampling=Resampling(**public["resampling"]) if public["resampling"] else None,
            epochs=EpochIncrement(**public["epochs"]) if public["epochs"] else None,
            conflicting_documents=frozenset(ConflictingStatement(**one) for one in public["conflicting_documents"]),
        )


def merge(changes: Iterable[Change]) -> Change:
    """One change that does what all of them do; neither order nor grouping matters, and once is as good as twice.

    Where they clash:

    - documents of one text become one, about all samples and for all causes; ``document_passes`` is the largest;
    - ``general_share`` is the largest of those that come with documents, without documents the largest;
    - what one removes is removed, with every reason on a line of its own, and is neither corrected, shown more often,
      nor kept apart from anything;
    - two different corrections of a sample make it ``contested``: nobody can tell which is meant, so none is made;
    - exposures take the largest factor; pairs that are kept apart, conflicting statements and shuffling add up;
    - the stricter resampling (earlier look, smaller fall) with the largest factor; the most epochs with the smallest
      tolerance.
    """
    result = Change()
    for change in changes:
        result = _both(result, change)
    return result


def _both(one: Change, other: Change) -> Change:
    removed: dict[str, list[str]] = defaultdict(list)
    wanted: dict[str, set[Correction]] = defaultdict(set)
    exposures: dict[str, float] = {}
    for change in (one, other):
        for key, reason in change.removed.items():
            removed[key].append(reason)
        for key, correction in change.corrected.items():
            wanted[key].add(correction)
        for key, corrections in change.contested.items():
            wanted[key].update(corrections)
        for key, factor in change.exposures.items():
            exposures[key] = max(factor, exposures.get(key, factor))
    return Change(
        documents=(*one.documents, *other.documents),
        general_share=_share(one, other),
        document_passes=max(one.document_passes, other.document_passes),
        removed={key: _lines(reasons) for key, reasons in removed.items()},
        corrected=_agreed(wanted),
        contested=_disputed(wanted),
        exposures=exposures,
        apart=one.apart | other.apart,
        shuffled=one.shuffled or other.shuffled,
        resampling=_resampling(one.resampling, other.resampling),
        epochs=_epochs(one.epochs, other.epochs),
        conflicting_documents=one.conflicting_documents | other.conflicting_documents,
    )


def _share(one: Change, other: Change) -> float | None:
    given = [
        (bool(change.documents), change.general_share) for change in (one, other) if change.general_share is not None
    ]
    return max(given)[1] if given else None


def _resampling(one: Resampling | None, other: Resampling | None) -> Resampling | None:
    if one is None or other is None:
        return one or other
    return Resampling(min(one.every, other.every), min(one.fall, other.fall), max(one.factor, other.factor))


def _epochs(one: EpochIncrement | None, other: EpochIncrement | None) -> EpochIncrement | None:
    if one is None or other is None:
        return one or other
    return EpochIncrement(max(one.most, other.most), min(one.tolerance, other.tolerance))


def _united(documents: Iterable[TeachingDocument]) -> tuple[TeachingDocument, ...]:
    by_text: dict[str, list[TeachingDocument]] = defaultdict(list)
    for document in documents:
        by_text[document.text].append(document)
    return tuple(
        TeachingDocument(
            text,
            tuple(key for one in same for key in one.sample_ids),
            tuple(cause for one in same for cause in one.causes),
            tuple(source for one in same for source in one.sources),
        )
        for text, same in sorted(by_text.items())
    )


def _agreed(wanted: Mapping[str, set[Correction]]) -> dict[str, Correction]:
    """Where all want one response; of several reasons every line stands."""
    return {
        key: Correction(next(iter(all_)).response, _lines([one.reason for one in all_]))
        for key, all_ in wanted.items()
        if len({one.response for one in all_}) == 1
    }


def _disputed(wanted: Mapping[str, set[Correction]]) -> dict[str, tuple[Correction, ...]]:
    """Where different responses are wanted, each once."""
    disputed = {}
    for key, all_ in wanted.items():
        responses = sorted({one.response for one in all_})
        if len(responses) > 1:
            disputed[key] = tuple(
                Correction(response, _lines([one.reason for one in all_ if one.response == response]))
                for response in responses
            )
    return disputed


def _lines(reasons: Iterable[str]) -> str:
    """Every distinct line once, sorted: joining joined reasons again changes nothing."""
    return "\n".join(sorted({line.strip() for reason in reasons for line in reason.splitlines() if line.strip()}))


def _frozen(values: Mapping[str, _Value]) -> Mapping[str, _Value]:
    return MappingProxyType(dict(sorted(values.items())))


def _stands_in(phrase: str, text: str, within: Iterable[str] = ()) -> bool:
    places = _places(phrase, text)
    wider = [place for longer in within for place in _places(longer, text)]
    return any(not any(_inside(place, one) for one in wider) for place in places)


def _inside(place: tuple[int, int], wider: tuple[int, int]) -> bool:
    return wider[0] <= place[0] and place[1] <= wider[1] and wider != place


def _places(phrase: str, text: str) -> Iterator[tuple[int, int]]:
    words = phrase.split()
    if words:
        pattern = r"\s+".join(re.escape(word.casefold()) for word in words)
        for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", text.casefold()):
            yield match.span()
