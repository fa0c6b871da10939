"""The service as a user of an MLflow server with basic authentication: what it needs, and what it says without."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.service_parts import Server, book, mlflow_server, service_server
from ilp_service.errors import TrackingError
from ilp_service.tracking import watch
from ilp_service.tracking.grants import missing_grant
from ilp_service.tracking.store import Tracking

ADMIN, PASSWORD = "admin", "a password of these tests"
CONFIG = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@pytest.mark.parametrize(
    ("refusal", "grant"),
    [
        (
            "request to endpoint /api/2.0/mlflow/model-versions/set-tag failed with error code 403",
            "EDIT on the registered",
        ),
        ("request to endpoint /api/2.0/mlflow/model-versions/get failed with error code 403", "READ on the registered"),
        ("request to endpoint /api/2.0/mlflow/model-versions/delete-tag failed with 403", "MANAGE on the registered"),
        ("request to endpoint /api/2.0/mlflow/runs/create failed with error code 403", "EDIT on the experiment"),
        ("request to endpoint /api/2.0/mlflow/runs/get failed with error code 403", "READ on the experiment"),
        ("request to endpoint /api/2.0/mlflow/experiments/create failed with 403", "the right to create experiments"),
        ("request to endpoint /api/2.0/mlflow/webhooks failed with error code 403", "to be an administrator"),
        ("403 Client Error for url: http://h/api/2.0/mlflow-artifacts/artifacts/0/x/f.txt", "EDIT on the experiment"),
    ],
)
def test_a_refused_call_names_its_grant(refusal: str, grant: str) -> None:
    assert str(missing_grant(refusal)).startswith(grant)


def test_other_messages_name_no_grant() -> None:
    assert missing_grant("403") is None
    assert missing_grant("request to endpoint /api/2.0/mlflow/prompts/forget failed with error code 403") is None


class Users:
    """The server, and people who use it."""

    def __init__(self, server: Server) -> None:
        self.uri = server.address

    def ask(self, path: str, **body: str) -> None:
        token = b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {token}"}
        request = urllib.request.Request(f"{self.uri}{path}", json.dumps(body).encode(), headers)  # noqa: S310
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310

    def make(self, name: str, **grants: str) -> dict[str, str]:
        """A user with grants on all resources of a type; the variables with which it is one."""
        self.ask("/api/2.0/mlflow/users/create", username=name, password=PASSWORD)
        for kind, permission in grants.items():
            path = "/api/3.0/mlflow/users/permissions/grant"
            self.ask(path, username=name, resource_type=kind, resource_id="*", permission=permission)
        return {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": PASSWORD}


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory, _store_template: Path) -> Iterator[Users]:
    folder = tmp_path_factory.mktemp("users")
    shutil.copy(_store_template, folder / "mlflow.db")
    (folder / "auth.ini").write_text(CONFIG.format(folder=folder))
    server = mlflow_server(
        folder,
        ILP_MLFLOW_AUTH="true",
        MLFLOW_AUTH_CONFIG_PATH=str(folder / "auth.ini"),
        MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORD,
        MLFLOW_FLASK_SERVER_SECRET_KEY="a key of these tests",  # noqa: S106
    )
    server.start()
    try:
        yield Users(server)
    finally:
        server.stop()


def as_user(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def version(users: Users, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Name of a model whose version 1 somebody else registered."""
    as_user(monkeypatch, {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": PASSWORD})
    from mlflow import MlflowClient

    client = MlflowClient(users.uri)
    name = f"model-of-{tmp_path.name}"
    run_id = client.create_run("0").info.run_id
    client.create_registered_model(name)
    client.create_model_version(
        name, f"runs:/{run_id}/m", run_id, {"ilp.data": str(tmp_path / "data.jsonl")}, await_creation_for=0
    )
    (tmp_path / "data.jsonl").write_text("{}\n")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return name


def test_a_reader_is_told_that_it_needs_edit(users: Users, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, users.make("reader"))
    tracking = Tracking(users.uri)
    assert watch.look_up(tracking, version, "1").number == "1"
    with pytest.raises(TrackingError, match="this user needs EDIT on the registered model") as caught:
        watch.retag_version(tracking, version, "1", {"ilp.status": "queued"})
    assert PASSWORD not in str(caught.value)


def test_somebody_whom_the_server_does_not_know_is_told_so(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, {"MLFLOW_TRACKING_USERNAME": "nobody", "MLFLOW_TRACKING_PASSWORD": PASSWORD})
    with pytest.raises(TrackingError, match="check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        Tracking(users.uri).client()


def test_edit_is_enough_to_set_tags_and_to_take_them_off(
    users: Users, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_user(monkeypatch, users.make("editor", registered_model="EDIT"))
    tracking = Tracking(users.uri)
    watch.retag_version(tracking, version, "1", {"ilp.status": "failed", "ilp.reason": "A sentence."})
    # Deleting a tag would take MANAGE.
    watch.retag_version(tracking, version, "1", {"ilp.status": "queued", "ilp.reason": None})
    tags = watch.look_up(tracking, version, "1").tags
    assert tags["ilp.status"] == "queued"
    assert not tags.get("ilp.reason")


def wait_until(met: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


@pytest.fixture
def start(users: Users, version: str, tmp_path: Path) -> Iterator[Callable[[dict[str, str]], Server]]:
    """Start the service, with a stub for the diagnosis, as somebody."""
    started: list[Server] = []

    def begin(who: dict[str, str]) -> Server:
        # Whoever makes the experiment may do everything with it.
        experiment = f"ilp of {who['MLFLOW_TRACKING_USERNAME']}"
        settings: dict[str, Any] = {"names": version, "backfill": True, "interval": 1, "data_dirs": tmp_path}
        service = service_server(tmp_path / "service", users.uri, stub=True, experiment=experiment, **settings)
        service.environment |= who
        started.append(service)
        service.start()
        return service

    yield begin
    for service in started:
        service.stop()


def test_the_service_does_what_it_may_and_says_which_grant_is_missing(
    users: Users, start: Callable[[dict[str, str]], Server], tmp_path: Path
) -> None:
    service = start(users.make("service-reader"))
    log = tmp_path / "service" / "service.1.log"
    wait_until(lambda: [row["status"] for row in book(service.folder)] == ["done"], log)
    wait_until(lambda: "this user needs EDIT on the registered model" in log.read_text(), log)
    assert PASSWORD not in log.read_text()


def test_the_service_needs_edit_on_the_models_and_nothing_more(
    users: Users,
    version: str,
    start: Callable[[dict[str, str]], Server],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    who = users.make("service-editor", registered_model="EDIT")
    as_user(monkeypatch, who)
    start(who)
    log = tmp_path / "service" / "service.1.log"
    tracking = Tracking(users.uri)
    wait_until(lambda: watch.look_up(tracking, version, "1").tags.get("ilp.status") == "done", log)
    assert "refuses" not in log.read_text()
