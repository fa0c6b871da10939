"""Mitigations of one's own are loaded like causes; the built-in ones are shown, set up and documented by setting."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from click.testing import CliRunner

from ilp_service.cli import ilp
from ilp_service.diagnosis.prepare import Prepared
from ilp_service.diagnosis.request import DiagnosisRequest
from ilp_service.errors import SettingsError
from ilp_service.plugin_loading import describe_plugins, load_plugins
from ilp_service.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
NAMES = ("knowledge_cpt", "corrective_cpt", "conflict_bucketing", "replay_resampling", "epoch_increment")
FILE = """
from ilp_service.plugin import Case, Mitigation, Parameter, Plan, hookimpl

class Mine(Mitigation):
    name, title = {name!r}, "A remedy of a test"
    causes = {causes}
    parameters = {parameters}
    def plan(self, case):
        raise NotImplementedError

@hookimpl
def ilp_mitigations():
    return {returned}
"""


def plugin(
    folder: Path,
    name: str = "mine",
    causes: str = "frozenset({'long_response'})",
    parameters: str = "(Parameter('mine.factor', 2.0, 'How often.', 'Ours.'),)",
    returned: str = "[Mine()]",
) -> str:
    path = folder / "mine.py"
    path.write_text(FILE.format(name=name, causes=causes, parameters=parameters, returned=returned), encoding="utf-8")
    return str(path)


def test_the_built_in_ones_come_by_entry_point() -> None:
    loaded = load_plugins()
    assert tuple(one.name for one in loaded.mitigations) == tuple(loaded.mitigation_origins) == NAMES
    assert {origin.where.split()[0] for origin in loaded.mitigation_origins.values()} == {"ilp-service"}
    assert dict(loaded.failures) == {}


def test_every_cause_has_one_remedy_but_the_pipelines() -> None:
    loaded = load_plugins()
    treated = [cause for one in loaded.mitigations for cause in one.causes]
    assert sorted(treated) == sorted(set(loaded.origins) - {"training_pipeline"})


def test_one_of_ones_own_is_loaded_and_shown(tmp_path: Path) -> None:
    where = plugin(tmp_path)
    loaded = load_plugins([tmp_path])
    assert loaded.mitigations[-1].name == "mine"
    assert loaded.mitigation_origins["mine"].where == where
    assert set(loaded.digests) == {where}
    described = {entry["name"]: entry for entry in json.loads(json.dumps(describe_plugins(loaded)))}
    assert described["mine"] == {
        "name": "mine", "title": "A remedy of a test", "kind": "mitigation", "origin": where, "version": None,
        "causes": ["long_response"],
        "parameters": [{"name": "mine.factor", "default": 2.0, "meaning": "How often.", "source": "Ours."}],
    }  # fmt: skip
    shown = CliRunner().invoke(ilp, ["plugins", "list", "--plugin-dir", str(tmp_path)])
    assert shown.exit_code == 0
    for name in (*NAMES, "mine"):
        assert any(line.startswith(name) and " mitigation " in line for line in shown.output.splitlines()), name


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"name": "Bad Name"}, "Mine.name is 'Bad Name'; expected small letters"),
        ({"name": "knowledge_cpt"}, "It has a mitigation 'knowledge_cpt', which ilp-service "),
        ({"causes": "frozenset()"}, "Mine.causes is frozenset(); expected a frozenset of at least one"),
        ({"causes": "('a',)"}, "expected a frozenset"),
        ({"parameters": "(1,)"}, "Mine.parameters is (1,); expected a tuple of Parameter"),
        ({"parameters": "(Parameter('factor', 1, 'm', 's'),)"}, "parameter named 'factor'; expected a dotted name"),
        ({"parameters": "(Parameter('a.b', 1, 'm', 's'),) * 2"}, "declares the parameter 'a.b' twice"),
        ({"parameters": "(Parameter('a.b', None, 'm', 's'),)"}, "has the default None; expected a number or text"),
        ({"parameters": "(Parameter('a.b', 1, 'm', ' '),)"}, "lacks a meaning or a source"),
        ({"returned": "[Mine]"}, "return an object of it, Mine()"),
        ({"returned": "[3]"}, "returned int; expected objects of ilp_service.plugin.Mitigation"),
        ({"returned": "None or 3"}, "ilp_mitigations returned int; expected a list of mitigations"),
        ({"returned": "1 / 0"}, "ZeroDivisionError"),
    ],
)
def test_a_wrong_declaration_is_told(tmp_path: Path, values: dict[str, str], reason: str) -> None:
    where = plugin(tmp_path, **values)
    loaded = load_plugins([tmp_path])
    assert set(loaded.failures) == {where}
    assert reason in loaded.failures[where]
    assert tuple(loaded.mitigation_origins) == NAMES


def test_every_parameter_is_a_setting_with_the_same_default() -> None:
    options = Settings().mitigation_options()
    parameters = {one.name: one for mitigation in load_plugins().mitigations for one in mitigation.parameters}
    assert set(parameters) == set(options)
    for name, one in parameters.items():
        assert one.default == options[name], name
        assert type(one.default) is type(options[name]), name
    shown = json.loads(CliRunner().invoke(ilp, ["settings", "--json"]).output)
    assert {name for name in shown if name.startswith("mitigations.")} == {*options, "mitigations.options"}


def test_the_paper_s_values_are_the_defaults() -> None:
    options = Settings().mitigation_options()
    assert options["mitigations.general_share"] == 0.8
    assert options["mitigations.entity_documents"] == 20
    assert options["mitigations.resample_every"] == 500
    assert options["mitigations.resample_fall"] == 0.05
    assert options["mitigations.epochs_tolerance"] == 0.01


def test_options_of_ones_own_reach_the_plugins_and_take_no_others_place() -> None:
    given = "mitigations.options={mine.factor: '3', mitigations.epochs: thief}"
    options = load_settings({}, [given]).mitigation_options()
    assert (options["mine.factor"], options["mitigations.epochs"]) == ("3", "targeted")


@pytest.mark.parametrize(
    "override",
    [
        "mitigations.general_share=1",
        "mitigations.epochs=more",
        "mitigations.exposure_factor=1",
        "mitigations.resample_every=0",
        "mitigations.unknown=1",
    ],
)
def test_a_wrong_setting_is_refused(override: str) -> None:
    with pytest.raises(SettingsError, match="'ilp settings' lists every setting"):
        load_settings({}, [override])


def test_they_change_no_diagnosis() -> None:
    """A plan with another option costs no second scoring: the safe points of the diagnosis stay where they are."""
    assert not any(name.startswith("mitigations") for name in Settings().dotted())
    prepared = SimpleNamespace(
        checkpoint=SimpleNamespace(device="cpu"),
        digests=dict.fromkeys(("model", "base", "data"), "0"),
        renderer=SimpleNamespace(describe=dict),
        samples=(),
    )

    def key(*overrides: str) -> str:
        request = DiagnosisRequest("model", Path("data"), load_settings({}, overrides))
        return Prepared.work_key(cast(Prepared, prepared), request)

    assert key() == key("mitigations.epochs=global") != key("evaluation.samples=3")


def test_they_import_nothing_of_the_core_but_the_public_api() -> None:
    files = sorted((ROOT / "plugins" / "ilp_mitigations").glob("*.py"))
    assert len(files) > len(NAMES)
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert {module for module in modules if module.split(".")[0] == "ilp_service"} <= {"ilp_service.plugin"}, path
