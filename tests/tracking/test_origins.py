"""Nobody but the tracking server gets its password, whatever a version, a run or a tag names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ilp_service.errors import SourceUnreadableError
from ilp_service.tracking.artifacts import local_file
from ilp_service.tracking.origins import check_origin, leads_out
from ilp_service.tracking.registry import FetchLimits, ModelSource, fetch, find
from tests.tracking.artifact_stub import PROXY, Stub, serving, tracking_of

STORE = "http://mlflow.internal:5000/ml"
PREFIX = f"{STORE}{PROXY}"


@pytest.mark.parametrize(
    "uri",
    [
        "/srv/data/x.jsonl",
        "file:///srv/x.jsonl",
        "runs:/0123/data/x.jsonl",
        "models:/bot/3",
        "mlflow-artifacts:/1/abc/artifacts/x.jsonl",
        "mlflow-artifacts://mlflow.internal:5000/1/x.jsonl",
        "mlflow-artifacts://MLFLOW.internal:5000/1/x.jsonl",
        f"{PREFIX}/1/abc/x.jsonl",
        f"{STORE}/ajax-api/2.0/mlflow-artifacts/artifacts/x",
        "s3://bucket/a b/x.jsonl",
        "s3://bucket/a..b/x#1.jsonl",
        "gs://bucket/x",
        "dbfs:/x",
        "wasbs://c@a.blob.core.windows.net/x",
        "abfss://c@account.dfs.core.windows.net/x",
        "hdfs://namenode:8020/x",
    ],
)
def test_what_the_store_and_clouds_hold_may_be_asked_for(uri: str) -> None:
    check_origin(STORE, uri)


@pytest.mark.parametrize(
    "uri",
    [
        "mlflow-artifacts://evil.host:5000/x.jsonl",
        "mlflow-artifacts://mlflow.internal/x.jsonl",
        "mlflow-artifacts://mlflow.internal:5000@evil.host/x",
        "mlflow-artifacts://evil.host\\@mlflow.internal:5000/x",
        "mlflow-artifacts://mlflow.internal:5000:80/x",
        f"http://evil.host{PROXY}/x",
        f"https://mlflow.internal:5000/ml{PROXY}/x",
        f"HTTP://evil.host{PROXY}/x",
        f" http://evil.host{PROXY}/x",
        f"http://me:pw@mlflow.internal:5000/ml{PROXY}/x",
        f"http:evil.host{PROXY}/x",
        f"http://mlflow.internal:5000{PROXY}/x",
        f"{STORE}/other/mlflow-artifacts/artifacts/x",
        f"{PREFIX}/../../../../../other/x",
        f"{PREFIX}/%252e%252e/x",
        f"{PREFIX}\t/x",
        "runs://evil.host/0123/x",
        "models://evil.host/bot/3",
        "ftp://evil.host/x",
        "sftp://evil.host/x",
        "r2://bucket@evil.host/x",
        "b2://bucket@evil.host/x",
        "abfss://c@evil.host/x",
        "abfss://c@evil.host/.dfs.core.windows.net",
        "gopher://evil.host/x",
    ],
)
def test_other_hosts_are_not_asked(uri: str) -> None:
    with pytest.raises(SourceUnreadableError, match="is not asked for") as caught:
        check_origin(STORE, uri)
    assert "\n" not in str(caught.value)
    assert "pw@" not in str(caught.value)


def test_an_embedded_store_has_no_host_and_a_store_with_a_password_keeps_its_own() -> None:
    with pytest.raises(SourceUnreadableError):
        check_origin("sqlite:////srv/mlflow.db", f"http://evil.host{PROXY}/x")
    own = f"http://me:pw@mlflow.internal{PROXY}/x"
    check_origin("http://me:pw@mlflow.internal", own)
    check_origin("http://me:pw@mlflow.internal:80/", f"http://mlflow.internal{PROXY}/x")


def test_climbing_paths() -> None:
    assert [leads_out(path) for path in ("a/../b", "a/%2e./b", "a\\..\\b", "..", "a/..%2Fb")] == [True] * 5
    assert not any(leads_out(path) for path in ("a/b", "a..b/c", "...", ""))


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stub, Stub]]:
    """The tracking server and a foreign host; the service has a password for the first."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "service")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with serving() as good, serving() as evil:
        good.files = evil.files = {"x.jsonl": b"{}\n"}
        yield good, evil


