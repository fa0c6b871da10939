"""What a run leaves in the store, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier

from ilp_service.errors import StorageError, TrackingError
from ilp_service.tracking import Tracking
from tests.tiny import save_tiny

ROOT = Path(__file__).parents[2]


def status(tracking: Tracking, run_id: str) -> str:
    return str(tracking.client().get_run(run_id).info.status)


def test_nothing_is_made_before_the_first_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Tracking()
    assert list(tmp_path.iterdir()) == []


def test_embedded_store_lies_in_mlruns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an empty folder, without the prepared database of the other tests."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("hello")
    tracking = Tracking()
    with tracking.run("first") as run:
        uri = run.log_file(tmp_path / "note.txt")
    experiment = tracking.client().get_experiment_by_name("ilp")
    assert experiment.artifact_location == str(tmp_path / "mlruns" / "artifacts")
    assert Path(uri).read_text() == "hello"
    assert Path(uri).is_relative_to(tmp_path / "mlruns" / "artifacts")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlruns", "note.txt"]
    assert sorted(path.name for path in (tmp_path / "mlruns").iterdir()) == ["artifacts", "mlflow.db"]


def test_two_processes_may_make_the_store_at_once(tmp_path: Path) -> None:
    script = "from ilp_service.tracking import Tracking\nwith Tracking().run('x') as run: print(run.experiment_id)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=120)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1] != ""


def test_everything_logged_is_found_again(workplace: Path) -> None:
    tracking = Tracking(experiment="other")
    base = save_tiny(workplace / "m", "qwen2")
    (workplace / "data.jsonl").write_text("{}\n")
    with tracking.run("named", {"kind": "test"}) as run:
        from tests.tiny import tiny_model, tiny_tokenizer

        model = run.register("bot", model=tiny_model(), tokenizer=tiny_tokenizer(), base=base, tags={"a": "b"})
        run.log_params({f"p{number}": number for number in range(150)} | {"long": "x" * 9000})
        run.log_metrics({"ilp.unlearned_rate": 0.25, "n": 3}, model_id=model.model_id)
        run.set_tags({"status": 1})
        summary = run.log_dict({"a": [1, 2]}, "summary.json")
        run.log_inputs(data=workplace / "data.jsonl", digest="0" * 64, rows=1, model_id=model.model_id)
    found = tracking.client().get_run(run.run_id)
    assert (found.info.run_name, found.info.status, found.data.tags["kind"]) == ("named", "FINISHED", "test")
    assert tracking.client().get_experiment(found.info.experiment_id).name == "other"
    assert found.data.params["p149"] == "149"
    assert len(found.data.params["long"]) == 6000
    assert found.data.metrics == {"ilp.unlearned_rate": 0.25, "n": 3.0}
    assert json.loads(Path(summary).read_text()) == {"a": [1, 2]}
    (data,) = found.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("data.jsonl", "0" * 36)
    assert [entry.model_id for entry in found.inputs.model_inputs] == [model.model_id]
    linked = {metric.key: metric.value for metric in tracking.client().get_logged_model(model.model_id).metrics}
    assert linked["ilp.unlearned_rate"] == 0.25
    version = tracking.client().get_model_version("bot", "1")
    assert (version.run_id, version.tags) == (run.run_id, {"ilp.base_model": str(base), "a": "b"})
    tracking.tag_version("bot", "1", {"ilp.status": "done"})
    assert tracking.find("models:/bot/1").tags["ilp.status"] == "done"


def test_it_attaches_to_the_run_that_mlflow_run_made(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = Tracking()
    given = tracking.client().create_run("0", run_name="made by mlflow run")
    tracking.client().log_param(given.info.run_id, "limit", "")
    monkeypatch.setenv("MLFLOW_RUN_ID", given.info.run_id)
    with tracking.run("ours", {"a": "b"}) as run:
        run.log_params({"limit": None, "seed": 0})
        run.log_params({"limit": None, "seed": 0})
    assert run.run_id == given.info.run_id
    found = tracking.client().get_run(run.run_id)
    assert (found.info.run_name, found.info.status, found.data.tags["a"]) == ("made by mlflow run", "FINISHED", "b")
    assert found.data.params == {"limit": "", "ilp.limit": "None", "seed": "0"}
    with tracking.run("second") as second:
        pass
    assert second.run_id != run.run_id


def test_it_can_be_a_child_of_that_run_instead(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = Tracking()
    given = tracking.client().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with tracking.run("child", attach=False) as child:
        pass
    assert tracking.client().get_run(child.run_id).data.tags["mlflow.parentRunId"] == given
    assert os.environ["MLFLOW_RUN_ID"] == given, "a later run may still attach"
    with tracking.run("late") as late:
        pass
    assert late.run_id == given


def test_unknown_run_to_attach_to(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(TrackingError, match="0000"), Tracking().run("x"):
        pass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("x"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(3), "FAILED"),
        (SystemExit(0), "FINISHED"),
    ],
)
def test_how_a_run_ends(workplace: Path, error: BaseException, expected: str) -> None:
    tracking = Tracking()
    with pytest.raises(type(error)), tracking.run("x") as run:
        raise error
    assert status(tracking, run.run_id) == expected
    assert mlflow.active_run() is None


def test_sigterm_ends_the_run_as_killed(workplace: Path) -> None:
    script = """
        import time
        from ilp_service.tracking import Tracking
        with Tracking().run("x") as run:
            print(run.run_id, flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert rest == ""
    assert status(Tracking(), run_id) == "KILLED"
    before = signal.getsignal(signal.SIGTERM)
    with Tracking().run("y"):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_standard_output_stays_clean(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_tiny(workplace / "m", "qwen2")
    capfd.readouterr()
    with Tracking().run("x") as run:
        run.log_dict({}, "a.json")
        run.register("bot", folder=workplace / "m")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("calibrated", [False, True])
def test_classifier_comes_back_with_class_probabilities(workplace: Path, calibrated: bool) -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(200, 3)), columns=["a.x", "a.y", "b.z"])
    rows.iloc[::7, 1] = np.nan
    labels = np.where(rows["a.x"] > 0.5, "left", np.where(rows["b.z"] > 0, "right", "none"))
    model = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    if calibrated:
        model = CalibratedClassifierCV(model, cv=2)
    model.fit(rows, labels)
    trusted = [
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
    ]
    tracking = Tracking()
    with tracking.run("x") as run:
        uri = run.log_sklearn(model, "meta", rows, trusted)
    expected = model.predict_proba(rows)
    back = mlflow.sklearn.load_model(uri)
    assert list(back.classes_) == ["left", "none", "right"]
    np.testing.assert_array_equal(back.predict_proba(rows), expected)
    np.testing.assert_allclose(np.asarray(mlflow.pyfunc.load_model(uri).predict(rows)), expected)
    files = [path for path in (workplace / "mlruns" / "artifacts").rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in {".pkl", ".pickle", ".joblib"}]
    assert any(path.suffix == ".skops" for path in files)


