"""Deliveries: what is taken, what is not, and that nothing of a stranger's request comes back."""

from __future__ import annotations

import hmac
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ilp_service.errors import SettingsError
from ilp_service.service.configuration import load_configuration
from ilp_service.service.credentials import Credentials
from ilp_service.service.receiver import BODY_BYTES, sign
from tests.service.made_up_desk import MadeUpDesk
from tests.service.web import OLD_SECRET, SECRET, client, encode, event, signed

URL = "/webhooks/mlflow"
NO_NAMES = (None, "", " ", 3, "a/b", "a:b", "a\0", "\ud800", "x" * 257)
NO_VERSIONS = (None, "", True, 0, -1, 1.5, "1.5", "٣", "9" * 5000, 2**31)


@pytest.fixture
def desk() -> MadeUpDesk:
    return MadeUpDesk()


def test_a_delivery_becomes_a_job_and_a_repeated_one_changes_nothing(desk: MadeUpDesk) -> None:
    web, body = client(desk), encode(event("support-bot", "7"))
    headers = signed(body)
    first, again = (web.post(URL, content=body, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json() == {"status": "accepted", "job_id": next(iter(desk.made))}
    assert again.json() == {"status": "known"}
    [job] = desk.made.values()
    assert (job.model, job.version, job.via) == ("support-bot", "7", "webhook")
    assert [delivery.delivery_id for delivery in desk.deliveries] == [headers["X-MLflow-Delivery-Id"]]
    other = web.post(URL, content=body, headers=signed(body))
    assert (other.status_code, other.json()["status"], len(desk.made)) == (200, "accepted", 1)


def test_mlflow_signs_as_we_check() -> None:
    from mlflow.webhooks.delivery import _generate_hmac_signature

    body = '{"name": "Straße"}'
    assert sign("s", "id", "12", body.encode()) == _generate_hmac_signature("s", "id", "12", body)


def test_both_secrets_hold_while_one_takes_the_place_of_the_other(desk: MadeUpDesk) -> None:
    web, body = client(desk), encode(event())
    for secret, status in ((SECRET, 202), (OLD_SECRET, 200), ("a secret that nobody gave out", 401)):
        assert web.post(URL, content=body, headers=signed(body, secret=secret)).status_code == status


def test_signatures_are_compared_in_constant_time_with_every_secret(
    desk: MadeUpDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[object, object]] = []
    honest = hmac.compare_digest

    def watched(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return honest(left, right)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    web, body = client(desk), encode(event())
    for secret, status in ((SECRET, 202), (OLD_SECRET, 200), ("no secret of ours", 401)):
        headers = signed(body, secret=secret)
        compared.clear()
        assert web.post(URL, content=body, headers=headers).status_code == status
        given = headers["X-MLflow-Signature"].encode()
        at = (headers["X-MLflow-Delivery-Id"], headers["X-MLflow-Timestamp"], body)
        assert compared == [(sign(ours, *at).encode(), given) for ours in (SECRET, OLD_SECRET)]


@pytest.mark.parametrize("off", [-301, 302, -10_000_000, 10_000_000])
def test_a_delivery_of_another_time_is_refused(desk: MadeUpDesk, off: int) -> None:
    body = encode(event())
    answer = client(desk).post(URL, content=body, headers=signed(body, timestamp=int(time.time()) + off))
    assert (answer.status_code, desk.made) == (401, {})


@pytest.mark.parametrize("off", [-295, 295])
def test_the_window_goes_both_ways(desk: MadeUpDesk, off: int) -> None:
    body = encode(event())
    assert client(desk).post(URL, content=body, headers=signed(body, timestamp=int(time.time()) + off)).is_success


@pytest.mark.parametrize("name", ["X-MLflow-Delivery-Id", "X-MLflow-Timestamp", "X-MLflow-Signature"])
def test_each_signed_part_counts(desk: MadeUpDesk, name: str) -> None:
    web, body = client(desk), encode(event())
    headers = signed(body)
    without = {key: value for key, value in headers.items() if key != name}
    other = {**headers, name: signed(body, timestamp=int(time.time()) - 5)[name]}
    twice = [*headers.items(), (name, headers[name])]
    for wrong in (without, {**headers, name: ""}, other, twice):
        answer = web.post(URL, content=body, headers=wrong)
        assert (answer.status_code, list(answer.json())) == (401, ["error"])
    assert web.post(URL, content=body + b" ", headers=headers).status_code == 401
    assert desk.made == {}


def test_without_a_secret_webhooks_are_off_and_the_rest_works(desk: MadeUpDesk) -> None:
    web, body = client(desk, secrets=()), encode(event())
    answer = web.post(URL, content=body, headers=signed(body, secret=""))
    assert answer.status_code == 503
    assert "ILP_WEBHOOK_SECRET" in answer.json()["error"]
    assert (web.get("/").status_code, web.get("/api/jobs").status_code, desk.made) == (200, 200, {})


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe{}", "application/json", 400),
        (b'{"a": NaN}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (encode(event()), "text/plain", 415),
        (encode({**event(), "action": "deleted"}), "application/json", 422),
        (encode({**event(), "entity": ["model_version"]}), "application/json", 422),
        (encode({**event(), "data": "x"}), "application/json", 422),
        *((encode(event(name)), "application/json", 422) for name in NO_NAMES),
        *((encode(event("bot", version)), "application/json", 422) for version in NO_VERSIONS),
    ],
)
def test_signed_nonsense_is_refused_in_one_line(desk: MadeUpDesk, body: bytes, kind: str, status: int) -> None:
    answer = client(desk).post(URL, content=body, headers={**signed(body), "Content-Type": kind})
    assert (answer.status_code, desk.made) == (status, {})
    assert re.fullmatch(rb'\{"error":"[^"\n]+"\}', answer.content)


def test_nothing_that_came_is_said_back(desk: MadeUpDesk) -> None:
    body = encode({"entity": "<script>mark", "action": "mark", "data": {"name": "mark/mark"}})
    for headers in (signed(body), {**signed(body), "X-MLflow-Delivery-Id": "mark"}, {"Content-Type": "mark"}):
        assert b"mark" not in client(desk).post(f"{URL}?mark=1", content=body, headers=headers).content


def test_a_large_body_is_refused_before_it_is_read(desk: MadeUpDesk) -> None:
    web, body = client(desk), b" " * (BODY_BYTES + 1)
    assert web.post(URL, content=body, headers=signed(body)).status_code == 413
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        while len(sent) < 160:
            sent.append(65_536)
            yield b" " * 65_536

    answer = web.post(URL, content=endless(), headers=signed(b""))
    assert (answer.status_code, answer.headers["connection"], desk.made) == (413, "close", {})


def test_only_post_is_answered(desk: MadeUpDesk) -> None:
    web = client(desk)
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert web.request(method, URL).status_code == 405


def test_a_full_disk_makes_mlflow_send_again(desk: MadeUpDesk) -> None:
    desk.full = True
    web, body = client(desk), encode(event())
    headers = signed(body)
    answer = web.post(URL, content=body, headers=headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert b"/var/secret" not in answer.content
    desk.full = False
    assert web.post(URL, content=body, headers=headers).status_code == 202


def test_the_delivery_of_a_test_makes_no_job(desk: MadeUpDesk) -> None:
    from mlflow.webhooks.types import ModelVersionCreatedPayload

    web, body = client(desk), encode({**event(), "data": dict(ModelVersionCreatedPayload.example())})
    answer = web.post(URL, content=body, headers=signed(body))
    assert (answer.status_code, answer.json(), desk.made) == (200, {"status": "test"}, {})
    assert web.post(URL, content=body, headers=signed(body, secret=OLD_SECRET + "!")).status_code == 401
    real = encode(event("example_model", "1"))
    assert web.post(URL, content=real, headers=signed(real)).status_code == 202


def test_webhooks_need_a_signature_and_no_token(desk: MadeUpDesk) -> None:
    web = client(desk, token="t" * 20, host="0.0.0.0")  # noqa: S104
    body = encode(event())
    assert web.post(URL, content=body, headers={"Authorization": "Bearer " + "t" * 20}).status_code == 401
    assert web.post(URL, content=body, headers=signed(body) | {"Host": "ilp.example.com"}).status_code == 202


def test_a_delivery_is_answered_within_50_milliseconds(desk: MadeUpDesk) -> None:
    with client(desk) as web:
        took = []
        for number in range(40):
            body = encode(event("bot", number + 1))
            headers = signed(body)
            began = time.perf_counter()
            assert web.post(URL, content=body, headers=headers).status_code == 202
            took.append(time.perf_counter() - began)
    assert sorted(took)[20] < 0.05


def test_secrets_come_from_the_environment_and_from_files(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("third-secret-of-16\n\n first-secret-of-16,second-secret-of-16,\n")
    environment = {"ILP_WEBHOOK_SECRET_FILE": str(file), "ILP_SERVICE_TOKEN": "a token of sixteen"}
    found = Credentials.of(load_configuration(environment=environment).settings)
    assert found.webhook_secrets == ("third-secret-of-16", "first-secret-of-16", "second-secret-of-16")
    assert found.token == "a token of sixteen"  # noqa: S105
    assert "secret-of" not in repr(found)
    assert "sixteen" not in repr(found)
    assert Credentials.of(load_configuration(environment={"ILP_WEBHOOK_SECRET": ""}).settings) == Credentials()


@pytest.mark.parametrize("name", ["ILP_WEBHOOK_SECRET", "ILP_SERVICE_TOKEN"])
def test_secrets_that_can_be_guessed_are_refused_without_showing_them(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} has 7 characters, at least 16") as caught:
        Credentials.of(load_configuration(environment={name: "hunter2"}).settings)
    assert "hunter2" not in str(caught.value)


def test_outcomes_are_counted(desk: MadeUpDesk) -> None:
    web, body = client(desk), encode(event())
    headers = signed(body)
    web.post(URL, content=body, headers=headers)
    web.post(URL, content=body, headers=headers)
    web.post(URL, content=body)
    text = web.get("/metrics").text
    for outcome in ("accepted", "known", "unsigned"):
        assert f'ilp_webhook_deliveries_total{{outcome="{outcome}"}} 1.0' in text
    assert json.loads(web.get("/api/counts").text)["queued"] == 1
