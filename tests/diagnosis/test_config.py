"""The config file of a run: it names everything from anywhere, and a wrong one is refused in a sentence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from ilp_service.attribution.chosen import signals_digest
from ilp_service.diagnosis.request import DiagnosisRequest, config_text, read_config
from ilp_service.errors import SettingsError
from ilp_service.plugin_loading import load_plugins
from ilp_service.samples.reading import read_samples
from ilp_service.settings import Settings
from tests.diagnosis.conftest import Ilp, Inputs


def inputs_of(text: str, tmp_path: Path) -> dict[str, object]:
    (tmp_path / "config.yaml").write_text(text)
    inputs = read_config(tmp_path / "config.yaml")["inputs"]
    assert isinstance(inputs, dict)
    return inputs


def test_paths_are_written_so_that_they_are_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base").mkdir()
    Path("t.jsonl").touch()
    request = DiagnosisRequest("models:/m/1", Path("d.jsonl"), Settings(), base="base")
    found = inputs_of(config_text(request, "models:/m/1", "t.jsonl", {}), tmp_path)
    assert found["base"] == str(tmp_path / "base")
    assert found["trajectory"] == str(tmp_path / "t.jsonl")
    assert found["data"] == str(tmp_path / "d.jsonl")


def test_uris_are_written_as_they_are(tmp_path: Path) -> None:
    request = DiagnosisRequest("models:/m@new", Path("d.jsonl"), Settings(), base="models:/base/2")
    found = inputs_of(config_text(request, "models:/m/1", "runs:/abc/trajectory.parquet", {}), tmp_path)
    assert (found["model_uri"], found["base"]) == ("models:/m/1", "models:/base/2")
    assert found["trajectory"] == "runs:/abc/trajectory.parquet"


@pytest.mark.parametrize(
    "text",
    [
        "inputs: {limit: many}",
        "inputs: {limit: 0}",
        "inputs: {data: 3}",
        "inputs: {plugin_dirs: here}",
        "inputs: {1: x}",
        "inputs: []\nsettings: 3",
        "settings: {}\ndigests: abc",
    ],
)
def test_a_config_of_the_wrong_kind_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"config\.yaml has .*; (expected|known)"):
        inputs_of(text, tmp_path)


def test_another_models_training_record_is_not_taken_from_a_config(ilp: Ilp, inputs: Inputs, workplace: Path) -> None:
    config = workplace / "c.yaml"
    config.write_text(f"inputs: {{data: {inputs.data}, trajectory: {workplace / 'gone.jsonl'}}}")
    assert ilp("diagnose", inputs.model, "--config", config, "--dry-run", "--json").json()["samples"]
    config.write_text(config.read_text().replace("inputs: {", f"inputs: {{model_uri: {inputs.model}, "))
    refused = ilp("diagnose", "--config", config, "--dry-run")
    assert refused.code
    assert "gone.jsonl" in refused.err


PLUGIN = """
import pyarrow as pa
from ilp_service.plugin import Cause, Signal, hookimpl

class Mine(Cause):
    name, title = "mine", "A cause of one's own"
    signals = (Signal("x", "0-1", "+", "anything"),)
    def collect(self, study):
        return pa.table({"sample_id": list(study.unlearned), "x": [0.5] * len(study.unlearned)})
    def rule(self, signals):
        return signals["x"]
    def explain(self, row):
        return "because"

@hookimpl
def ilp_causes():
    return [Mine()]
"""


def test_a_config_holds_the_digest_of_all_that_decides_and_is_not_repeated_on_anything_else(
    ilp: Ilp, inputs: Inputs, workplace: Path
) -> None:
    folder, record = workplace / "mine", workplace / "t.jsonl"
    folder.mkdir()
    plugin = folder / "mine.py"
    plugin.write_text(PLUGIN)
    sample = read_samples(inputs.data, Settings().data).samples[0].sample_id
    lines = [json.dumps({"sample_id": sample, "step": step, "loss": 2.0 - step / 10}) + "\n" for step in range(3)]
    record.write_text("".join(lines))
    command = ("diagnose", inputs.model, "--data", inputs.data, "--limit", "4", "--trajectory", record)
    found = ilp(*command, "--plugin-dir", folder, "--json").json()
    config = Path(found["artifacts"]["config"])
    digests = yaml.safe_load(config.read_text())["digests"]
    assert digests["trajectory"] == hashlib.sha256(record.read_bytes()).hexdigest()
    assert digests["classifier"] == signals_digest()
    assert set(digests) == {"model", "base", "data", "trajectory", "classifier", f"plugin {plugin}"}
    assert ilp("diagnose", "--config", config).code == 0

    plugin.write_text(PLUGIN + "\n# changed\n")
    refused = ilp("diagnose", "--config", config)
    assert (refused.code, f"plugin {plugin} with digest" in refused.err) == (10, True)
    assert ilp("diagnose", "--config", config, "--plugin-dir", folder).code == 0
    plugin.write_text(PLUGIN)
    record.write_text("".join(lines[:2]))
    refused = ilp("diagnose", "--config", config)
    assert (refused.code, "a trajectory with digest" in refused.err) == (10, True)
    assert ilp("diagnose", "--config", config, "--trajectory", record).code == 0

    config.write_text(config.read_text().replace(str(digests["classifier"]), "0" * 64))
    record.write_text("".join(lines))
    refused = ilp("diagnose", "--config", config)
    assert (refused.code, "attribution.classifier" in refused.err) == (10, True)
    assert ilp("diagnose", "--config", config, "--set", "attribution.classifier=built-in").code == 0


def test_the_digest_of_a_package_follows_its_code_and_ours_has_none(tmp_path: Path) -> None:
    assert load_plugins().digests == {}
    package = tmp_path / "ilp_config_digest"
    package.mkdir()
    (package / "__init__.py").write_text("from .part import *\n")
    (package / "part.py").write_text(PLUGIN)
    before = load_plugins([tmp_path]).digests
    assert set(before) == {str(package)}
    (package / "part.py").write_text(PLUGIN + "#")
    assert load_plugins([tmp_path]).digests != before


def test_a_relative_base_is_shown_in_full(ilp: Ilp, inputs: Inputs, workplace: Path) -> None:
    (workplace / "near").symlink_to(inputs.base)
    found = ilp("diagnose", inputs.model, "--base", "near", "--data", inputs.data, "--limit", "3", "--json").json()
    assert found["base"] == str(workplace / "near")
    config = yaml.safe_load(Path(found["artifacts"]["config"]).read_text())
    assert Path(config["inputs"]["base"]).samefile(inputs.base)
