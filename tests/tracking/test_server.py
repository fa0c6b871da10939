"""A real MLflow server: the same forms through HTTP, and quick errors when it is not there."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ilp_service.checkpoints.loading import Checkpoint
from ilp_service.checkpoints.reference import discard_downloads, resolve
from ilp_service.errors import SourceUnreadableError, TrackingError
from ilp_service.settings import ScoringSettings
from ilp_service.tracking import Tracking
from tests.checkpoints.conftest import opened, register
from tests.tiny import save_tiny
from tests.tracking.conftest import free_port


@pytest.fixture
def remote(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return Tracking()


def test_every_form_through_a_server(remote: Tracking, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Logits equal, copies only where they belong, one download for two looks, nothing on stdout."""
    for number, (adapter, form) in enumerate(
        [(adapter, form) for adapter in (False, True) for form in ("transformers", "directory")], start=1
    ):
        uri, tuned, base = register(remote, "llama", adapter, form, tmp_path / str(number))
        reference = resolve(uri, base=None, tracking=remote, work_dir=tmp_path / "work")
        assert reference.kind == ("adapter" if adapter else "full")
        assert [path.parent for path in reference.downloads] == [tmp_path / "work" / "downloads"]
        ours, ours_base = opened(reference)
        torch.testing.assert_close(ours, tuned, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours_base, base, rtol=0, atol=1e-5)
        made = reference.downloads[0].stat().st_ino
        again = resolve(uri, base=None, tracking=remote, work_dir=tmp_path / "work")
        assert again.digest == reference.digest
        assert again.downloads[0].stat().st_ino == made, "downloaded once"
        discard_downloads(reference)
        assert not reference.downloads[0].exists()
    assert list((tmp_path / "tmp").iterdir()) == [], "no copy is left in the temporary folder"
    assert list((tmp_path / "work" / "downloads").iterdir()) == []
    assert not (tmp_path / "mlruns").exists()
    assert capfd.readouterr().out == ""


def test_a_registered_classifier_is_found_and_downloaded_once(remote: Tracking, tmp_path: Path) -> None:
    from ilp_service.attribution.chosen import choose_classifier
    from ilp_service.attribution.meta import untrained_meta
    from ilp_service.attribution.registration import log_classifier
    from ilp_service.attribution.stored import SignalsFacts, facts_of
    from ilp_service.tracking.classifier import CHAMPION, MODEL_NAME, register_classifier

    meta = untrained_meta()
    assert choose_classifier(CHAMPION, remote, (), tmp_path / "downloads").uri == "built-in"
    with remote.run("register") as run:
        uri = log_classifier(run, meta, facts_of(meta, SignalsFacts("0" * 64, 0, {}), 0), "# card")
        version = register_classifier(run, uri, description="# card", tags={})
    remote.set_alias(MODEL_NAME, str(version.version), CHAMPION)
    first, second = (choose_classifier(CHAMPION, remote, (), tmp_path / "downloads") for _ in range(2))
    assert first.uri == version.resolved
    assert first.digest == second.digest
    assert first.meta().features == meta.features
    assert len(list((tmp_path / "downloads").iterdir())) == 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_run_files_and_metrics_through_a_server(remote: Tracking, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>")
    with remote.run("remote") as run:
        uri = run.log_file(tmp_path / "report.html")
        run.log_metrics({"m": 1.0})
    assert uri == f"{run.artifact_uri}/report.html"
    found = remote.client().get_run(run.run_id)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"m": 1.0})
    assert [item.path for item in remote.client().list_artifacts(run.run_id)] == ["report.html"]


def test_source_that_cannot_be_read(remote: Tracking, tmp_path: Path) -> None:
    client = remote.client()
    client.create_registered_model("broken")
    with remote.run("x") as run:
        run.log_folder(save_tiny(tmp_path / "m", "qwen2"), "checkpoint")
    for source in (f"runs:/{run.run_id}/checkpoint/nothing", "s3://bucket/model"):
        version = client.create_model_version("broken", source, run_id=run.run_id).version
        with pytest.raises(SourceUnreadableError, match=f"models:/broken/{version}") as caught:
            resolve(f"models:/broken/{version}", base=None, tracking=remote, work_dir=tmp_path / "work")
        assert "\n" not in str(caught.value)
    assert list((tmp_path / "work" / "downloads").iterdir()) == [], "nothing half-downloaded is left"


def test_cut_download_is_not_taken_for_whole(remote: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    with remote.run("x") as run:
        made = run.register("cut", folder=save_tiny(tmp_path / "m", "qwen2"))
    real = mlflow.artifacts.download_artifacts

    def cut(**arguments: str) -> str:
        folder = real(**arguments)
        Path(folder, "config.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.artifacts, "download_artifacts", cut)
        with pytest.raises(KeyboardInterrupt):
            remote.fetch(made, tmp_path / "work")
    reference = resolve("models:/cut/1", base=None, tracking=remote, work_dir=tmp_path / "work")
    with Checkpoint.open(reference, ScoringSettings(device="cpu")).tuned() as model:
        assert model.config.model_type == "qwen2"


@contextmanager
def fake_server(status: int | None) -> Iterator[str]:
    """Answers every request with ``status``; ``None`` accepts connections and never answers."""
    if status is None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            yield f"http://127.0.0.1:{silent.getsockname()[1]}"
        return

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"sorry")

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{web.server_address[1]}"
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


@pytest.mark.parametrize(
    ("status", "words"), [(None, "does not answer"), (401, "refuses"), (403, "refuses"), (503, "503"), (200, "error")]
)
def test_server_that_is_silent_refuses_or_is_no_mlflow(status: int | None, words: str) -> None:
    with fake_server(status) as uri:
        began = time.monotonic()
        with pytest.raises(TrackingError, match=words) as caught, Tracking(uri).run("x"):
            pass
        assert time.monotonic() - began < 12
        assert "\n" not in str(caught.value)


def test_server_that_is_down() -> None:
    began = time.monotonic()
    with pytest.raises(TrackingError, match="does not answer; start it"):
        Tracking(f"http://me:secret@127.0.0.1:{free_port()}").find("models:/bot/1")
    assert time.monotonic() - began < 8


def tracking_tags(uri: str, run_id: str) -> dict[str, str]:
    return dict(Tracking(uri).client().get_run(run_id).data.tags)


def test_server_that_goes_down_in_mid_run(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's own error reaches the user within seconds, and the next run is not hindered."""
    import mlflow

    tracking = Tracking(server)
    began = time.monotonic()

    def log() -> None:
        with tracking.run("x") as run:
            dead = f"http://127.0.0.1:{free_port()}"
            monkeypatch.setattr(tracking, "_client", mlflow.MlflowClient(dead))
            tracking.uri = dead
            run.log_metrics({"m": 1.0})

    with pytest.raises(TrackingError, match="does not answer") as caught:
        log()
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 25
    assert mlflow.active_run() is None
    with Tracking(server).run("after") as run:
        run.set_tags({"a": "b"})
    assert tracking_tags(server, run.run_id)["a"] == "b"
