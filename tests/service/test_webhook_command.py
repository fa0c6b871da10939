"""``ilp webhook`` against real MLflow servers, with what webhooks need and without."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ilp_service.cli import ilp
from ilp_service.errors import EndpointError, IlpError, ModelNotFoundError, SettingsError, TrackingError
from ilp_service.service.receiver import sign
from ilp_service.tracking import webhooks
from ilp_service.tracking.store import Tracking
from tests.service.mlflow_server import MlflowServer

SECRET = "a secret of these tests"  # noqa: S105
KEYS = ("bWFkZSBmb3IgYmVuY2htYXJrcyBhbG9uZSwgMzIgYnk=", "b3RoZXIgdGhhbiB0aGUgZmlyc3Qgb25lLCAzMiBieXQ=")
OPEN = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}


class _Receiver(http.server.BaseHTTPRequestHandler):
    """Judges signatures as the service does."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        given = (str(self.headers[f"X-MLflow-{name}"]) for name in ("Delivery-Id", "Timestamp", "Signature"))
        delivery_id, timestamp, signature = given
        fits = self.path == "/webhooks/mlflow" and signature == sign(SECRET, delivery_id, timestamp, body)
        self.send_response(200 if fits else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"status": "test"} if fits else {"error": "The signature is wrong."}).encode())

    def log_message(self, *_arguments: object) -> None: ...


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, _store_template: Path) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path_factory.mktemp("server"), _store_template, **OPEN, **{webhooks.KEY: KEYS[0]})
    made.start()
    yield made
    made.stop()


@pytest.fixture
def bare_server(tmp_path: Path, _store_template: Path) -> MlflowServer:
    """With none of the settings that webhooks need, and not started."""
    return MlflowServer(tmp_path, _store_template)


@pytest.fixture
def environment(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("ILP_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(ilp, ["webhook", *arguments])


def refusal(*arguments: str) -> IlpError:
    error = call(*arguments).exception
    assert isinstance(error, IlpError), error
    assert SECRET not in str(error)
    return error


@pytest.mark.usefixtures("environment")
def test_a_webhook_is_installed_once_tried_listed_and_removed(address: str) -> None:
    first = call("install", address)
    assert first.exit_code == 0, first.output
    assert f"installed for {address}/webhooks/mlflow" in first.output
    assert "MLflow reaches the service" in first.output
    again = call("install", f"{address}/webhooks/mlflow")
    assert "renewed for" in again.output

    (found,) = json.loads(call("list", "--json").stdout)["webhooks"]
    assert (found["name"], found["events"], found["active"]) == ("ilp-service", [webhooks.EVENT], True)
    assert SECRET not in first.output + call("list").output
    assert "the secret fits" in call("test", found["webhook_id"]).output

    assert "removed" in call("remove").output
    assert "has no webhook with the name 'ilp-service'" in str(refusal("remove"))
    assert isinstance(refusal("test", "nonsense"), ModelNotFoundError)
    assert call("list").stdout == ""


@pytest.mark.usefixtures("environment")
def test_what_is_wrong_with_the_receiver_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ILP_WEBHOOK_SECRET", "another secret altogether")
    error = refusal("install", address)
    assert isinstance(error, EndpointError)
    assert "knows another secret" in str(error)
    monkeypatch.setenv("ILP_WEBHOOK_SECRET", SECRET)
    assert "HTTP 401" not in str(error)
    error = refusal("install", "http://127.0.0.1:9/")
    assert "MLflow cannot reach it" in str(error)
    assert "Connection refused" in str(error)
    assert len(str(error)) < 300
    assert call("install", "http://127.0.0.1:9", "--no-test").exit_code == 0
    assert call("remove").exit_code == 0


@pytest.mark.usefixtures("environment")
def test_the_address_may_come_from_the_surroundings(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ILP_SERVICE_URL", address)
    assert f"installed for {address}/webhooks/mlflow" in call("install").output
    assert call("remove").exit_code == 0


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("url", ["service:8350", "ftp://service/x", "http://user:word@service/x"])
def test_addresses_that_are_none_are_refused(url: str) -> None:
    assert isinstance(refusal("install", url), SettingsError)


@pytest.mark.usefixtures("environment")
def test_without_a_secret_or_a_server_there_is_no_webhook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ILP_WEBHOOK_SECRET")
    assert "set ILP_WEBHOOK_SECRET_FILE" in str(refusal("install"))
    monkeypatch.setenv("ILP_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("ILP_SERVICE_HOST", "0.0.0.0")  # noqa: S104
    assert "no address to deliver to" in str(refusal("install"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert "only an MLflow server sends webhooks" in str(refusal("list"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "does not answer" in str(refusal("list"))


@pytest.mark.timeout(120)
def test_which_setting_of_the_server_is_missing_is_told(
    bare_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("ILP_WEBHOOK_SECRET", SECRET)
    server = bare_server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.start()
    try:
        assert f"without {webhooks.KEY}" in str(refusal("install", "http://127.0.0.1:9"))
        for url, missing in (
            ("http://127.0.0.1:9", "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https"),
            ("https://127.0.0.1:9", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true"),
            ("https://nowhere.invalid", "does not know the host"),
        ):
            with pytest.raises(TrackingError, match=missing):
                webhooks.put_webhook(Tracking(server.uri), "one", url, SECRET)
        server.stop()
        # Made with one key, and read with another.
        server.environment.update(OPEN, **{webhooks.KEY: KEYS[0]})
        server.start()
        assert call("install", "http://127.0.0.1:9", "--no-test").exit_code == 0
        server.stop()
        server.environment[webhooks.KEY] = KEYS[1]
        server.start()
        assert "cannot read its own webhooks" in str(refusal("list"))
        assert "cannot read its own webhooks" in str(refusal("install", "http://127.0.0.1:9"))
    finally:
        server.stop()
