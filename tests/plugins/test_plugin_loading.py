"""Loading plugins: by entry point and from folders, the broken ones left out and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ilp_service.errors import PluginLoadError
from ilp_service.plugin_loading import describe_plugins, load_plugins

BUILT_IN = (
    "training_pipeline",
    "missing_knowledge",
    "pretraining_conflict",
    "data_inconsistency",
    "left_side_forgetting",
    "insufficient_optimization",
)
CAUSE = """
import numpy as np
import pyarrow as pa
from ilp_service.plugin import Cause, Signal, hookimpl

class {cls}(Cause):
    name = {name!r}
    title = "A cause of a test"
    signals = (Signal("one", "0-1", "+", "Always one."),)
    def collect(self, study):
        ones = pa.array([1.0] * len(study.unlearned), pa.float64())
        return pa.table({{"sample_id": pa.array(study.unlearned, pa.string()), "one": ones}})
    def rule(self, signals):
        return signals["one"]
    def explain(self, row):
        return "Because."
{body}

@hookimpl
def ilp_causes():
    return {returned}
"""


def plugin(folder: Path, file: str, name: str, body: str = "", returned: str = "[Mine()]") -> Path:
    path = folder / file
    path.write_text(CAUSE.format(cls="Mine", name=name, body=body, returned=returned), encoding="utf-8")
    return path


def test_the_built_in_causes_come_by_entry_point() -> None:
    loaded = load_plugins()
    assert tuple(cause.name for cause in loaded.causes)[:6] == BUILT_IN
    assert all(loaded.origins[name].startswith("ilp-service ") for name in BUILT_IN)
    assert dict(loaded.failures) == {}


def test_files_come_after_them_in_the_order_of_folders_and_names(tmp_path: Path) -> None:
    for folder, files in (("b", ("two", "one")), ("a", ("three",))):
        (tmp_path / folder).mkdir()
        for file in files:
            plugin(tmp_path / folder, f"{file}.py", f"cause_{file}")
    loaded = load_plugins([tmp_path / "b", tmp_path / "a"])
    assert [cause.name for cause in loaded.causes][6:] == ["cause_one", "cause_two", "cause_three"]
    assert loaded.origins["cause_one"] == str(tmp_path / "b" / "one.py")
    assert loaded.versions["cause_one"] is None


def test_a_folder_is_read_only_when_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path, "mine.py", "mine")
    monkeypatch.chdir(tmp_path)
    assert "mine" not in load_plugins().origins
    assert "mine" in load_plugins([Path()]).origins


def test_helpers_other_files_and_subfolders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "_helper.py").write_text("raise RuntimeError")
    (tmp_path / "__init__.py").write_text("raise RuntimeError")
    (tmp_path / "notes.txt").write_text("raise RuntimeError")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "file.py").write_text("raise RuntimeError")
    (tmp_path / "folder.py").mkdir()
    loaded = load_plugins([tmp_path])
    assert tuple(loaded.origins) == BUILT_IN
    assert dict(loaded.failures) == {}


def test_files_of_one_name_do_not_meet_and_shadow_nothing(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        plugin(tmp_path / folder, "json.py", f"json_{folder}")
    loaded = load_plugins([tmp_path / "x", tmp_path / "y"])
    assert {"json_x", "json_y"} <= set(loaded.origins)
    assert json.loads("[1]") == [1]
    assert tmp_path not in Path(json.__file__).parents


def test_a_changed_file_is_read_anew_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    plugin(tmp_path, "mine.py", "before")
    assert "before" in load_plugins([tmp_path]).origins
    plugin(tmp_path, "mine.py", "afters")
    loaded = load_plugins([tmp_path])
    assert "afters" in loaded.origins
    assert "before" not in loaded.origins
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = 1", "has no function ilp_causes marked @hookimpl"),
        ("def ilp_causes(): return []", "has no function ilp_causes marked @hookimpl"),
        (
            "from ilp_service.plugin import hookimpl\n@hookimpl\ndef ilp_cause(): return []",
            "unknown hook 'ilp_cause'",
        ),
        (
            "from ilp_service.plugin import hookimpl\n@hookimpl\ndef ilp_causes(study): return []",
            "PluginValidationError",
        ),
        ("from ilp_service.plugin import hookimpl\n@hookimpl\ndef ilp_causes(): return 3", "returned int"),
        ("from ilp_service.plugin import hookimpl\n@hookimpl\ndef ilp_causes(): return [3]", "returned int"),
        ("from ilp_service.plugin import hookimpl\n@hookimpl\ndef ilp_causes(): return 'abc'", "returned str"),
        ("from ilp_service.plugin import hookimpl\n@hookimpl\ndef ilp_causes(): 1 / 0", "ZeroDivisionError"),
        (b"x = '\xff'", "SyntaxError"),
    ],
)
def test_a_broken_file_is_named_with_its_reason_and_the_others_go_on(
    tmp_path: Path, source: str | bytes, reason: str
) -> None:
    path = tmp_path / "a_broken.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    plugin(tmp_path, "b_fine.py", "fine")
    loaded = load_plugins([tmp_path])
    assert "fine" in loaded.origins
    assert set(loaded.failures) == {str(path)}
    assert reason in loaded.failures[str(path)]
    assert "\n" not in loaded.failures[str(path)]


@pytest.mark.parametrize(
    ("name", "body", "returned", "reason"),
    [
        ("Bad Name", "", "[Mine()]", "expected small letters"),
        ("unattributed", "", "[Mine()]", "expected small letters"),
        ("mine", "    title = ' '", "[Mine()]", "Mine.title is ' '"),
        ("mine", "    needs = ['base_model']", "[Mine()]", "expected a frozenset of Need"),
        ("mine", "    needs = frozenset({'gpu'})", "[Mine()]", "expected a frozenset of Need"),
        ("mine", "    threshold = 0", "[Mine()]", "Mine.threshold is 0"),
        ("mine", "    signals = ()", "[Mine()]", "at least one Signal"),
        ("mine", "    signals = (Signal('a', '0-1', '+', 'm'),) * 2", "[Mine()]", "declares the signal 'a' twice"),
        ("mine", "    signals = (Signal('a.b', '0-1', '+', 'm'),)", "[Mine()]", "a signal named 'a.b'"),
        ("mine", "    signals = (Signal('a', '0-1', 'up', 'm'),)", "[Mine()]", "has direction 'up'"),
        ("mine", "    signals = (Signal('a', '0-1', '+', ''),)", "[Mine()]", "lacks a unit or a meaning"),
        ("mine", "    signals = (Signal('a', '0-1', '+', 'm', 'image'),)", "[Mine()]", "has kind 'image'"),
        ("mine", "", "[Mine]", "return an object of it, Mine()"),
        ("mine", "    name = property(lambda self: 1 / 0)", "[Mine()]", "ZeroDivisionError"),
        ("mine", "\n\ndel Mine.signals", "[Mine()]", "Mine does not declare signals"),
    ],
)
def test_a_wrong_declaration_is_told(tmp_path: Path, name: str, body: str, returned: str, reason: str) -> None:
    path = plugin(tmp_path, "mine.py", name, body, returned)
    loaded = load_plugins([tmp_path])
    assert tuple(loaded.origins) == BUILT_IN
    assert reason in loaded.failures[str(path)]


def test_a_name_that_is_taken_stays_with_whoever_came_first(tmp_path: Path) -> None:
    thief = plugin(tmp_path, "a.py", "missing_knowledge")
    plugin(tmp_path, "b.py", "mine")
    second = plugin(tmp_path, "c.py", "mine")
    loaded = load_plugins([tmp_path])
    assert loaded.origins["missing_knowledge"].startswith("ilp-service")
    assert loaded.origins["mine"] == str(tmp_path / "b.py")
    assert set(loaded.failures) == {str(thief), str(second)}
    assert "'mine'" in loaded.failures[str(second)]
    assert str(tmp_path / "b.py") in loaded.failures[str(second)]


def test_one_wrong_cause_does_not_take_its_plugins_others_with_it(tmp_path: Path) -> None:
    path = plugin(tmp_path, "mine.py", "mine", returned="[Mine(), 7, Mine]")
    loaded = load_plugins([tmp_path])
    assert "mine" in loaded.origins
    assert "returned int" in loaded.failures[str(path)]
    assert "return an object of it" in loaded.failures[str(path)]


def test_two_calls_share_nothing(tmp_path: Path) -> None:
    plugin(tmp_path, "mine.py", "mine")
    assert "mine" in load_plugins([tmp_path]).origins
    assert "mine" not in load_plugins().origins
    assert "mine" in load_plugins([tmp_path, tmp_path]).origins


def test_a_folder_that_is_not_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PluginLoadError, match="does not exist"):
        load_plugins([tmp_path / "nowhere"])
    path = plugin(tmp_path, "mine.py", "mine")
    with pytest.raises(PluginLoadError, match="is a file; name the folder"):
        load_plugins([path])


def test_an_interrupt_goes_through(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_plugins([tmp_path])


def test_the_description_is_json_and_names_everything(tmp_path: Path) -> None:
    path = plugin(tmp_path, "mine.py", "mine")
    described = json.loads(json.dumps(describe_plugins(load_plugins([tmp_path]))))
    described = [entry for entry in described if entry["kind"] == "cause"]
    assert [entry["name"] for entry in described] == [*BUILT_IN, "mine"]
    assert described[1]["needs"] == ["base_model"]
    assert described[-1] == {
        "name": "mine",
        "title": "A cause of a test",
        "kind": "cause",
        "needs": [],
        "origin": str(path),
        "version": None,
        "threshold": 0.5,
        "signals": [{"name": "one", "unit": "0-1", "direction": "+", "kind": "number", "meaning": "Always one."}],
    }


def test_a_package_in_a_folder_is_loaded_and_an_installed_one_only_once(tmp_path: Path) -> None:
    package = tmp_path / "my_causes_package"
    package.mkdir()
    plugin(package, "__init__.py", "packaged")
    (tmp_path / "ilp_causes").mkdir()
    (tmp_path / "ilp_causes" / "__init__.py").write_text("raise RuntimeError")
    loaded = load_plugins([tmp_path])
    assert tuple(loaded.origins) == (*BUILT_IN, "packaged")
    assert dict(loaded.failures) == {}
