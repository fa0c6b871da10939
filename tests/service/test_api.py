"""The JSON API, and that it is what its OpenAPI document says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from starlette.testclient import TestClient

from ilp_service.service.desk import STATUSES
from tests.service.made_up_desk import MadeUpDesk
from tests.service.web import client

MANY = 7


def filled() -> MadeUpDesk:
    desk = MadeUpDesk()
    for number, status in enumerate(STATUSES * MANY):
        desk.put(f"Bot-{number % 3}", str(number + 1), status, progress=0.5, reason="<b>why</b>", run_id="r" * 32)
    return desk


@pytest.fixture
def desk() -> MadeUpDesk:
    return filled()


@pytest.fixture
def web(desk: MadeUpDesk) -> TestClient:
    return client(desk)


def test_jobs_are_listed_page_by_page_each_once(web: TestClient, desk: MadeUpDesk) -> None:
    found: list[str] = []
    after = ""
    while True:
        page = web.get("/api/jobs", params={"limit": 5, **({"after": after} if after else {})}).json()
        found += [job["job_id"] for job in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert found == list(reversed(desk.made))


def test_filters_by_model_and_status(web: TestClient) -> None:
    for status in STATUSES:
        found = web.get("/api/jobs", params={"model": "bOT-1", "status": status}).json()["items"]
        assert {(job["model"], job["status"]) for job in found} == {("Bot-1", status)}
    assert web.get("/api/jobs?model=nothing").json() == {"items": [], "next": None}
    counts = web.get("/api/counts").json()
    assert counts == dict.fromkeys(STATUSES, MANY)


def test_counts_are_those_of_the_filter(web: TestClient, desk: MadeUpDesk) -> None:
    for part in ("bOT-1", "Bot", "nothing"):
        counts = web.get("/api/counts", params={"model": part}).json()
        have = [job.status for job in desk.made.values() if part.lower() in job.model.lower()]
        assert counts == {status: have.count(status) for status in STATUSES}
    assert web.get("/api/counts?model=%00").status_code == 400


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "limit=٣", "status=lost", "model=%00", f"model={'x' * 300}", "after=%0a"],
)
def test_bad_questions_are_told_what_is_expected(web: TestClient, query: str) -> None:
    answer = web.get(f"/api/jobs?{query}")
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_a_version_is_handed_in_once(web: TestClient, desk: MadeUpDesk) -> None:
    first = web.post("/api/jobs", json={"model": "new", "version": "3", "priority": 5})
    again = web.post("/api/jobs", json={"model": "new", "version": 3})
    assert (first.status_code, first.json()["new"]) == (202, True)
    assert (again.status_code, again.json()) == (200, {"job_id": first.json()["job_id"], "new": False})
    job = web.get(first.headers["location"]).json()
    assert (job["model"], job["version"], job["via"], job["priority"]) == ("new", "3", "api", 5)


ONE = {"model": "x", "version": "1"}


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"model": "x"}, {"version": "1"}, [], 3),
        *({**ONE, "version": True}, {**ONE, "priority": 101}, {**ONE, "priority": True}, {**ONE, "priority": 0.5}),
        *({**ONE, "model": "x/y"}, {**ONE, "more": 1}),
    ],
)
def test_a_version_that_cannot_be(web: TestClient, desk: MadeUpDesk, body: object) -> None:
    before = len(desk.made)
    assert web.post("/api/jobs", json=body).status_code == 422
    assert len(desk.made) == before


def test_cancel_and_retry(web: TestClient, desk: MadeUpDesk) -> None:
    waiting, failed = desk.put("w"), desk.put("f", status="failed")
    assert web.post(f"/api/jobs/{waiting.job_id}/retry").status_code == 409
    assert web.post(f"/api/jobs/{waiting.job_id}/cancel").json()["status"] == "cancelled"
    assert web.post(f"/api/jobs/{waiting.job_id}/cancel").status_code == 409
    assert web.post(f"/api/jobs/{failed.job_id}/retry").json()["status"] == "queued"
    for path in ("0" * 32, "x", "%00", "..%2f..", "0" * 5000):
        assert web.get(f"/api/jobs/{path}").status_code == 404


def test_moments_are_utc(web: TestClient, desk: MadeUpDesk) -> None:
    at = datetime(2026, 11, 23, 12, 0, 0, 250_000)
    job = desk.put("m", started_at=at, ended_at=at.replace(tzinfo=UTC))
    found = web.get(f"/api/jobs/{job.job_id}").json()
    assert found["started_at"] == found["ended_at"] == "2026-11-23T12:00:00.250Z"


def test_a_ledger_that_is_out_of_reach_is_503(web: TestClient, desk: MadeUpDesk) -> None:
    desk.full = True
    answer = web.post("/api/jobs", json={"model": "new", "version": "3"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "disk is full" in answer.json()["error"]


def test_a_defect_says_nothing_of_itself(web: TestClient, desk: MadeUpDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(**_filter: object) -> None:
        raise RuntimeError("inner/path")

    monkeypatch.setattr(desk, "counts", breaks)
    answer = web.get("/api/counts")
    assert (answer.status_code, list(answer.json())) == (500, ["error"])
    assert "inner" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_probes(web: TestClient, desk: MadeUpDesk) -> None:
    assert (web.get("/healthz").status_code, web.get("/readyz").status_code) == (200, 200)
    desk.why_not = "The database is away."
    assert (web.get("/healthz").status_code, web.get("/readyz").status_code) == (200, 503)
    assert web.get("/readyz").json()["reason"] == "The database is away."
    outside = client(desk, token="t" * 16).get("/readyz")
    assert (outside.status_code, outside.json()) == (503, {"status": "not ready"})


def test_metrics_have_few_series_whatever_the_models_are_called(desk: MadeUpDesk) -> None:
    web = client(desk)
    few = web.get("/metrics").text
    for number in range(500):
        desk.put(f"model-{number}", "1", "failed", reason=f"reason {number}")
    many = web.get("/metrics").text
    assert len(many.splitlines()) == len(few.splitlines())
    assert f'ilp_jobs{{status="failed"}} {MANY + 500}.0' in many
    assert "model-" not in many
    age = next(float(line.split()[1]) for line in many.splitlines() if line.startswith("ilp_queue_age_seconds "))
    assert age > 0


document = schemathesis.openapi.from_asgi("/openapi.json", client(filled()).app, headers={"Host": "127.0.0.1"})


@document.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
def test_the_api_is_what_its_document_says(case: Any) -> None:  # noqa: ANN401
    case.headers = {**(case.headers or {}), "Host": "127.0.0.1"}
    answer = case.call()
    assert answer.status_code < 500
    case.validate_response(answer, headers={"Host": "127.0.0.1"})
