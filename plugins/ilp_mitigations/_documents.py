"""Documents about the entities of samples: how many to ask for, and which of them are about the entity at all."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ilp_service.plugin import GENERAL_SHARE, Case, Document, Parameter

PAPER = "arXiv 2604.10079, section 5"

GENERAL = Parameter(
    "mitigations.general_share", GENERAL_SHARE, "C_mix: share of general text, 0-1.", f"{PAPER}: 0.8 to 0.2"
)
ENTITY_DOCUMENTS = Parameter("mitigations.entity_documents", 20, "Most documents an entity.", f"{PAPER}: about 20")
PASSES = Parameter(
    "mitigations.document_passes", 1, "How often each document is read.", "Ours: the paper does not say."
)
ABOUT_ENTITY = Parameter(
    "mitigations.about_entity",
    True,
    "Leave out documents that lack a word of the entity.",
    "Ours: a search by words always finds something.",
)
SHARED = (GENERAL, ENTITY_DOCUMENTS, PASSES, ABOUT_ENTITY)

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Fetched:
    """Documents by the sample that they were asked for.

    Attributes:
        useful: Those that are about its entity, best first.
        received: How many came in all.
        reasons: Why a sample has none, one line, by its id.
    """

    useful: Mapping[str, tuple[Document, ...]]
    received: int
    reasons: Mapping[str, str]


def fetch(case: Case) -> Fetched:
    """Documents for every target: the samples of one entity share what may be asked about it."""
    entities = {key: case.consult.entity(key) for key in case.targets}
    shared = Counter(entity for entity in entities.values() if entity)
    most = int(case.value(ENTITY_DOCUMENTS))
    by_limit: dict[int, list[str]] = defaultdict(list)
    for key, entity in entities.items():
        by_limit[-(-most // shared[entity]) if entity else most].append(key)
    useful: dict[str, tuple[Document, ...]] = {}
    reasons: dict[str, str] = {}
    received = 0
    for limit, keys in sorted(by_limit.items()):
        found = case.consult.documents(keys, limit)
        for key in keys:
            documents, entity = found.documents.get(key, ()), entities[key]
            received += len(documents)
            kept = documents
            if entity and case.value(ABOUT_ENTITY):
                kept = tuple(one for one in documents if _names(one.text, entity))
            useful[key] = kept
            if not kept:
                reasons[key] = _reason(entity, len(documents), found.reasons)
    return Fetched({key: useful[key] for key in case.targets}, received, reasons)


def _names(text: str, entity: str) -> bool:
    """Whether every word of the entity stands in the text: half a name may be somebody else's."""
    return set(_WORD.findall(entity.casefold())) <= set(_WORD.findall(text.casefold()))


def _reason(entity: str | None, found: int, sources: Mapping[str, str]) -> str:
    about = f"about {entity!r}" if entity else "about its prompt"
    if found:
        return f"None of the {found} documents found {about} names it ({ABOUT_ENTITY.name} is on)."
    asked = " ".join(f"{name}: {reason}" for name, reason in sorted(sources.items()))
    return " ".join(f"No document was found {about}. {asked}".split())


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """A number with its noun."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def refusing(refused: Mapping[str, str]) -> str:
    """The end of a summary: how many are refused."""
    return f"; {plural(len(refused), 'sample')} cannot be treated" if refused else ""


def chosen(targets: Sequence[str], refused: Mapping[str, str]) -> tuple[str, ...]:
    """The targets that are treated."""
    return tuple(key for key in targets if key not in refused)
