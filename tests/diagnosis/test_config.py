"""The config file of a run: it names everything from anywhere, and a wrong one is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from ilp_service.diagnosis.request import DiagnosisRequest, config_text, read_config
from ilp_service.errors import SettingsError
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