def test_the_servers_own_artifacts_are_fetched_with_the_password(pair: tuple[Stub, Stub], tmp_path: Path) -> None:
    good, _ = pair
    for uri in (
        "mlflow-artifacts:/d/x.jsonl",
        f"mlflow-artifacts://{good.host}/d/x.jsonl",
        f"{good.uri}{PROXY}/x.jsonl",
    ):
        assert local_file(tracking_of(good), uri, tmp_path).read_bytes() == b"{}\n"
    assert all(password for _, password in good.asked)


def test_no_host_that_a_tag_or_a_source_names_is_asked(pair: tuple[Stub, Stub], tmp_path: Path) -> None:
    good, evil = pair
    for uri in (f"mlflow-artifacts://{evil.host}/x.jsonl", f"{evil.uri}{PROXY}/x.jsonl"):
        with pytest.raises(SourceUnreadableError, match="is not asked for"):
            local_file(tracking_of(good), uri, tmp_path)
        for limits in (None, FetchLimits(10, 1000)):
            with pytest.raises(SourceUnreadableError, match="is not asked for"):
                fetch(good.uri, ModelSource("models:/m/1", "models:/m/1", uri), tmp_path, limits)
    assert evil.asked == []
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_gets_no_password(pair: tuple[Stub, Stub], tmp_path: Path) -> None:
    good, evil = pair
    good.redirect = evil.uri
    local_file(tracking_of(good), "mlflow-artifacts:/d/x.jsonl", tmp_path)
    assert [password for _, password in evil.asked] == [None]


class Registry:
    """A client of a store whose runs lie at a foreign host."""

    def __init__(self, location: str) -> None:
        self.location = location

    def get_run(self, run_id: str) -> SimpleNamespace:
        info = SimpleNamespace(run_id=run_id, artifact_uri=self.location)
        return SimpleNamespace(info=info, data=SimpleNamespace(tags={}), outputs=None)

    def list_artifacts(self, _run_id: str) -> list[object]:
        raise AssertionError("the foreign host was asked")

    def get_registered_model(self, _name: str) -> SimpleNamespace:
        return SimpleNamespace(tags={}, aliases={})

    def get_model_version(self, _name: str, version: str) -> SimpleNamespace:
        return SimpleNamespace(version=version, model_id=None, run_id=None, source="models:/ring/1", tags={})


def test_an_experiment_at_a_foreign_host_is_not_asked(pair: tuple[Stub, Stub], tmp_path: Path) -> None:
    good, evil = pair
    client = Registry(f"{evil.uri}{PROXY}/0/r/artifacts")
    with pytest.raises(SourceUnreadableError, match="is not asked for"):
        find(client, good.uri, "runs:/0123/checkpoint")
    with pytest.raises(SourceUnreadableError, match="is not asked for"):
        local_file(tracking_of(good, client), "runs:/0123/x.jsonl", tmp_path)
    with pytest.raises(SourceUnreadableError, match="without an end"):
        local_file(tracking_of(good, client), "models:/ring/1/x.jsonl", tmp_path)
    assert evil.asked == []


def test_no_run_sends_its_files_to_a_foreign_host(workplace: Path) -> None:
    from ilp_service.tracking.store import Tracking

    tracking = Tracking()
    tracking.client().create_experiment("taken", artifact_location=f"http://evil.invalid{PROXY}/0")
    with pytest.raises(SourceUnreadableError, match="is not asked for"), Tracking(experiment="taken").run("x") as run:
        run.log_file(workplace / "mlruns" / "mlflow.db")