def test_full_disk_leaves_no_half_file(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "big.parquet").write_bytes(b"x" * 1000)

    def full(_source: BinaryIO, target: BinaryIO, *_: object, **__: object) -> None:
        target.write(b"x" * 10)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tracking = Tracking()

    def log() -> None:
        with tracking.run("x") as run:
            ended.append(run.run_id)
            monkeypatch.setattr(shutil, "copyfileobj", full)
            run.log_file(workplace / "big.parquet")

    ended: list[str] = []
    with pytest.raises(StorageError, match="No space left"):
        log()
    assert status(tracking, ended[0]) == "FAILED"
    assert [path for path in (workplace / "mlruns" / "artifacts").rglob("*") if path.is_file()] == []


def test_deleted_experiment_is_named(workplace: Path) -> None:
    tracking = Tracking()
    tracking.client().delete_experiment(tracking.experiment_id())
    with pytest.raises(TrackingError, match=r"'ilp' was deleted.*restore"), tracking.run("x"):
        pass


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A store URI that must be refused within seconds, as text of the error."""

    def go(uri: str) -> str:
        with pytest.raises((TrackingError, StorageError)) as caught, Tracking(uri).run("x"):
            pass
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return go


@pytest.mark.timeout(20)
def test_stores_that_are_none(tmp_path: Path, refuse: Callable[[str], str]) -> None:
    (tmp_path / "text.db").write_text("this is no database, however long it is " * 50)
    assert "cannot be opened" in refuse(f"sqlite:///{tmp_path / 'text.db'}")
    assert "cannot be made" in refuse(f"sqlite:///{tmp_path / 'text.db' / 'x' / 'm.db'}")
    assert "does not answer" in refuse("postgresql://me:secret@127.0.0.1:9/mlflow")
    assert "secret" not in refuse("postgresql://me:secret@127.0.0.1:9/mlflow")
    assert "error" in refuse("nonsense://x")
