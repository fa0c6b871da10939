"""Copies that several processes share: one place, nothing deleted that is in use, nothing kept for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ilp_service.tracking import downloads
from ilp_service.tracking.downloads import drop_download, hold, part, settle, tidy_downloads
from ilp_service.tracking.registry import ModelSource, fetch

DAY = 86_400.0


def old(path: Path, days: float) -> Path:
    """A folder with a file, last used some days ago."""
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"x")
    stamp = time.time() - days * DAY
    os.utime(path, (stamp, stamp))
    return path


def test_what_was_cut_short_or_not_used_for_long_goes(tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    gone = [old(folder / name, 4) for name in (".part-x", "models_a_1-0123456789ab", "0123456789abcdef")]
    kept = [old(folder / name, 2) for name in (".part-y", "models_a_2-0123456789ab")]
    outside = old(tmp_path / "elsewhere", 4)
    (folder / "link").symlink_to(outside)
    assert tidy_downloads(tmp_path, 3 * DAY) == len(gone)
    assert not any(path.exists() for path in gone)
    assert all((path / "model.safetensors").is_file() for path in (*kept, outside))
    assert tidy_downloads(tmp_path, 3 * DAY) == 0
    assert tidy_downloads(tmp_path / "none", 0) == 0


def test_use_makes_a_copy_young_again(tmp_path: Path) -> None:
    used = old(tmp_path / "downloads" / "a", 4)
    assert hold(used)
    assert time.time() - used.stat().st_mtime < DAY
    assert not hold(tmp_path / "downloads" / "none")


def test_what_another_process_uses_stays_until_it_ends(tmp_path: Path) -> None:
    used = old(tmp_path / "downloads" / "a", 4)
    code = (
        "import sys, pathlib; from ilp_service.tracking.downloads import hold\n"
        "print(hold(pathlib.Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(used)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "True\n"
        os.utime(used, (0, 0))
        assert (tidy_downloads(tmp_path, DAY), drop_download(used)) == (0, False)
        user.kill()
    assert (used / "model.safetensors").is_file()
    assert tidy_downloads(tmp_path, DAY) == 1


def test_a_download_in_work_stays_however_long_it_takes(tmp_path: Path) -> None:
    with part(tmp_path / "downloads") as begun:
        os.utime(begun, (0, 0))
        assert tidy_downloads(tmp_path, DAY) == 0
        assert begun.is_dir()
    assert not begun.exists()


def test_a_copy_can_be_dropped_at_once(tmp_path: Path) -> None:
    copy = old(tmp_path / "downloads" / "a", 0)
    assert drop_download(copy)
    assert not copy.exists()
    assert drop_download(copy)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_without_locks_age_alone_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(downloads.fcntl, "flock", none)
    ancient, young = old(tmp_path / "downloads" / "a", 4), old(tmp_path / "downloads" / "b", 4)
    assert hold(young)
    assert tidy_downloads(tmp_path, DAY) == 1
    assert (ancient.exists(), young.exists()) == (False, True)


def test_handles_of_deleted_copies_are_not_kept(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(20):
        copy = old(tmp_path / str(number), 0)
        assert hold(copy)
        (copy / "model.safetensors").unlink()
        copy.rmdir()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_a_copy_that_is_there_already_serves(tmp_path: Path) -> None:
    whole = old(tmp_path / "whole", 1)
    assert settle(old(tmp_path / "got", 0), whole) == whole
    with pytest.raises(OSError, match="No such file"):
        settle(tmp_path / "none", tmp_path / "other")


def test_two_jobs_that_share_a_base_both_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    both = threading.Barrier(2, timeout=20)

    def download(artifact_uri: str, dst_path: str, tracking_uri: str) -> str:
        both.wait()
        return str(old(Path(dst_path) / "base", 0))

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    source = ModelSource("models:/base/1", "models:/base/1", "mlflow-artifacts:/1/abc/base")
    found: list[object] = []

    def job() -> None:
        try:
            found.append(fetch("http://mlflow.invalid", source, tmp_path))
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            found.append(error)

    threads = [threading.Thread(target=job) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert list(tmp_path.iterdir()) == [found[0]]
