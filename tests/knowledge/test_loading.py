"""Sources and judges of one's own are loaded like causes; the built-in ones are shown, set up and packed."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import ilp_service.plugin
from ilp_service.cli import ilp
from ilp_service.plugin_loading import describe_plugins, load_plugins
from ilp_service.settings import Settings, describe_settings, load_settings

ROOT = Path(__file__).parents[2]
SOURCES = ("user_documents", "corpus", "wikidata", "endpoint")
JUDGES = ("consensus", "endpoint")
BOTH = """
from ilp_service.plugin import Judge, KnowledgeSource, hookimpl

class Mine(KnowledgeSource):
    name, title = {source!r}, "A source of a test"
    def documents(self, queries, limit, setup):
        return [[] for _ in queries]

class Own(Judge):
    name, title = {judge!r}, "A judge of a test"
    def judge(self, pairs, setup):
        return []

@hookimpl
def ilp_knowledge_sources():
    return {sources}

@hookimpl
def ilp_judges():
    return {judges}
"""


def plugin(
    folder: Path,
    source: str = "mine",
    judge: str = "own",
    sources: str = "[Mine()]",
    judges: str = "[Own()]",
    name: str = "mine.py",
) -> str:
    path = folder / name
    path.write_text(BOTH.format(source=source, judge=judge, sources=sources, judges=judges), encoding="utf-8")
    return str(path)


def test_the_built_in_ones_come_by_entry_point() -> None:
    loaded = load_plugins()
    assert tuple(loaded.source_origins) == tuple(source.name for source in loaded.sources) == SOURCES
    assert tuple(loaded.judge_origins) == tuple(judge.name for judge in loaded.judges) == JUDGES
    assert {origin.where.split()[0] for origin in loaded.source_origins.values()} == {"ilp-service"}
    assert dict(loaded.failures) == {}


def test_a_file_may_bring_both_and_no_cause(tmp_path: Path) -> None:
    where = plugin(tmp_path)
    loaded = load_plugins([tmp_path])
    assert loaded.sources[-1].name == "mine"
    assert loaded.judges[-1].name == "own"
    assert loaded.source_origins["mine"].where == loaded.judge_origins["own"].where == where
    assert loaded.source_origins["mine"].version is None
    assert set(loaded.origins) == set(load_plugins().origins)
    assert set(loaded.digests) == {where}
    described = json.loads(json.dumps(describe_plugins(loaded)))
    assert [entry["name"] for entry in described if entry["kind"] == "knowledge_source"] == [*SOURCES, "mine"]
    assert described[-1] == {
        "name": "own", "title": "A judge of a test", "kind": "judge", "origin": where, "version": None,
    }  # fmt: skip


def test_a_name_that_is_taken_stays_with_whoever_came_first_but_kinds_do_not_meet(tmp_path: Path) -> None:
    thief = plugin(tmp_path, source="corpus", judge="missing_knowledge")
    loaded = load_plugins([tmp_path])
    assert loaded.source_origins["corpus"].where != thief
    assert loaded.judge_origins["missing_knowledge"].where == thief
    assert loaded.failures[thief].startswith("It has a knowledge source 'corpus', which ilp-service ")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"source": "Bad Name"}, "Mine.name is 'Bad Name'; expected small letters"),
        ({"judge": ""}, "Own.name is ''; expected small letters"),
        ({"sources": "[Mine]"}, "return an object of it, Mine()"),
        ({"sources": "[Own()]"}, "returned Own; expected objects of ilp_service.plugin.KnowledgeSource"),
        ({"judges": "[Mine()]"}, "returned Mine; expected objects of ilp_service.plugin.Judge"),
        ({"judges": "3"}, "ilp_judges returned int; expected a list of judges"),
        ({"sources": "'abc'"}, "ilp_knowledge_sources returned str; expected a list of knowledge sources"),
        ({"sources": "1 / 0"}, "ZeroDivisionError"),
        ({"judges": "[type('T', (Own,), {'title': ''})()]"}, "T.title is ''; expected one line"),
        ({"judges": "[type('T', (Judge,), {'judge': 1})()]"}, "T does not declare name, title"),
        ({"judges": "[Judge()]"}, "TypeError"),
    ],
)
def test_a_wrong_declaration_is_told(tmp_path: Path, values: dict[str, str], reason: str) -> None:
    where = plugin(tmp_path, **values)
    loaded = load_plugins([tmp_path])
    assert set(loaded.failures) == {where}
    assert reason in loaded.failures[where]
    assert tuple(loaded.source_origins)[: len(SOURCES)] == SOURCES


def test_a_hook_fails_alone(tmp_path: Path) -> None:
    where = plugin(tmp_path, judges="1 / 0")
    loaded = load_plugins([tmp_path])
    assert loaded.source_origins["mine"].where == where
    assert tuple(loaded.judge_origins) == JUDGES
    assert "ZeroDivisionError" in loaded.failures[where]
    assert where in loaded.digests


def test_the_list_shows_them(tmp_path: Path) -> None:
    plugin(tmp_path)
    shown = CliRunner().invoke(ilp, ["plugins", "list", "--plugin-dir", str(tmp_path)])
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    for name, kind in (("corpus", "knowledge source"), ("mine", "knowledge source"), ("consensus", "judge")):
        assert any(line.startswith(name) and f" {kind} " in line for line in lines), name


def test_settings_list_all_and_reach_the_plugins() -> None:
    shown = json.loads(CliRunner().invoke(ilp, ["settings", "--json"]).output)
    options = Settings().knowledge_options()
    own = {"knowledge_sources.options", "judge.options"}
    assert set(options) | own == {name for name in shown if name.split(".")[0] in ("knowledge_sources", "judge")}
    assert shown["judge.name"] == "consensus"
    assert all(row.meaning for row in describe_settings())
    contacted = [name for name in options if name.endswith("_url")]
    assert len(contacted) == 3
    assert [options[name] for name in contacted] == [None] * 3


def test_options_of_ones_own_reach_the_plugins_and_take_no_others_place() -> None:
    given = "knowledge_sources.options={mine.path: /data, judge.name: thief}"
    options = load_settings({}, [given, "judge.options={own.model: x}"]).knowledge_options()
    assert (options["mine.path"], options["own.model"], options["judge.name"]) == ("/data", "x", "consensus")


@pytest.mark.parametrize(
    "override",
    [
        "judge.endpoint_url=file:///etc/passwd",
        "judge.endpoint_url=http://me:secret@host/v1",
        "knowledge_sources.wikidata_url=www.wikidata.org",
        "knowledge_sources.endpoint_key_env=sk-live 1",
        "knowledge_sources.limit=0",
        "knowledge_sources.max_requests=-1",
        "knowledge_sources.corpuss=x",
    ],
)
def test_a_wrong_setting_is_refused(override: str) -> None:
    with pytest.raises(ilp_service.errors.SettingsError, match="'ilp settings' lists every setting"):
        load_settings({}, [override])


def test_they_import_nothing_of_the_core_but_the_public_api() -> None:
    files = sorted((ROOT / "plugins" / "ilp_knowledge").glob("*.py"))
    assert len(files) > 6
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert {module for module in modules if module.split(".")[0] == "ilp_service"} <= {"ilp_service.plugin"}, path


def test_every_built_in_plugin_is_packed_registered_and_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    for name in project["project"]["entry-points"]["ilp_service"]:
        assert f"plugins/{name}" in wheel["packages"]
        assert wheel["sources"][f"plugins/{name}"] == name
    for file in ("constraints.txt", "requirements.txt"):
        assert "\nbm25s==" in (ROOT / file).read_text(encoding="utf-8")
    assert set(ilp_service.plugin.__all__) >= {"KnowledgeSource", "Judge", "Query", "Document", "Pair", "Verdict"}
