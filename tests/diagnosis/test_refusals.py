"""Everything a user can get wrong: one sentence, its own exit code, no traceback, nothing half-written."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilp_service.settings import load_settings
from tests.diagnosis.conftest import ROWS, Ilp, Inputs, Outcome


def refused(done: Outcome, code: int, *words: str) -> None:
    assert done.code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for word in words:
        assert word in errors[0]


def test_unknown_models_and_aliases(ilp: Ilp, inputs: Inputs) -> None:
    refused(ilp("diagnose", "models:/nobody/1", "--data", inputs.data), 11, "nobody")
    refused(ilp("diagnose", "models:/nobody@champion", "--data", inputs.data), 11, "nobody")
    refused(ilp("diagnose", inputs.model / "missing", "--data", inputs.data), 11)


Spoil = Callable[[Path], None]


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        (None, "missing.jsonl", 20),
        (b"", "empty.jsonl", 21),
        (b"\n\n", "blank.jsonl", 21),
        (b"a,b\n1,2\n", "table.csv", 22),
        (b'{"foo": 1}\n', "unknown.jsonl", 22),
        (b"PAR1 not really", "broken.parquet", 22),
        (b'{"prompt": "", "response": ""}\n', "bad.jsonl", 23),
        (b"\xff\xfe\xfa\n", "bytes.jsonl", 23),
    ],
)
def test_data_that_cannot_be_used(
    ilp: Ilp, inputs: Inputs, workplace: Path, content: bytes | None, name: str, code: int
) -> None:
    path = workplace / name
    if content is not None:
        path.write_bytes(content)
    done = ilp("diagnose", inputs.model, "--data", path)
    assert done.code in ({22, 23} if code == 23 else {code}), done.err
    assert "Traceback" not in done.err


def test_bad_rows_are_quarantined_and_the_others_are_diagnosed(ilp: Ilp, inputs: Inputs) -> None:
    huge = b'{"prompt": "' + b"x" * 1_000_000 + b'", "response": "y"}'
    bad = [b'{"prompt": "q?"}', b'{"prompt": "q?", "response": ""}', b'{"prompt": 3, "response": "x"}',
           b'{"prompt": "q \xff", "response": "x"}', b"{not json", huge]  # fmt: skip
    good = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
    inputs.data.write_bytes(good + b"\n".join(bad) + b"\n")
    found = ilp("diagnose", inputs.model, "--data", inputs.data, "--json").json()
    rows = pq.read_table(found["artifacts"]["quarantine"]).to_pylist()
    assert found["quarantined"] == len(rows) == len(bad)
    assert [row["line"] for row in rows] == list(range(len(ROWS) + 1, len(ROWS) + 1 + len(bad)))
    assert all(row["reason"] for row in rows)
    assert found["samples"] == len(ROWS)


def test_samples_longer_than_the_model_are_quarantined(ilp: Ilp, inputs: Inputs) -> None:
    long = {"prompt": "word " * 2000, "response": "x", "subset": "long"}
    inputs.data.write_text(inputs.data.read_text() + json.dumps(long) + "\n")
    found = ilp("diagnose", inputs.model, "--data", inputs.data, "--json").json()
    rows = pq.read_table(found["artifacts"]["quarantine"]).to_pylist()
    assert [row["line"] for row in rows] == [len(ROWS) + 1]
    assert "positions" in rows[0]["reason"]


def test_a_file_of_which_nothing_fits_the_model_ends_in_one_full_stop(ilp: Ilp, inputs: Inputs) -> None:
    inputs.data.write_text(json.dumps({"prompt": "word " * 2000, "response": "x"}) + "\n")
    done = ilp("diagnose", inputs.model, "--data", inputs.data)
    refused(done, 23, "positions")
    assert not done.err.rstrip().endswith("..")


def test_a_trajectory_with_unknown_ids(ilp: Ilp, inputs: Inputs, workplace: Path) -> None:
    path = workplace / "trajectory.jsonl"
    path.write_text('{"sample_id": "stranger-0", "step": 1, "loss": 2.0}\n')
    refused(ilp("diagnose", inputs.model, "--data", inputs.data, "--trajectory", path), 24, "stranger-0")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--set", "detection.threshold=7"),
        ("--set", "nonsense"),
        ("--set", "no.such=1"),
        ("--set", "detection.view=["),
        ("--config", "missing.yaml"),
    ],
)
def test_wrong_settings(ilp: Ilp, inputs: Inputs, arguments: tuple[str, ...]) -> None:
    refused(ilp("diagnose", inputs.model, "--data", inputs.data, *arguments), 10)


def test_a_view_that_is_not_measured_decides_nothing(ilp: Ilp, inputs: Inputs) -> None:
    view = ("--set", "detection.view=generation", "--set", "evaluation.generate=false")
    refused(ilp("diagnose", inputs.model, "--data", inputs.data, *view), 10, "evaluation.generate")


def test_text_that_is_no_yaml_is_a_setting_as_it_stands() -> None:
    assert load_settings(overrides=["data.separator=@"]).data.separator == "@"


def test_a_full_disk_under_stdout(ilp: Ilp, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ilp_service.settings.describe_settings", full)
    refused(ilp("settings"), 31, "No space left")


@pytest.mark.parametrize(("command", "hint"), [("diagnose", "the same command goes on"), ("train", "--resume")])
def test_an_interrupt_says_how_to_go_on(ilp: Ilp, monkeypatch: pytest.MonkeyPatch, command: str, hint: str) -> None:
    def interrupt(**_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ilp_service.cli.ilp", interrupt)
    done = ilp(command)
    assert (done.code, done.out) == (130, "")
    assert done.err.startswith("interrupted")
    assert hint in done.err


def test_missing_arguments(ilp: Ilp, inputs: Inputs) -> None:
    refused(ilp("diagnose", inputs.model), 10, "--data")
    refused(ilp("diagnose", "--data", inputs.data), 10, "MODEL_URI")
    assert ilp("diagnose", inputs.model, "--data", inputs.data, "--limit", "-3").code == 2


def test_a_tracking_server_that_is_down(ilp: Ilp, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    refused(ilp("diagnose", inputs.model, "--data", inputs.data), 30, "127.0.0.1:9")


def test_a_plugin_folder_that_is_not_there(ilp: Ilp, inputs: Inputs) -> None:
    missing = ("diagnose", inputs.model, "--data", inputs.data, "--plugin-dir", "nowhere")
    refused(ilp(*missing), 32, "nowhere")
    refused(ilp(*missing, "--dry-run"), 32, "nowhere")


def test_a_full_disk_loses_nothing_that_was_finished(
    ilp: Ilp, inputs: Inputs, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (
        "diagnose",
        inputs.model,
        "--base",
        inputs.base,
        "--data",
        inputs.data,
        "--set",
        "scoring.chunk_samples=2",
        "--json",
    )
    write, written = pq.write_table, 0

    def fill_up(table: pa.Table, where: object, **options: object) -> None:
        nonlocal written
        written += 1
        if written > 4:
            Path(str(where)).write_bytes(b"PAR1 half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(table, where, **options)

    with monkeypatch.context() as patched:
        patched.setattr("ilp_service.tables.pq.write_table", fill_up)
        refused(ilp(*command), 31, "full")
    finished = list((workplace / "mlruns" / "ilp-work").glob("*/*/*.parquet"))
    assert len(finished) == 4
    assert all(pq.read_table(path).num_rows for path in finished)
    runs = mlflow.MlflowClient().search_runs(mlflow.MlflowClient().get_experiment_by_name("ilp").experiment_id)
    assert [run.info.status for run in runs] == ["FAILED"]
    assert ilp(*command).code == 0


PLUGIN = """
import pyarrow as pa
from ilp_service.plugin import Cause, Signal, hookimpl

