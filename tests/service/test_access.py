"""Who is let in: everything needs the token unless the service is bound to loopback, and no other site may use it."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from urllib.parse import quote

import httpx2
import pytest
from starlette.testclient import TestClient

from ilp_service.errors import SettingsError
from ilp_service.service.access import COOKIE, SESSION_SECONDS, Access, is_loopback, safe_way
from ilp_service.service.guesses import MOST, NETWORKS, SECONDS, Guesses
from ilp_service.service.openapi import document
from tests.service.made_up_desk import MadeUpDesk
from tests.service.web import TOKEN, application, client, served

JOB = "0" * 32
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
OWN = {"Origin": "http://127.0.0.1:8080"}
OPERATIONS = [
    (method.upper(), path.format(job_id=JOB))
    for path, item in document()["paths"].items()
    for method in item
    if method in {"get", "post"}
]
EVERYTHING = [
    *OPERATIONS,
    *(("GET", path) for path in ("/", "/openapi.json", "/metrics", f"/jobs/{JOB}", f"/jobs/{JOB}/report", "/nothing")),
    *(("POST", path) for path in ("/jobs", f"/jobs/{JOB}/cancel", f"/jobs/{JOB}/retry", "/logout")),
    *(("HEAD", "/"), ("PUT", "/api/jobs"), ("DELETE", f"/jobs/{JOB}"), ("OPTIONS", "/"), ("TRACE", "/")),
]


@pytest.fixture
def desk() -> MadeUpDesk:
    return MadeUpDesk()


@pytest.fixture
def outside(desk: MadeUpDesk) -> TestClient:
    desk.put("secret-model", reason="a secret reason", report_uri="r.html")
    return client(desk, token=TOKEN, host="0.0.0.0")  # noqa: S104


@pytest.mark.parametrize("given", [None, "", "Bearer ", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN])
def test_without_the_token_nothing_is_seen_or_done(outside: TestClient, desk: MadeUpDesk, given: str | None) -> None:
    before = dict(desk.made)
    headers = {} if given is None else {"Authorization": given}
    for method, path in EVERYTHING:
        answer = outside.request(method, path, headers=headers)
        assert answer.status_code in {303, 401}, (method, path)
        assert answer.status_code == 401 or answer.headers["location"].startswith("/login?next=/")
        assert "secret" not in answer.text
    assert desk.made == before
    assert outside.get("/healthz").status_code == outside.get("/readyz").status_code == 200
    assert outside.get("/static/service.css").status_code == 200


def test_with_the_token_everything_is(outside: TestClient) -> None:
    for method, path in EVERYTHING:
        answer = outside.request(method, path, headers=BEARER | OWN)
        assert answer.status_code not in {401, 403, 421}, (method, path)
        assert answer.status_code < 500
    assert "secret-model" in outside.get("/", headers=BEARER).text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.com", "127.evil.com", "localhost.evil.com"])  # noqa: S104
def test_what_others_can_reach_does_not_start_without_a_token(host: str) -> None:
    with pytest.raises(SettingsError, match="ILP_SERVICE_TOKEN"):
        Access(host, None)
    assert Access(host, TOKEN).needs_token


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST."])
def test_loopback_needs_none(host: str) -> None:
    assert is_loopback(host)
    assert not Access(host, None).needs_token


def test_tokens_and_cookies_are_compared_in_constant_time(outside: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[object, object]] = []
    honest: Callable[..., bool] = hmac.compare_digest

    def watched(left: str | bytes, right: str | bytes) -> bool:
        compared.append((left, right))
        return honest(left, right)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    assert outside.get("/", headers={"Authorization": "Bearer guess"}).status_code == 303
    assert compared == [(b"guess", TOKEN.encode())]
    forged = f"{10**11}.{'a' * 16}.{'b' * 64}"
    assert outside.get("/", headers={"Cookie": f"{COOKIE}={forged}"}).status_code == 303
    assert compared[-1][1] == "b" * 64
    outside.post("/login", data={"token": "another guess"}, headers=OWN)
    assert compared[-1] == (b"another guess", TOKEN.encode())


def test_after_ten_wrong_tokens_none_is_looked_at_for_a_minute(desk: MadeUpDesk) -> None:
    web = client(desk, token=TOKEN, host="0.0.0.0")  # noqa: S104
    assert web.post("/login", data={"token": TOKEN}, headers=OWN).status_code == 303
    cookie = {"Cookie": f"{COOKIE}={web.cookies[COOKIE]}"}
    web.cookies.clear()
    # By both ways together.
    for number in range(MOST // 2):
        assert web.get("/api/jobs", headers={"Authorization": f"Bearer guess-{number}"}).status_code == 401
        assert web.post("/login", data={"token": f"guess {number}"}, headers=OWN).status_code == 401
    form = web.post("/login", data={"token": TOKEN}, headers=OWN)
    assert (form.status_code, "set-cookie" in form.headers) == (429, False)
    assert "Too many wrong tokens" in form.text
    for path in ("/api/jobs", "/metrics", "/"):
        asked = web.get(path, headers=BEARER)
        assert asked.status_code == 429
        assert 0 < int(asked.headers["retry-after"]) <= 60
        assert list(asked.json()) == ["error"]
    assert 0 < int(form.headers["retry-after"]) <= 60
    # Nothing else is held up: the form, probes, and whoever is in already.
    assert web.get("/login").status_code == web.get("/healthz").status_code == 200
    assert web.get("/", headers=cookie).status_code == web.get("/api/jobs", headers=cookie).status_code == 200
    # Other addresses may still come in.
    elsewhere = TestClient(web.app, "http://127.0.0.1:8080", follow_redirects=False, client=("192.0.2.1", 1))
    assert elsewhere.get("/api/jobs", headers=BEARER).status_code == 200


def test_what_is_ready_is_no_way_to_try_tokens(desk: MadeUpDesk) -> None:
    web = client(desk, token=TOKEN, host="0.0.0.0")  # noqa: S104
    desk.why_not = "The database is away."
    for number in range(MOST):
        assert web.get("/readyz", headers={"Authorization": f"Bearer guess-{number}"}).status_code == 503
    assert web.get("/api/jobs", headers=BEARER).status_code == 429
    assert "reason" not in web.get("/readyz", headers=BEARER).json()


def test_those_behind_a_proxy_are_told_apart_if_it_is_believed(
    desk: MadeUpDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the server of `ilp serve`, which believes a proxy of this machine unless it is told otherwise."""

    def answers(address: str, token: str, caller: str) -> int:
        headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": f"203.0.113.9, {caller}"}
        return httpx2.get(f"{address}/api/jobs", headers=headers).status_code

    for believed, other in (("127.0.0.1", 200), ("192.0.2.99", 429)):
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", believed)
        with served(application(desk, token=TOKEN)) as address:
            for number in range(MOST):
                answers(address, f"guess-{number}", "192.0.2.1")
            assert answers(address, TOKEN, "192.0.2.1") == 429
            assert answers(address, TOKEN, "192.0.2.2") == other


