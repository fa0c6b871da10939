"""The snippets of the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from ilp_service.samples.reading import read_samples
from ilp_service.settings import DataSettings
from ilp_service.tables import TRAJECTORY
from ilp_service.training.command import train as command
from ilp_service.training.trajectory import read_trajectory
from tests.tiny import tiny_tokenizer
from tests.training.small import questions, small_model
from tests.training.test_exposures import pad_right, user_rows

DOCS = Path(__file__).parents[2] / "docs"


def snippets(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), flags=re.DOTALL)


def test_the_one_line_records_a_trajectory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = questions(tmp_path / "sft.jsonl")
    names = {
        "model": small_model(),
        "tokenizer": tiny_tokenizer(),
        "train_dataset": user_rows(data),
        "collator": pad_right,
    }
    (stock, trl) = snippets("training.md")
    exec(compile(stock, "training.md", "exec"), names)  # noqa: S102 - our own documentation
    table = read_trajectory(tmp_path / "trajectory.parquet", read_samples(data, DataSettings()).all_ids)
    assert table["exposures"].to_pylist()[-12:] == [2] * 12
    line = next(text for text in stock.splitlines() if "# this line" in text)
    assert line in trl


def test_sample_ids_are_listed_as_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = questions(tmp_path / "sft.jsonl")
    (listing,) = snippets("trajectory.md")
    exec(compile(listing, "trajectory.md", "exec"), {})  # noqa: S102 - our own documentation
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == [s.sample_id for s in read_samples(data, DataSettings()).samples]


def test_the_documented_example_can_be_imported(tmp_path: Path) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", (DOCS / "trajectory.md").read_text(), flags=re.DOTALL)
    (tmp_path / "t.jsonl").write_text(example)
    assert read_trajectory(tmp_path / "t.jsonl", frozenset({"3f0c1d2e4b5a6978-0"})).num_rows == 2


def test_every_column_and_every_option_is_documented() -> None:
    columns = (DOCS / "trajectory.md").read_text()
    assert [name for name in TRAJECTORY.names if f"| `{name}` |" not in columns] == []
    text = (DOCS / "training.md").read_text()
    options = re.findall(r"--[a-z0-9-]+", CliRunner().invoke(command, ["--help"]).output)
    known = {"--help", "--data", "--output", "--limit", "--set", "--experiment"}
    assert sorted({option for option in options if f"`{option}" not in text} - known) == []
