"""Remedy for cause II: corrected documents, and none that say otherwise in the mix (arXiv 2604.10079, section 5)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ilp_mitigations._beliefs import believed
from ilp_mitigations._documents import GENERAL, PASSES, SHARED, chosen, fetch, plural, refusing
from ilp_service.plugin import (
    Case,
    Change,
    ConflictingStatement,
    Document,
    Mitigation,
    Parameter,
    Plan,
    Price,
    Sample,
    TeachingDocument,
)

_CAUSE = "pretraining_conflict"
_REWRITE = Parameter(
    "mitigations.rewrite",
    True,
    "Correct a document that states the base's wrong answer; else leave it out.",
    "Ours: the paper's documents are corrected, and it does not say how.",
)
_SHORT = 6
"""Words; a longer answer never stands in a document as it is."""
_PLAIN = frozenset({"yes", "no", "true", "false", "none", "both", "neither"})
"""Answers that stand in any text and mean nothing there."""


class CorrectiveCpt(Mitigation):
    """Continued pre-training on documents that say what the sample says, without those that contradict it."""

    name: ClassVar[str] = "corrective_cpt"
    title: ClassVar[str] = "Correct what the base believes wrongly by documents, then fine-tune again"
    causes: ClassVar[frozenset[str]] = frozenset({_CAUSE})
    parameters: ClassVar[tuple[Parameter, ...]] = (*SHARED, _REWRITE)

    def plan(self, case: Case) -> Plan:
        """Corrected documents for each target whose belief is known; what was not measured is refused."""
        samples, beliefs = case.samples(), believed(case.study)
        by_entity = _by_entity(case, samples, beliefs)
        fetched = fetch(case)
        refused = dict(fetched.reasons)
        documents: list[TeachingDocument] = []
        statements: set[ConflictingStatement] = set()
        for key in case.targets:
            if key in refused:
                continue
            belief = beliefs.get(key)
            if belief is None:
                refused[key] = "What the base answers instead was not measured, so nothing can be corrected."
                continue
            own = _Fact(samples[key], belief)
            others = [fact for fact in by_entity.get(case.consult.entity(key), ()) if fact.sample.sample_id != key]
            texts = [
                TeachingDocument(text, (key,), (_CAUSE,), (one.source,))
                for one in fetched.useful[key]
                if (text := _corrected(case, one, own, others)) is not None
            ]
            if not texts:
                refused[key] = (
                    f"None of its {plural(len(fetched.useful[key]), 'document')} says {_quote(samples[key].response)} "
                    f"or could be corrected from {_quote(belief)}."
                )
                continue
            documents += texts
            entity = case.consult.entity(key)
            if entity and _usable(belief, samples[key].prompt):
                right = {fact.response.rstrip(".") for fact in (own, *others)}
                within = tuple(sorted(answer for answer in right if _is_part(belief, answer)))
                statements.add(ConflictingStatement(entity, belief, key, within))
        treats = chosen(case.targets, refused)
        change = Change()
        if treats:
            change = Change(
                documents=tuple(documents),
                general_share=float(case.value(GENERAL)),
                document_passes=int(case.value(PASSES)),
                conflicting_documents=frozenset(statements),
            )
        return Plan(
            self.name,
            treats,
            {key: refused[key] for key in case.targets if key in refused},
            change,
            Price(case.training_tokens(change), fetched.received),
            f"Continue pre-training on {plural(len(change.documents), 'corrected document')} about "
            f"{plural(len(treats), 'sample')}, leave out general text that states "
            f"{plural(len(change.conflicting_documents), 'wrong belief')}, then fine-tune again{refusing(refused)}.",
        )


@dataclass(frozen=True, slots=True)
class _Fact:
    """What a sample says, and what the base believes instead."""

    sample: Sample
    belief: str

    @property
    def response(self) -> str:
        return self.sample.response.strip()

    def can_be_put_right(self) -> bool:
        """Whether the belief may be replaced where it stands in a text."""
        return _usable(self.belief, self.sample.prompt) and len(self.response.split()) <= _SHORT


def _by_entity(case: Case, samples: Mapping[str, Sample], beliefs: Mapping[str, str]) -> dict[str | None, list[_Fact]]:
    """The facts of all targets by their entity, sorted by id."""
    facts: dict[str | None, list[_Fact]] = defaultdict(list)
    for key in sorted(case.targets):
        entity = case.consult.entity(key)
        if entity and key in beliefs:
            facts[entity].append(_Fact(samples[key], beliefs[key]))
    return facts


def _corrected(case: Case, document: Document, own: _Fact, others: Sequence[_Fact]) -> str | None:
    """A document that says what the sample says; ``None`` if it neither does nor can be made to.

    It may state further wrong beliefs about the same entity, which would be taught along; they are corrected as well.
    What is a part of a right answer ("New York" in "New York City") is none.
    """
    text = document.text
    right = [fact.response for fact in (own, *others)]
    for fact in (own, *others):
        if wrong := _outside(text, fact.belief, right):
            if not case.value(_REWRITE) or not fact.can_be_put_right():
                return None
            ends = [0, *(end for _, end in wrong)]
            begins = [*(begin for begin, _ in wrong), len(text)]
            text = fact.response.join(text[end:begin] for end, begin in zip(ends, begins, strict=True))
    if not _states(text, own.response):
        return None
    # A response now stands where it did not: the text may have become a sample itself.
    return None if text != document.text and case.consult.leaks(text, own.sample.sample_id) else text


def _usable(answer: str, prompt: str) -> bool:
    """Whether an answer in a text is a statement: short, no bare yes or no, and no word of the question itself."""
    return len(answer.split()) <= _SHORT and answer.casefold().strip() not in _PLAIN and not _states(prompt, answer)


def _states(text: str, answer: str) -> bool:
    return bool(answer.strip()) and _pattern(answer).search(text) is not None


def _is_part(answer: str, longer: str) -> bool:
    """Whether an answer stands in another and is not all of it."""
    return _states(longer, answer) and _pattern(answer).fullmatch(longer.strip()) is None


def _outside(text: str, answer: str, right: Sequence[str]) -> list[tuple[int, int]]:
    """Where an answer stands in a text, but for right answers of which it is a part there: begins and ends."""
    if not _states(text, answer):
        return []
    wider = [match.span() for one in right if _is_part(answer, one) for match in _pattern(one).finditer(text)]
    places = [match.span() for match in _pattern(answer).finditer(text)]
    return [
        (begin, end)
        for begin, end in places
        if not any(first <= begin and end <= last and (first, last) != (begin, end) for first, last in wider)
    ]


def _pattern(answer: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in answer.strip().rstrip(".").split())
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)


def _quote(text: str) -> str:
    return repr(" ".join(text.split())[:60])
