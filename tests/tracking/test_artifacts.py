"""Files by URI: whole or not at all, fresh for whoever asks anew, the same for whoever goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ilp_service.errors import IlpError, SourceUnreadableError
from ilp_service.tracking.artifacts import local_file, pinned, plain
from ilp_service.tracking.store import Tracking
from tests.tracking.artifact_stub import Stub, serving, tracking_of

URI = "mlflow-artifacts:/data/x.jsonl"
BODY = b'{"prompt": "a", "response": "b"}\n' * 40_000


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with serving() as stub:
        stub.files["x.jsonl"] = BODY
        yield stub


@pytest.mark.parametrize("uri", [URI, pinned(URI)], ids=["each time", "pinned"])
def test_a_download_cut_short_is_not_taken_for_whole(stub: Stub, tmp_path: Path, uri: str) -> None:
    stub.cut = 1
    with pytest.raises(IlpError):
        local_file(tracking_of(stub), uri, tmp_path)
    assert list(tmp_path.iterdir()) == []
    found = local_file(tracking_of(stub), uri, tmp_path)
    assert (found.name, found.read_bytes()) == ("x.jsonl", BODY)


def test_a_killed_download_leaves_nothing_that_is_found(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    def killed(artifact_uri: str, dst_path: str, tracking_uri: str) -> str:
        Path(dst_path).mkdir()
        Path(dst_path, "x.jsonl").write_bytes(BODY[:100])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.artifacts, "download_artifacts", killed)
        # As after kill -9, when nobody tidies up.
        patch.setattr("ilp_service.tracking.downloads.shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            local_file(tracking_of(stub), URI, tmp_path)
    assert [path.name[:6] for path in tmp_path.iterdir()] == [".part-"]
    assert local_file(tracking_of(stub), URI, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("uri", [URI, pinned(URI)], ids=["each time", "pinned"])
def test_two_at_once_both_get_the_whole_file(stub: Stub, tmp_path: Path, uri: str) -> None:
    tracking, found = tracking_of(stub), []
    threads = [
        threading.Thread(target=lambda: found.append(local_file(tracking, uri, tmp_path).read_bytes()))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [BODY] * 3
    assert len(list(tmp_path.iterdir())) == 1


def test_changed_data_is_seen_anew_and_not_by_who_goes_on(stub: Stub, tmp_path: Path) -> None:
    tracking, job = tracking_of(stub), pinned(URI)
    before, mine = local_file(tracking, URI, tmp_path), local_file(tracking, job, tmp_path)
    assert local_file(tracking, URI, tmp_path) == before
    stub.files["x.jsonl"] = b"other\n"
    assert local_file(tracking, URI, tmp_path).read_bytes() == b"other\n"
    assert before.read_bytes() == BODY, "who reads it still reads the same"
    assert local_file(tracking, job, tmp_path).read_bytes() == mine.read_bytes() == BODY
    assert local_file(tracking, pinned(URI), tmp_path).read_bytes() == b"other\n"


def test_pins_come_off_and_other_fragments_stay() -> None:
    assert plain(pinned(pinned(URI))) == URI
    assert plain("s3://b/a#1.jsonl") == "s3://b/a#1.jsonl"


def test_files_of_runs_and_models_of_a_local_store(workplace: Path) -> None:
    (workplace / "x.jsonl").write_text("{}\n")
    (workplace / "m").mkdir()
    (workplace / "m" / "y.jsonl").write_text("{}\n\n")
    tracking = Tracking()
    with tracking.run("x") as run:
        run.log_file(workplace / "x.jsonl")
        run.log_folder(workplace / "m", "m")
    client = tracking.client()
    client.create_registered_model("bot")
    client.create_model_version("bot", f"runs:/{run.run_id}/m", run.run_id)
    client.create_model_version("bot", "models:/bot/1")
    client.set_registered_model_alias("bot", "new", "2")
    folder = workplace / "downloads"
    assert local_file(tracking, f"runs:/{run.run_id}/x.jsonl", folder).read_text() == "{}\n"
    for uri in (f"runs:/{run.run_id}/m/y.jsonl", "models:/bot/1/y.jsonl", "models:/bot@new/y.jsonl"):
        assert local_file(tracking, uri, folder).read_text() == "{}\n\n"
    for uri in (
        f"runs:/{run.run_id}/m",
        f"runs:/{run.run_id}/none.jsonl",
        f"runs:/{run.run_id}/m/../../x",
        "runs:/0/x",
    ):
        with pytest.raises(SourceUnreadableError) as caught:
            local_file(tracking, uri, folder)
        assert "\n" not in str(caught.value)
    assert not [path for path in folder.iterdir() if path.name.startswith(".part-")]
