"""Wikidata, asked as a stub of its API on 127.0.0.1."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ilp_knowledge import Wikidata
from ilp_knowledge.wikidata import _date

from ilp_service.plugin import EndpointError, IlpWarning, Query, Setup
from ilp_service.testing import check_source
from tests.knowledge.conftest import MakeSetup, Reply, Seen, Stub

LABELS = {
    "P19": "place of birth",
    "Q84": "London",
    "P569": "date of birth",
    "P106": "occupation",
    "Q170790": "mathematician",
}


def claim(value: object, datatype: str, rank: str = "normal") -> dict[str, Any]:
    return {"rank": rank, "mainsnak": {"datatype": datatype, "datavalue": {"value": value}}}


ADA = {
    "labels": {"en": {"value": "Ada Lovelace"}},
    "descriptions": {"en": {"value": "English mathematician"}},
    "claims": {
        "P569": [claim({"time": "+1815-12-10T00:00:00Z", "precision": 11}, "time")],
        "P106": [claim({"id": "Q170790"}, "wikibase-item"), claim({"id": "Q5"}, "wikibase-item", "deprecated")],
        "P19": [claim({"id": "Q84"}, "wikibase-item", "preferred")],
        "P214": [claim("97105654", "external-id")],
        "P18": [{"rank": "normal", "mainsnak": {"datatype": "commonsMedia"}}, "odd", {"rank": "normal"}],
        "P999": [claim("has no label", "string")],
    },
}
FACTS = [
    "Ada Lovelace is known as: English mathematician.",
    "Ada Lovelace, place of birth: London.",
    "Ada Lovelace, date of birth: 10 December 1815.",
    "Ada Lovelace, occupation: mathematician.",
]


def wikibase(seen: Seen) -> Reply:
    asked = {name: values[0] for name, values in parse_qs(urlsplit(seen.path).query).items()}
    if asked["action"] == "wbsearchentities":
        known = "lovelace" in asked.get("search", "").casefold()
        return Reply({"search": [{"id": "Q7259", "label": "Ada Lovelace"}] if known else []})
    entities = {
        key: ADA if key == "Q7259" else {"labels": {"en": {"value": LABELS[key]}}} if key in LABELS else {"missing": ""}
        for key in asked["ids"].split("|")
    }
    return Reply({"entities": entities})


def setup(stub: Stub, setup_of: MakeSetup, *more: str) -> Setup:
    return setup_of(f"knowledge_sources.wikidata_url={stub.url}/w/api.php", *more)


def test_statements_become_sentences_the_preferred_first(stub: Stub, setup_of: MakeSetup) -> None:
    stub.answer = wikibase
    ready = setup(stub, setup_of)
    queries = [Query("a", "When was she born?", "Ada Lovelace"), Query("b", "Who is it?", "Nobody"), Query("c", "Ada?")]
    found, nobody, unnamed = Wikidata().documents(queries, 9, ready)
    assert [one.text for one in found] == FACTS
    assert {one.source for one in found} == {f"{stub.url}/w/api.php Q7259"}
    assert nobody == unnamed == []
    # The search, the statements and the names; then the search for nobody. No entity, no request.
    assert len(stub.seen) == ready.ledger.requests == 4
    assert ready.ledger.tokens is None
    assert all(seen.method == "GET" and "Authorization" not in seen.headers for seen in stub.seen)
    assert all("ilp-service" in seen.headers["User-Agent"] for seen in stub.seen)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_more_than_the_limit(stub: Stub, setup_of: MakeSetup, limit: int) -> None:
    stub.answer = wikibase
    found = Wikidata().documents([Query("a", "?", "Ada Lovelace")], limit, setup(stub, setup_of))
    assert [one.text for one in found[0]] == FACTS[:limit]


def test_it_keeps_the_contract(stub: Stub, setup_of: MakeSetup) -> None:
    stub.answer = wikibase
    check_source(
        Wikidata(), setup(stub, setup_of), [Query("a", "?", "Ada Lovelace"), Query("b", "?"), Query("c", "", "🦊")]
    )
    check_source(Wikidata())


def test_the_budget_is_kept(stub: Stub, setup_of: MakeSetup) -> None:
    stub.answer = wikibase
    ready = setup(stub, setup_of, "knowledge_sources.max_requests=3")
    queries = [Query("a", "?", "Ada Lovelace"), Query("b", "?", "Augusta Lovelace"), Query("c", "?", "Ada Lovelace")]
    with pytest.warns(IlpWarning, match="budget of 3 requests is spent, 1 of 3 queries"):
        found = Wikidata().documents(queries, 9, ready)
    assert [len(one) for one in found] == [4, 0, 4]
    assert ready.ledger.unanswered == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (
            Reply({"error": {"code": "x", "info": "Unrecognized parameter"}}),
            r"without 'search' \(Unrecognized parameter\)",
        ),
        (Reply(["x"]), "expected a Wikibase's api.php in knowledge_sources.wikidata_url"),
        (Reply(b"no"), "answered with no JSON"),
    ],
)
def test_what_is_no_wikibase_is_told(stub: Stub, setup_of: MakeSetup, reply: Reply, reason: str) -> None:
    stub.answer = lambda _: reply
    with pytest.raises(EndpointError, match=reason):
        Wikidata().documents([Query("a", "?", "Ada Lovelace")], 9, setup(stub, setup_of))


@pytest.mark.parametrize(
    "entity", [{}, {"claims": []}, {"claims": {"P1": None}}, {"labels": [], "claims": {"P1": [3]}}]
)
def test_an_entity_without_anything_to_say_gives_nothing(
    stub: Stub, setup_of: MakeSetup, entity: dict[str, Any]
) -> None:
    stub.answer = lambda seen: (
        wikibase(seen) if "wbsearchentities" in seen.path else Reply({"entities": {"Q7259": entity}})
    )
    assert Wikidata().documents([Query("a", "?", "Ada Lovelace")], 9, setup(stub, setup_of)) == [[]]


@pytest.mark.parametrize(
    ("time", "precision", "said"),
    [
        ("+1815-12-10T00:00:00Z", 11, "10 December 1815"),
        ("+1815-12-00T00:00:00Z", 10, "December 1815"),
        ("+1815-00-00T00:00:00Z", 9, "1815"),
        ("-0044-03-15T00:00:00Z", 11, "15 March 44 BC"),
        ("+1800-00-00T00:00:00Z", 7, None),
        ("+1815-13-10T00:00:00Z", 11, None),
        ("", 11, None),
        ("soon", 9, None),
    ],
)
def test_dates_as_far_as_they_are_known(time: str, precision: int, said: str | None) -> None:
    assert _date(time, precision) == said