class Bad(Cause):
    name, title = "bad_one", "A plugin that breaks its contract"
    signals = (Signal("x", "0-1", "+", "anything"),)
    def collect(self, study):
        {collect}
    def rule(self, signals):
        {rule}
    def explain(self, row):
        return "because"

@hookimpl
def ilp_causes():
    return [Bad()]
"""
GOOD_TABLE = "return pa.table({'sample_id': list(study.unlearned), 'x': [0.5] * len(study.unlearned)})"


@pytest.mark.parametrize(
    ("collect", "rule"),
    [
        ("raise RuntimeError('boom')", "return signals['x']"),
        ("return pa.table({'sample_id': ['a'], 'x': [0.5]})", "return signals['x']"),
        (
            "return pa.table({'sample_id': list(study.unlearned), 'x': [float('nan')] * len(study.unlearned)})",
            "return signals['x']",
        ),
        (GOOD_TABLE, "return signals['x'] + 2"),
        (GOOD_TABLE, "return signals['x'] * float('nan')"),
    ],
)
def test_a_broken_plugin_fails_alone(ilp: Ilp, inputs: Inputs, workplace: Path, collect: str, rule: str) -> None:
    folder = workplace / "mine"
    folder.mkdir()
    (folder / "bad.py").write_text(PLUGIN.format(collect=collect, rule=rule))
    done = ilp("diagnose", inputs.model, "--base", inputs.base, "--data", inputs.data, "--plugin-dir", folder, "--json")
    assert done.code == 0, done.err
    found = done.json()
    assert found["causes"]["bad_one"] == 0
    summary = json.loads(Path(found["artifacts"]["summary"]).read_text())
    assert "bad_one failed" in summary["details"]["failed"]["bad_one"]
    assert "bad_one" in Path(found["artifacts"]["report"]).read_text()
    assert sum(found["causes"].values()) + found["unattributed"] == found["unlearned"]