def test_guesses_are_bounded_in_time_and_in_memory() -> None:
    now = [100.0]
    guesses = Guesses(lambda: now[0])
    for number in range(MOST - 1):
        guesses.wrong("192.0.2.1", f"guess {number}")
        now[0] += 1
    for _ in range(50):
        # An old token that a program repeats is one guess.
        guesses.wrong("192.0.2.1", "guess 0")
    assert guesses.wait("192.0.2.1") == 0
    guesses.wrong("192.0.2.1", "one more")
    assert guesses.wait("192.0.2.1") == SECONDS - (MOST - 1)
    assert guesses.wait("::ffff:192.0.2.1") > 0
    assert guesses.wait("192.0.2.2") == 0
    now[0] += guesses.wait("192.0.2.1")
    assert guesses.wait("192.0.2.1") == 0
    guesses.wrong("192.0.2.1", "and another")
    assert guesses.wait("192.0.2.1") == 1

    for number in range(MOST):
        guesses.wrong(f"2001:db8::{number:x}", f"guess {number}")
    assert guesses.wait("2001:db8::ffff") > 0
    assert guesses.wait("2001:db8:0:1::") == 0

    for number in range(2 * NETWORKS):
        guesses.wrong(f"no address {number} " + "x" * 10_000, "guess")
    assert len(guesses) == NETWORKS
    now[0] += SECONDS
    assert guesses.wait("2001:db8::ffff") == 0


def test_a_session_is_signed_ends_and_dies_with_its_token(desk: MadeUpDesk) -> None:
    now = [1_000_000.0]
    first = Access("0.0.0.0", TOKEN, lambda: now[0])  # noqa: S104
    good = first.session()
    until, number, mac = good.split(".")
    wrong = [
        "",
        "x",
        f"{int(until) + 1}.{number}.{mac}",
        f"{until}.{number[::-1]}.{mac}",
        f"{until}.{number}.{'0' * 64}",
    ]

    def lets_in(rules: Access, cookie: str) -> bool:
        from starlette.requests import Request

        return rules.let_in(Request({"type": "http", "headers": [(b"cookie", f"{COOKIE}={cookie}".encode())]}))

    assert lets_in(first, good)
    assert lets_in(Access("0.0.0.0", TOKEN, lambda: now[0]), good)  # noqa: S104
    assert not any(lets_in(first, cookie) for cookie in wrong)
    assert not lets_in(Access("0.0.0.0", TOKEN + "!", lambda: now[0]), good)  # noqa: S104
    now[0] += SESSION_SECONDS + 1
    assert not lets_in(first, good)


