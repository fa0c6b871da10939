"""The notes beside an exported data set never lead a trainer to learn a turn that is not to be learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ilp_service.changes import Change, Correction
from ilp_service.intervention import exporting
from ilp_service.intervention.export import Exported, Form, export
from ilp_service.intervention.export_command import export as command
from ilp_service.samples.reading import DataSet, read_samples
from ilp_service.settings import DataSettings

READERS_OF_NO_WEIGHT = ("assistant_only_loss", "completion_only_loss", "roles_to_train", "dataset_info", "```")


def conversations(folder: Path, row_format: str) -> DataSet:
    """Two rows; the first has two turns."""
    turns = [("user", "u"), ("assistant", "WRONG"), ("user", "u2"), ("assistant", "right")]
    rows: list[dict[str, Any]] = []
    for said in (turns, turns[2:]):
        if row_format == "sharegpt":
            names = {"user": "human", "assistant": "gpt"}
            rows.append({"conversations": [{"from": names[role], "value": text} for role, text in said]})
            continue
        messages = [{"role": role, "content": text} for role, text in said]
        one = row_format == "messages"
        rows.append({"messages": messages} if one else {"prompt": messages[:1], "completion": messages[1:]})
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_samples(path, DataSettings())


def notes(done: Exported) -> str:
    return done.training.read_text(encoding="utf-8")


@pytest.mark.parametrize("row_format", ["messages", "sharegpt", "prompt_response"])
@pytest.mark.parametrize("kind", ["removed", "corrected", "repeated"])
def test_where_a_turn_is_masked_the_notes_point_to_the_forms_of_the_trainers(
    row_format: str, kind: str, tmp_path: Path
) -> None:
    data = conversations(tmp_path, row_format)
    first, second = (sample.sample_id for sample in data.samples[:2])
    change, rows = {
        "removed": (Change(removed={first: "Judged wrong."}), 1),
        "corrected": (Change(corrected={first: Correction("Right.", "Known.")}), 1),
        "repeated": (Change(exposures={second: 3.0}), 2),
    }[kind]
    done = export(data, change, tmp_path / "out.jsonl")
    said = notes(done)
    assert done.masked_rows == done.public()["masked_rows"] == rows
    assert done.data.read_text().count('"weight": 0') == rows
    assert f"**{rows} row" in said
    assert all(f"`--format {form}`" in said for form in ("trl", "axolotl", "llamafactory"))
    assert not any(word in said for word in READERS_OF_NO_WEIGHT)
    assert "in place of 3" not in said


@pytest.mark.parametrize("form", ["same", "trl", "axolotl", "llamafactory"])
def test_where_no_turn_is_masked_the_notes_hold_the_settings(form: Form, tmp_path: Path) -> None:
    data = conversations(tmp_path, "messages")
    first, _, alone = (sample.sample_id for sample in data.samples)
    # In the form of a trainer a removed turn is no row, so that nothing has to be masked.
    change = Change(removed={alone if form == "same" else first: "Judged wrong."})
    done = export(data, change, tmp_path / "out.jsonl", form=form)
    assert done.masked_rows == 0
    assert "```" in notes(done)
    assert "weight" not in notes(done)


@pytest.mark.parametrize("masked", [0, 2])
def test_the_command_says_that_turns_are_masked(masked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = Exported(tmp_path / "a.jsonl", None, tmp_path / "b", tmp_path / "c", 3, 4, {}, masked)
    monkeypatch.setattr(exporting, "export_prescription", lambda *_: done)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, ["run", "--output", "a.jsonl", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["masked_rows"] == masked
    assert ("--format trl" in result.stderr) == bool(masked)
