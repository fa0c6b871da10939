"""Facts of Wikidata, or of any other Wikibase, as sentences."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlencode

from ilp_knowledge._http import BudgetSpentError, Client, place
from ilp_service.plugin import Document, EndpointError, IlpWarning, KnowledgeSource, Query, Setup

_SECTION = "knowledge_sources"
_LABELS_A_REQUEST = 50
_MONTHS = (
    *("", "January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAY, _MONTH, _YEAR = 11, 10, 9
"""Wikibase's precisions of a date."""


class Wikidata(KnowledgeSource):
    """Looks the entity up and writes one sentence a statement; queries whose entity is not known get nothing."""

    name: ClassVar[str] = "wikidata"
    title: ClassVar[str] = "Facts of Wikidata, a sentence each"

    def missing(self, setup: Setup) -> str | None:
        """Without a URL nothing is contacted."""
        return None if setup.options[f"{_SECTION}.wikidata_url"] else f"{_SECTION}.wikidata_url is not set."

    def documents(self, queries: Sequence[Query], limit: int, setup: Setup) -> Sequence[Sequence[Document]]:
        """Up to ``limit`` sentences a query, the description first; none for those that the budget does not reach.

        Three requests an entity as a rule: the search, the statements, and the names of what they speak of.

        Raises:
            EndpointError: The service is down, refuses, or answers what is no Wikibase's.
        """
        wikibase = _Wikibase(setup)
        answers: dict[str, list[Document]] = {}
        found: list[list[Document]] = []
        spent = 0
        for query in queries:
            entity = " ".join((query.entity or "").split())
            if entity and entity not in answers:
                try:
                    answers[entity] = wikibase.facts(entity, limit)
                except BudgetSpentError:
                    spent += 1
            found.append(answers.get(entity, []))
        if spent:
            setup.ledger.unanswered += spent
            warnings.warn(
                f"knowledge source wikidata: the budget of {setup.options[f'{_SECTION}.max_requests']} requests is "
                f"spent, {spent} of {len(queries)} queries were not asked; raise {_SECTION}.max_requests.",
                IlpWarning,
                stacklevel=2,
            )
        return found


class _Wikibase:
    """The parts of a Wikibase's API that are needed."""

    def __init__(self, setup: Setup) -> None:
        self._url = str(setup.options[f"{_SECTION}.wikidata_url"])
        self._language = str(setup.options[f"{_SECTION}.wikidata_language"])
        self._client = Client(setup, _SECTION)
        self._labels: dict[str, str] = {}

    def facts(self, name: str, limit: int) -> list[Document]:
        """Sentences about the entity of this name; none where nothing is called so."""
        asked = {"search": name, "language": self._language, "uselang": self._language, "type": "item", "limit": "1"}
        hits = self._ask("wbsearchentities", "search", asked)
        key = hits[0].get("id") if isinstance(hits, list) and hits and isinstance(hits[0], dict) else None
        if not isinstance(key, str):
            return []
        item = self._entities([key], "labels|descriptions|claims").get(key, {})
        label = self._text(item, "labels") or name
        description = self._text(item, "descriptions")
        statements = list(_statements(item))[: limit - bool(description)]
        self._name({part for statement in statements for part in statement if _is_id(part)})
        sentences = [f"{label} is known as: {description}."] if description else []
        sentences += [
            f"{label}, {self._labels[about]}: {self._labels.get(value, value)}."
            for about, value in statements
            if about in self._labels and (not _is_id(value) or value in self._labels)
        ]
        source = f"{place(self._url)} {key}"
        return [Document(text, source, 1 / (1 + rank)) for rank, text in enumerate(dict.fromkeys(sentences))]

    def _name(self, ids: set[str]) -> None:
        """Learn the labels of properties and items."""
        unknown = sorted(ids - set(self._labels))
        for begin in range(0, len(unknown), _LABELS_A_REQUEST):
            for key, entity in self._entities(unknown[begin : begin + _LABELS_A_REQUEST], "labels").items():
                if label := self._text(entity, "labels"):
                    self._labels[key] = label

    def _entities(self, ids: Sequence[str], props: str) -> dict[str, Any]:
        asked = {"ids": "|".join(ids), "props": props, "languages": self._language}
        entities = self._ask("wbgetentities", "entities", asked)
        known = entities.items() if isinstance(entities, dict) else ()
        return {key: entity for key, entity in known if isinstance(entity, dict)}

    def _text(self, entity: Mapping[str, Any], part: str) -> str:
        found = entity.get(part)
        named = found.get(self._language) if isinstance(found, dict) else None
        value = named.get("value") if isinstance(named, dict) else None
        return " ".join(value.split()) if isinstance(value, str) else ""

    def _ask(self, action: str, part: str, asked: Mapping[str, str]) -> object:
        url = f"{self._url}?{urlencode({'action': action, 'format': 'json', **asked})}"
        return self._client.ask(url, check=_checked(url, part))[0][part]


def _checked(url: str, part: str) -> Callable[[object], None]:
    def check(answer: object) -> None:
        if isinstance(answer, dict) and part in answer:
            return
        error = answer.get("error") if isinstance(answer, dict) else None
        said = f" ({error.get('info')})" if isinstance(error, dict) else ""
        raise EndpointError(
            f"{place(url)} answered without {part!r}{said}; expected a Wikibase's api.php in {_SECTION}.wikidata_url."
        )

    return check


def _is_id(text: str) -> bool:
    return text[:1] in ("Q", "P") and text[1:].isdigit()


def _statements(item: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Property and value of every statement that a sentence can say: preferred ones first, deprecated ones never."""
    claims = item.get("claims")
    found = [
        (claim.get("rank") != "preferred", about, value)
        for about, statements in (claims.items() if isinstance(claims, dict) else ())
        for claim in (statements if isinstance(statements, list) else ())
        if isinstance(claim, dict) and claim.get("rank") != "deprecated"
        for value in [_value(claim.get("mainsnak"))]
        if value
    ]
    return [(about, value) for _, about, value in sorted(found, key=lambda one: one[0])]


def _value(snak: object) -> str | None:
    """The value as text or as the id of an item; ``None`` for identifiers, files and what has no short text."""
    if not isinstance(snak, dict) or snak.get("datatype") in ("external-id", "commonsMedia", "url"):
        return None
    held = snak.get("datavalue")
    value = held.get("value") if isinstance(held, dict) else None
    if isinstance(value, str):
        return " ".join(value.split())
    if not isinstance(value, dict):
        return None
    key, text, amount = (value.get(name) for name in ("id", "text", "amount"))
    if isinstance(key, str):
        return key
    if isinstance(text, str):
        return " ".join(text.split())
    if isinstance(amount, str):
        return amount.removeprefix("+") if value.get("unit") == "1" else None
    return _date(str(value.get("time", "")), value.get("precision"))


def _date(time: str, precision: object) -> str | None:
    """``+1815-12-10T00:00:00Z`` as people write it, as far as it is known."""
    year, _, rest = time[1:].partition("-")
    month, day = rest[:2], rest[3:5]
    if precision not in (_DAY, _MONTH, _YEAR) or not (year + month + day).isdigit() or int(month or 0) > 12:
        return None
    said = f"{int(year)}{' BC' if time.startswith('-') else ''}"
    if precision in (_DAY, _MONTH):
        said = f"{_MONTHS[int(month)]} {said}".strip()
    return f"{int(day)} {said}" if precision == _DAY else said