def test_signing_in_and_out(outside: TestClient) -> None:
    assert outside.post("/login", data={"token": "wrong"}, headers=OWN).status_code == 401
    answer = outside.post("/login", data={"token": f" {TOKEN} ", "next": "/?model=a"}, headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/?model=a")
    cookie = answer.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/"))
    assert TOKEN not in cookie
    assert outside.get("/").status_code == 200
    assert outside.get("/login?next=/").headers["location"] == "/"
    assert outside.post("/logout").status_code == 303
    assert outside.get("/").status_code == 303


@pytest.mark.parametrize(
    "way", ["//evil.test", "https://evil.test", "/\\evil.test", "javascript:x", "/api/jobs", "/logout"]
)
def test_signing_in_leads_nowhere_else(outside: TestClient, way: str) -> None:
    assert safe_way(way) == "/"
    assert outside.post("/login", data={"token": TOKEN, "next": way}, headers=OWN).headers["location"] == "/"
    outside.cookies.clear()
    assert f'value="{way}"' not in outside.get(f"/login?next={quote(way)}").text


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:8080"},
        {"Origin": "http://evil.test"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "http://[broken"},
        FORM,
    ],
)
def test_another_site_cannot_send_forms(desk: MadeUpDesk, headers: dict[str, str]) -> None:
    job = desk.put("m")
    web = client(desk)
    for path in (f"/jobs/{job.job_id}/cancel", f"/api/jobs/{job.job_id}/cancel", "/jobs"):
        answer = web.post(path, content=b"model=x&version=1", headers=FORM | headers)
        assert answer.status_code == 403, path
    assert [each.status for each in desk.made.values()] == ["queued"]


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://127.0.0.1:8080"}, {"Sec-Fetch-Site": "same-origin", "Origin": "https://ilp.example"}]
)
def test_our_own_page_can(desk: MadeUpDesk, headers: dict[str, str]) -> None:
    job = desk.put("m")
    answer = client(desk).post(f"/jobs/{job.job_id}/cancel", headers=FORM | headers)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job.job_id}")
    assert desk.made[job.job_id].status == "cancelled"


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:8080", "127.0.0.1.evil.test", "127.0.0.1@evil.test", "", "[::1", "a b"]
)
def test_a_name_that_was_pointed_at_loopback_is_turned_away(desk: MadeUpDesk, host: str) -> None:
    web = client(desk)
    for method, path in EVERYTHING:
        assert web.request(method, path, headers={"Host": host}).status_code == 421, (method, path)
    assert web.get("/", headers={"Host": "localhost:8080"}).status_code == 200
    assert web.get("/", headers={"Host": "[::1]:8080"}).status_code == 200


def test_every_answer_keeps_browsers_in_check(desk: MadeUpDesk, outside: TestClient) -> None:
    for web in (client(desk), outside):
        for method, path in [*EVERYTHING, ("GET", "/healthz"), ("GET", "/login"), ("GET", "/static/service.css")]:
            headers = web.request(method, path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
            assert headers["cache-control"] == ("no-cache" if path.startswith("/static/") else "no-store")
            assert "server" not in headers


def test_files_of_the_page_are_asked_for_once(desk: MadeUpDesk) -> None:
    web = client(desk)
    first = web.get("/static/service.css")
    again = web.get("/static/service.css", headers={"If-None-Match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/",
    ):
        assert web.get(path).status_code == 404


def test_head_is_get_without_a_body_and_other_methods_are_named(desk: MadeUpDesk) -> None:
    job = desk.put("m")
    web = client(desk)
    for path in ("/", f"/jobs/{job.job_id}", "/api/jobs", f"/api/jobs/{job.job_id}", "/healthz", "/metrics"):
        got, head = web.get(path), web.head(path)
        assert (head.status_code, head.headers["content-type"], head.content) == (
            got.status_code, got.headers["content-type"], b"",
        )  # fmt: skip
    wrong = web.delete("/api/jobs")
    assert (wrong.status_code, set(wrong.headers["allow"].split(", "))) == (405, {"GET", "HEAD", "POST"})
    assert web.get("/jobs").headers["location"] == "/"
    assert web.get("/api/jobs/").status_code == 404
