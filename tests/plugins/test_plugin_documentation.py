"""The walk-through of docs/plugins.md, done as written; and the same cause as an installed package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ilp_service import plugin, study
from ilp_service.evidence.collection import collect_evidence, explanation, signals_of
from ilp_service.plugin_loading import load_plugins
from ilp_service.testing import StudyBuilder, check_cause

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
PACKAGE = Path(__file__).parent / "example_package"


def block(file: str) -> str:
    found = re.search(rf"<!-- {re.escape(file)} -->\n```\w+\n(.*?)```\n", PAGE, re.DOTALL)
    assert found, f"docs/plugins.md has no block for {file}"
    return found.group(1)


def test_the_documented_cause_loads_from_a_folder_and_is_measured(tmp_path: Path) -> None:
    (tmp_path / "long_response.py").write_text(block("long_response.py"), encoding="utf-8")
    loaded = load_plugins([tmp_path])
    assert dict(loaded.failures) == {}
    cause = loaded.causes[-1]
    assert cause.name == "long_response"
    check_cause(cause)
    builder = StudyBuilder()
    for number in range(5):
        builder.sample(f"Question {number}?", "short")
    builder.sample("An essay?", "very long", unlearned=True, rendering={"response_tokens": 900})
    evidence = collect_evidence(builder.build(), loaded.causes)
    assert evidence.status["long_response"] == "measured"
    rule = evidence.rules["long_response"]
    assert rule is not None
    assert rule.tolist() == [1.0]
    assert "900 tokens" in explanation(cause, signals_of(evidence.table, cause)[0])


def test_the_documented_test_passes(tmp_path: Path) -> None:
    for file in ("long_response.py", "test_long_response.py"):
        (tmp_path / file).write_text(block(file), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_long_response.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_example_package_is_what_the_page_shows() -> None:
    for file in ("long_response.py", "pyproject.toml"):
        assert (PACKAGE / file).read_text(encoding="utf-8") == block(file)


def test_an_installed_package_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, source = tmp_path / "site", tmp_path / "source"
    source.mkdir()
    for file in ("long_response.py", "pyproject.toml"):
        (source / file).write_bytes((PACKAGE / file).read_bytes())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"),
            *("--no-deps", "--no-build-isolation", "--target", str(site), str(source)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    before = load_plugins()
    assert "long_response" not in before.origins
    monkeypatch.syspath_prepend(site)
    loaded = load_plugins()
    monkeypatch.delitem(sys.modules, "long_response", raising=False)
    assert [cause.name for cause in loaded.causes] == [*(cause.name for cause in before.causes), "long_response"]
    assert loaded.versions["long_response"] == "1.2.0"
    assert loaded.origins["long_response"] == "ilp-long-response 1.2.0 (long_response = long_response)"
    check_cause(loaded.causes[-1])


def test_the_page_names_all_that_a_cause_declares_and_sees() -> None:
    for name in study.Study.__dataclass_fields__:
        assert f"| `{name}` |" in PAGE, name
    for name in ("name", "title", "signals", "needs", "threshold", "collect", "rule", "excluded", "explain"):
        assert f"| `{name}` |" in PAGE, name
    for need in plugin.Need:
        assert f"Need.{need.name}" in PAGE
