"""Ten thousand deliveries that are not MLflow's, through the whole application: none is taken, none does harm."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Callable

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ilp_service.service.receiver import BODY_BYTES
from tests.service.made_up_desk import MadeUpDesk
from tests.service.web import SECRET, client, encode, event, signed

URL = "http://127.0.0.1:8080/webhooks/mlflow"
HOW_MANY = 10_000
LARGE = b'{"entity": "model_version", "pad": "' + b"x" * (10 * BODY_BYTES) + b'"}'
Forged = tuple[bytes, dict[str, str]]


def cut(dice: random.Random) -> Forged:
    body = encode(event())
    return body[: dice.randrange(len(body))], signed(body)


def altered(dice: random.Random) -> Forged:
    body = encode(event())
    headers = signed(body)
    place = dice.randrange(len(body))
    return body[:place] + bytes([body[place] ^ 1 << dice.randrange(8)]) + body[place + 1 :], headers


def replayed(dice: random.Random) -> Forged:
    body = encode(event())
    return body, signed(body, timestamp=int(time.time()) - dice.randrange(301, 10**9))


def of_tomorrow(dice: random.Random) -> Forged:
    body = encode(event())
    return body, signed(body, timestamp=int(time.time()) + dice.randrange(310, 10**9))


def replayed_with_a_new_time(_dice: random.Random) -> Forged:
    body = encode(event())
    return body, {**signed(body, timestamp=int(time.time()) - 5), "X-MLflow-Timestamp": str(int(time.time()))}


def unsigned(dice: random.Random) -> Forged:
    body = encode(event())
    headers = signed(body)
    for name in dice.sample(sorted(headers)[1:], dice.randint(1, 3)):
        del headers[name]
    return body, headers


def signed_by_another(dice: random.Random) -> Forged:
    body = encode(event())
    return body, signed(body, secret="".join(dice.choices("abcdef0123456789", k=dice.randint(0, 40))))


def strange_signature(dice: random.Random) -> Forged:
    body = encode(event())
    headers = signed(body)
    good = headers["X-MLflow-Signature"]
    strange = [
        *("", "v1,", "v2," + good[3:], good[3:], good + "=", good.lower(), good[:-2] + "==", good + "\t."),
        *(f"{good} {good}", "v1,\xe9" + good[4:], "v1," + "A" * 43 + "=", "v1," + "A" * 5000),
    ]
    return body, {**headers, "X-MLflow-Signature": dice.choice(strange)}


def strange_headers(dice: random.Random) -> Forged:
    body = encode(event())
    name, strange = dice.choice(
        [
            ("X-MLflow-Delivery-Id", ["a.b", "a b", "../..", "\xe9", "'; DROP TABLE jobs", "9" * 5000]),
            ("X-MLflow-Timestamp", ["0", "-1", "1e9", "nan", "9" * 30, "9" * 5000, "\xb2", "now"]),
        ]
    )
    value = dice.choice(strange)
    headers = signed(body, **{"timestamp" if name.endswith("Timestamp") else "delivery_id": value})
    return body, {**headers, name: dice.choice([value, ""])}


def no_json(dice: random.Random) -> Forged:
    good = encode(event())
    other = [json.dumps(event()).encode("utf-16"), gzip.compress(good), b"\xef\xbb\xbf" + good]
    broken = [b"", b"\0", b"{", dice.randbytes(200), b"[" * 50_000, good[:-1], good + b"}"]
    body = dice.choice([*other, *broken])
    return body, signed(body)


def other_event(dice: random.Random) -> Forged:
    changes: list[dict[str, object]] = [
        *({"entity": "registered_model"}, {"action": "deleted"}, {"entity": None}, {"action": {}}),
        *({"data": []}, {"data": {}}, {"data": {"name": "bot"}}, {"data": {"name": "bot", "version": "x"}}),
        {"data": {"name": [], "version": "1"}},
    ]
    body = encode({**event(), **dice.choice(changes)})
    return body, signed(body)


def other_kind(dice: random.Random) -> Forged:
    body = encode(event())
    kind = dice.choice(
        ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"]
    )
    return body, {**signed(body), "Content-Type": kind}


def too_large(dice: random.Random) -> Forged:
    return LARGE, signed(b"{}" if dice.random() < 0.9 else LARGE)


KINDS: tuple[Callable[[random.Random], Forged], ...] = (
    cut, altered, replayed, of_tomorrow, replayed_with_a_new_time, unsigned, signed_by_another, strange_signature,
    strange_headers, no_json, other_event, other_kind,
)  # fmt: skip


def as_sent(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def test_ten_thousand_forged_deliveries() -> None:
    desk, dice = MadeUpDesk(), random.Random(0)
    app = client(desk).app
    answers: Counter[int] = Counter()

    async def send() -> None:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport) as http:
            for number in range(HOW_MANY):
                make = too_large if number % 100 == 99 else KINDS[number % len(KINDS)]
                body, headers = make(dice)
                answer = await http.post(URL, content=body, headers=as_sent(headers))
                answers[answer.status_code] += 1
                assert 400 <= answer.status_code < 500, (make.__name__, answer.status_code)
                assert list(answer.json()) == ["error"]

    asyncio.run(send())
    assert sum(answers.values()) == HOW_MANY
    assert answers[413] == HOW_MANY // 100
    assert (desk.made, desk.deliveries) == ({}, [])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=400)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(encode),
    name=st.text(max_size=300),
    sign_it=st.booleans(),
)
def test_whatever_is_signed_is_a_job_of_that_name_or_an_error(
    monkeypatch: pytest.MonkeyPatch, body: bytes, name: str, sign_it: bool
) -> None:
    desk = MadeUpDesk()
    web = client(desk)
    assert web.post(URL, content=body, headers=signed(body, secret=SECRET if sign_it else "no")).status_code in {
        400, 401, 422,
    }  # fmt: skip
    assert desk.made == {}
    named = encode(event(name, "3"))
    answer = web.post(URL, content=named, headers=signed(named))
    assert answer.status_code in {202, 422}
    assert [job.model for job in desk.made.values()] == ([name] if answer.status_code == 202 else [])
