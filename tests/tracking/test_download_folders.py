"""Which of the downloaded copies belong to a version."""

from __future__ import annotations

import re
from pathlib import Path

from ilp_service.tracking.registry import _folder_name, download_folders

DIGEST = "0123456789ab"


def test_copies_of_one_version_are_told_from_those_of_others(tmp_path: Path) -> None:
    own = [tmp_path / f"{_folder_name('models:/a.b/1')}-{digest}" for digest in (DIGEST, DIGEST[::-1])]
    others = [
        tmp_path / f"{_folder_name('models:/a.b/11')}-{DIGEST}",
        tmp_path / f"{_folder_name('models:/axb/1')}-{DIGEST}",
        tmp_path / f"{_folder_name('models:/a.b/1')}-{DIGEST}.partial",
        tmp_path / _folder_name("models:/a.b/1"),
    ]
    for folder in (*own, *others):
        folder.mkdir()
    assert sorted(download_folders(tmp_path, "models:/a.b/1")) == sorted(own)
    assert download_folders(tmp_path / "none", "models:/a.b/1") == []


def test_looking_for_many_versions_keeps_nothing_of_them(tmp_path: Path) -> None:
    re.purge()
    tmp_path.joinpath("x").mkdir()
    for number in range(20):
        download_folders(tmp_path, f"models:/name/{number}")
    kept = [str(key) for key in re._cache]  # type: ignore[attr-defined]
    assert not any("name" in key for key in kept)
