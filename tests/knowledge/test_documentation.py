"""The example of docs/plugins.md, done as written; docs/knowledge.md names every source, judge, setting and code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from ilp_service.errors import EndpointError, KnowledgeSourceError
from ilp_service.knowledge import Choice, Document, Ledger, Pair, Query, Setup, Verdict
from ilp_service.plugin_loading import load_plugins
from ilp_service.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "knowledge.md").read_text(encoding="utf-8")
PLUGINS = (DOCS / "plugins.md").read_text(encoding="utf-8")


def block(file: str) -> str:
    found = re.search(rf"<!-- {re.escape(file)} -->\n```\w+\n(.*?)```\n", PLUGINS + PAGE, re.DOTALL)
    assert found, f"docs/plugins.md and docs/knowledge.md have no block for {file}"
    return found.group(1)


def test_the_documented_source_and_judge_load_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "glossary.py").write_text(block("glossary.py"), encoding="utf-8")
    loaded = load_plugins([tmp_path])
    assert dict(loaded.failures) == {}
    assert (loaded.sources[-1].name, loaded.judges[-1].name) == ("glossary", "trusted_part")


def test_the_documented_test_passes(tmp_path: Path) -> None:
    for file in ("glossary.py", "test_glossary.py"):
        (tmp_path / file).write_text(block(file), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_glossary.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_documented_script_runs(tmp_path: Path) -> None:
    (tmp_path / "ask.py").write_text(block("ask.py"), encoding="utf-8")
    (tmp_path / "corpus.txt").write_text("The fox lives in the wood.\n\nWhere does the fox live? In the wood.\n")
    rows = [{"prompt": "Where does the fox live?", "response": response} for response in ("wood", "den")]
    (tmp_path / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [sys.executable, "ask.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "('The fox lives in the wood.', 'corpus.txt, line 1')" in done.stdout
    assert "corpus.txt, line 3" not in done.stdout
    assert "{'corpus': 2}" in done.stdout
    assert "unsure Near-duplicates: 1 for 'wood', 1 for 'den'" in done.stdout


def test_the_page_names_every_object_with_its_attributes() -> None:
    for kind in (Query, Document, Pair, Verdict, Setup, Ledger):
        row = re.search(rf"^\| `{kind.__name__}` \| (.*) \|$", PLUGINS, re.MULTILINE)
        assert row, kind.__name__
        assert [one.name for one in fields(kind) if not re.search(rf"\b{one.name}\b", row.group(1))] == []
    assert [choice for choice in Choice if f"Choice.{choice.name}" not in PLUGINS] == []


def test_every_built_in_source_and_judge_has_its_row() -> None:
    loaded = load_plugins()
    for name in (*loaded.source_origins, *loaded.judge_origins):
        assert f"\n| `{name}` |" in PAGE, name


def test_every_setting_stands_on_the_page() -> None:
    for name in Settings().knowledge_options():
        assert re.search(rf"\b{name.split('.')[1]}\b", PAGE), name
    named = set(re.findall(r"`((?:knowledge_sources|judge)\.\w+)[=`]", PAGE))
    assert named <= {*Settings().knowledge_options(), "judge.options", "knowledge_sources.options"}


def test_every_exit_code_stands_on_the_page() -> None:
    for error in (KnowledgeSourceError, EndpointError):
        assert f"\n| {error.exit_code} |" in PAGE
