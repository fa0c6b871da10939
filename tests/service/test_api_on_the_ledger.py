"""The API over the service's real book, asked whatever its OpenAPI document allows and much that it does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from starlette.testclient import TestClient

from ilp_service.service.configuration import ServiceSettings
from ilp_service.service.jobs import Jobs
from tests.service.web import TOKEN, application

STUB = (sys.executable, str(Path(__file__).parent / "stub_child.py"))
HOST = {"Host": "127.0.0.1"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Later:
    """The desk of an application that is there before its service."""

    def __init__(self) -> None:
        self.real: Jobs | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.real, name)


later = Later()


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory, _store_template: Path) -> Iterator[Jobs]:
    """A service that takes everything down, and does the jobs of no model."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "mlruns").mkdir()
    (folder / "mlruns" / "mlflow.db").write_bytes(_store_template.read_bytes())
    store = f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"
    given: dict[str, Any] = {"tracking_uri": store, "names": ("none-of-them",), "settings": {"work_dir": str(folder)}}
    jobs = Jobs(ServiceSettings(**given), command=STUB)
    jobs.start()
    for number in range(30):
        jobs.submit(f"Bot-{number % 3}", str(number + 1), via="api")
    later.real = jobs
    yield jobs
    later.real = None
    jobs.stop()


document = schemathesis.openapi.from_asgi("/openapi.json", application(later, token=TOKEN), headers=HOST | BEARER)
_BOUNDED = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
)


@document.parametrize()
@_BOUNDED
def test_the_service_answers_as_its_document_says(case: Any) -> None:  # noqa: ANN401
    case.headers = {**(case.headers or {}), **HOST, **BEARER}
    answer = case.call()
    assert answer.status_code < 500
    case.validate_response(answer, headers=HOST | BEARER)


@document.parametrize()
@_BOUNDED
def test_without_the_token_every_answer_is_401(case: Any, place: Jobs) -> None:  # noqa: ANN401
    before = place.counts()
    case.headers = {**HOST, "Sec-Fetch-Site": "none"}
    answer = case.call()
    case.validate_response(answer, checks=[schemathesis.checks.response_schema_conformance])
    assert answer.status_code == 401
    assert place.counts() == before


STRANGE = ("", "\x00", "\ud800", "é", "Å", "%", "_", "\\", "'", '"', "Bot-1' OR 1=1 --", "a" * 256, "\U0001f600", "ﬁ")


@pytest.mark.parametrize("text", STRANGE)
def test_names_of_every_script_are_found_as_they_are_written(place: Jobs, text: str) -> None:
    web = TestClient(application(place), "http://127.0.0.1:8080", raise_server_exceptions=False)
    name = f"x{text}x"[:256]
    body, kind = json.dumps({"model": name, "version": 1}), {"Content-Type": "application/json"}
    answer = web.post("/api/jobs", content=body, headers=kind)
    found = web.get(f"/api/jobs?model={quote(name, errors='surrogatepass')}")
    if text in {"\x00", "\ud800"}:
        assert answer.status_code == 422
        assert found.status_code == 400 or found.json()["items"] == []
        return
    assert answer.status_code in {200, 202}
    assert answer.json()["job_id"] in {job["job_id"] for job in found.json()["items"]}
    if text in {"%", "_", "\\"}:
        assert {job["model"] for job in found.json()["items"]} == {name}
    for other in (name.upper(), name.lower()):
        if other.lower() == name.lower():
            again = web.get("/api/jobs", params={"model": other}).json()["items"]
            assert answer.json()["job_id"] in {job["job_id"] for job in again}, other
    assert web.get("/", params={"model": name}).status_code == 200
