"""The examples of docs/mitigations.md, done as written; the page names all mitigations, objects and settings."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ilp_service import remedies
from ilp_service.plugin_loading import load_plugins
from ilp_service.settings import Settings, describe_settings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "mitigations.md").read_text(encoding="utf-8")


def block(file: str) -> str:
    found = re.search(rf"<!-- {re.escape(file)} -->\n```\w+\n(.*?)```\n", PAGE, re.DOTALL)
    assert found, f"docs/mitigations.md has no block for {file}"
    return found.group(1)


def python(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_documented_mitigation_loads_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "patience.py").write_text(block("patience.py"), encoding="utf-8")
    loaded = load_plugins([tmp_path])
    assert dict(loaded.failures) == {}
    assert loaded.mitigations[-1].name == "patience"


def test_the_documented_test_passes(tmp_path: Path) -> None:
    for file in ("patience.py", "test_patience.py"):
        (tmp_path / file).write_text(block(file), encoding="utf-8")
    assert "2 passed" in python(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_patience.py")


def test_the_documented_script_runs(tmp_path: Path) -> None:
    (tmp_path / "plan.py").write_text(block("plan.py"), encoding="utf-8")
    told = python(tmp_path, "plan.py").splitlines()
    assert "Show 8 samples 4 times as often." in told
    assert told[-1] == "8 0"


def test_every_mitigation_has_its_row_and_its_paragraph() -> None:
    for one in load_plugins().mitigations:
        (cause,) = one.causes
        assert re.search(rf"^\| `{one.name}` \| `{cause}` \|", PAGE, re.MULTILINE), one.name
        assert f"\n**`{one.name}`** " in PAGE, one.name


def test_every_setting_has_its_row_with_the_default() -> None:
    for row in describe_settings():
        if row.name.startswith("mitigations."):
            shown = str(row.default).lower() if isinstance(row.default, bool) else str(row.default or "none")
            shown = "none" if row.default == {} else shown
            assert f"\n| `{row.name}` | {shown} |" in PAGE, row.name
    named = set(re.findall(r"`(mitigations\.\w+)", PAGE))
    assert named <= {*Settings().mitigation_options(), "mitigations.options"}


@pytest.mark.parametrize(
    "kind",
    [
        remedies.Plan,
        remedies.Price,
        remedies.TeachingDocument,
        remedies.Correction,
        remedies.ConflictingStatement,
        remedies.Resampling,
        remedies.EpochIncrement,
    ],
)
def test_every_object_has_its_row_with_its_attributes(kind: type) -> None:
    row = re.search(rf"^\| `{kind.__name__}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert row, kind.__name__
    assert [one.name for one in fields(kind) if not re.search(rf"\b{one.name}\b", row.group(1))] == []


def test_every_part_of_a_change_and_of_a_case_has_its_row() -> None:
    for one in fields(remedies.Change):
        assert f"\n| `{one.name}` |" in PAGE, one.name
    for one in fields(remedies.Case):
        assert re.search(rf"^\| .*`{one.name}`.* \|", PAGE, re.MULTILINE), one.name
    for name in ("documents", "judge", "entity", "leaks"):
        assert f"`{name}(" in PAGE, name
