"""What is left on the registered version when a diagnosis fails, and what an interrupt at the very start shows."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from ilp_service.diagnosis.failure import sentence
from ilp_service.errors import DataNotFoundError
from ilp_service.tracking import Tracking
from tests.diagnosis.conftest import Ilp, Inputs

PROJECT = Path(__file__).parents[2]


def registered(inputs: Inputs) -> str:
    with Tracking().run("register") as run:
        return run.register("bot", folder=inputs.model, base=inputs.base).resolved


def tags() -> dict[str, str]:
    return dict(mlflow.MlflowClient().get_model_version("bot", "1").tags)


def test_a_failure_replaces_an_earlier_done_and_a_success_clears_it(
    ilp: Ilp, inputs: Inputs, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = registered(inputs)
    command = ("diagnose", uri, "--data", inputs.data, "--limit", "4")
    assert ilp(*command).code == 0
    first = tags()
    assert first["ilp.status"] == "done"

    assert ilp("diagnose", uri, "--data", workplace / "gone.jsonl").code == 20
    failed = tags()
    assert failed["ilp.status"] == "failed"
    assert "gone.jsonl" in failed["ilp.reason"]
    assert failed["ilp.run_id"] != first["ilp.run_id"]
    assert not {"ilp.unlearned_rate", "ilp.top_cause"} & set(failed)
    assert failed["ilp.base_model"] == first["ilp.base_model"]
    run = mlflow.MlflowClient().get_run(failed["ilp.run_id"])
    assert (run.info.status, run.data.tags["ilp.status"]) == ("FAILED", "failed")

    assert ilp(*command).code == 0
    again = tags()
    assert again["ilp.status"] == "done"
    assert "ilp.reason" not in again

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ilp_service.diagnosis.run.investigate", interrupt)
    assert ilp(*command).code == 130
    assert tags() == again, "an interrupted diagnosis is no failure"


def test_a_failure_of_a_model_that_is_not_registered_is_told_on_the_run(ilp: Ilp, inputs: Inputs) -> None:
    assert ilp("diagnose", "models:/nobody/1", "--data", inputs.data).code == 11
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("ilp").experiment_id])
    assert "nobody" in run.data.tags["ilp.reason"]


def test_a_reason_is_one_sentence_of_bearable_length() -> None:
    assert sentence(DataNotFoundError("No file a.b here. Mend it. Now.")) == "No file a.b here."
    assert sentence(RuntimeError("boom\n  and\tmore")) == "RuntimeError: boom and more"
    assert len(sentence(ValueError("x" * 5000))) == 300


@pytest.mark.parametrize("start", [["-m", "ilp_service"], ["-c", "from ilp_service.__main__ import main; main()"]])
def test_an_interrupt_during_the_first_imports_shows_no_traceback(tmp_path: Path, start: list[str]) -> None:
    (tmp_path / "click.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\nraise SystemExit('went on')\n"
    )
    done = subprocess.run(
        [sys.executable, *start, "--help"],
        env={"PYTHONPATH": f"{tmp_path}:{PROJECT}"},
        capture_output=True,
        text=True,
        timeout=60,
        # Tests may themselves run where Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
