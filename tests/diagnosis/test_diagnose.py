"""``ilp diagnose`` from the command line to the MLflow run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest
import yaml

from ilp_service.tracking import Tracking
from tests.diagnosis.conftest import ROWS, Ilp, Inputs

KEYS = [
    "run_id", "model", "base", "samples", "unlearned", "unlearned_rate", "causes", "unattributed", "not_measurable",
    "quarantined", "seconds", "artifacts",
]  # fmt: skip
TABLES = ("evaluation", "evidence", "attributions", "candidate_causes", "options", "quarantine")


def tables(artifacts: dict[str, str]) -> dict[str, list[dict[str, object]]]:
    return {name: pq.read_table(artifacts[name]).to_pylist() for name in TABLES}


def test_json_is_one_object_and_the_run_holds_every_artifact(ilp: Ilp, inputs: Inputs) -> None:
    done = ilp("diagnose", inputs.model, "--base", inputs.base, "--data", inputs.data, "--json")
    assert done.code == 0, done.err
    found = done.json()
    assert list(found) == KEYS
    assert found["samples"] == len(ROWS)
    assert sum(found["causes"].values()) + found["unattributed"] == found["unlearned"]
    assert found["not_measurable"] == ["left_side_forgetting"]
    assert set(found["artifacts"]) == {*TABLES, "config", "summary", "report", "classifier"}
    read = tables(found["artifacts"])
    assert len(read["evaluation"]) == len(ROWS)
    assert len(read["attributions"]) == len(read["evidence"]) == found["unlearned"]
    told = json.loads(Path(found["artifacts"]["summary"]).read_text())["artifacts"]
    assert told == {name: uri for name, uri in found["artifacts"].items() if name != "summary"}
    assert "<html" in Path(found["artifacts"]["report"]).read_text()
    run = mlflow.MlflowClient().get_run(found["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["ilp.unlearned_rate"] == pytest.approx(found["unlearned_rate"])
    assert run.data.tags["ilp.status"] == "done"
    classifier = mlflow.pyfunc.load_model(found["artifacts"]["classifier"])
    assert classifier is not None


def test_its_config_repeats_the_run_to_the_same_tables(ilp: Ilp, inputs: Inputs) -> None:
    first = ilp(
        "diagnose",
        inputs.model,
        "--base",
        inputs.base,
        "--data",
        inputs.data,
        "--set",
        "detection.threshold=0.5",
        "--json",
    ).json()
    again = ilp("diagnose", "--config", first["artifacts"]["config"], "--set", "work_dir=elsewhere", "--json").json()
    assert tables(first["artifacts"]) == tables(again["artifacts"])
    assert yaml.safe_load(Path(again["artifacts"]["config"]).read_text())["settings"]["detection"]["threshold"] == 0.5


def test_a_config_is_not_repeated_on_other_data(ilp: Ilp, inputs: Inputs) -> None:
    first = ilp("diagnose", inputs.model, "--data", inputs.data, "--json").json()
    inputs.data.write_text(inputs.data.read_text() + json.dumps(ROWS[0]) + "\n")
    again = ilp("diagnose", "--config", first["artifacts"]["config"])
    assert again.code == 10
    assert "digest" in again.err


def test_an_alias_is_resolved_once_and_the_version_is_tagged(ilp: Ilp, inputs: Inputs) -> None:
    tracking = Tracking()
    with tracking.run("register") as run:
        version = run.register("bot", folder=inputs.model, base=inputs.base)
    tracking.set_alias("bot", version.version or "", "champion")
    found = ilp("diagnose", "models:/bot@champion", "--data", inputs.data, "--json").json()
    assert found["model"] == f"models:/bot/{version.version}"
    assert found["base"] == str(inputs.base)
    summary = json.loads(Path(found["artifacts"]["summary"]).read_text())
    assert (summary["details"]["model_uri"], summary["details"]["alias"]) == ("models:/bot@champion", "champion")
    tags = mlflow.MlflowClient().get_model_version("bot", version.version).tags
    assert tags["ilp.status"] == "done"
    assert tags["ilp.run_id"] == found["run_id"]
    assert float(tags["ilp.unlearned_rate"]) == pytest.approx(found["unlearned_rate"], abs=1e-6)
    assert tags["ilp.top_cause"]


def test_without_a_base_the_causes_that_need_it_are_not_measurable(ilp: Ilp, inputs: Inputs) -> None:
    done = ilp("diagnose", inputs.model, "--data", inputs.data, "--json")
    assert {"missing_knowledge", "pretraining_conflict"} <= set(done.json()["not_measurable"])
    assert done.json()["base"] is None
    assert "--base" in done.err


@pytest.mark.parametrize(("threshold", "expected"), [("0", 0), ("1", len(ROWS))])
def test_nothing_and_everything_unlearned_are_both_reported(
    ilp: Ilp, inputs: Inputs, threshold: str, expected: int
) -> None:
    done = ilp(
        "diagnose",
        inputs.model,
        "--base",
        inputs.base,
        "--data",
        inputs.data,
        "--set",
        f"detection.threshold={threshold}",
        "--json",
    )
    assert done.code == 0, done.err
    assert done.json()["unlearned"] == expected


def test_another_threshold_scores_nothing_again(ilp: Ilp, inputs: Inputs, workplace: Path) -> None:
    def scored() -> dict[Path, int]:
        kept = [*workplace.glob("mlruns/ilp-work/*/*/options/*"), *workplace.glob("mlruns/ilp-work/*/generation/*")]
        return {path: path.stat().st_mtime_ns for path in kept}

    def rate(threshold: str) -> float:
        done = ilp(
            "diagnose", inputs.model, "--data", inputs.data, "--set", f"detection.threshold={threshold}", "--json"
        )
        return float(done.json()["unlearned_rate"])

    assert rate("0") == 0.0
    before = scored()
    assert len(before) == 2
    assert rate("1") == 1.0
    assert scored() == before


def test_a_limit_keeps_the_first_samples(ilp: Ilp, inputs: Inputs) -> None:
    assert ilp("diagnose", inputs.model, "--data", inputs.data, "--limit", 3, "--json").json()["samples"] == 3


def test_a_dry_run_shows_three_samples_and_makes_no_run(ilp: Ilp, inputs: Inputs, workplace: Path) -> None:
    shown = ilp("diagnose", inputs.model, "--base", inputs.base, "--data", inputs.data, "--dry-run")
    assert shown.code == 0, shown.err
    assert shown.out.count("in the loss") == 3
    assert "prompt_tokens_a_pass" in shown.err
    as_json = ilp("diagnose", inputs.model, "--data", inputs.data, "--dry-run", "--json").json()
    first = as_json["previews"][0]
    marked = "".join(token for token, mask in zip(first["tokens"], first["loss_mask"], strict=True) if mask)
    assert "Paris" in marked
    assert "Ada" not in marked
    assert not (workplace / "mlruns" / "artifacts").exists()


def test_human_output_names_rate_causes_and_report(ilp: Ilp, inputs: Inputs) -> None:
    done = ilp("diagnose", inputs.model, "--base", inputs.base, "--data", inputs.data)
    assert "samples are unlearned" in done.out
    assert "missing knowledge" in done.out
    assert "report.html" in done.out


def test_a_run_killed_half_way_goes_on_and_gives_the_same_tables(ilp: Ilp, inputs: Inputs, workplace: Path) -> None:
    command = ["diagnose", inputs.model, "--base", inputs.base, "--data", inputs.data, "--json",
               "--set", "scoring.chunk_samples=2"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "ilp_service", *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    work = workplace / "mlruns" / "ilp-work"
    deadline = time.monotonic() + 240
    while len(list(work.glob("*/*/*.parquet"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in work.glob("*/*/*.parquet")}
    assert len(before) >= 3
    resumed = ilp(*command).json()
    kept = [path for path, when in before.items() if path.stat().st_mtime_ns == when]
    assert len(kept) >= len(before) - 1, "finished slices were computed again"
    fresh = ilp(*command, "--set", "work_dir=fresh").json()
    assert tables(resumed["artifacts"]) == tables(fresh["artifacts"])


def test_empty_options_count_as_absent(ilp: Ilp, inputs: Inputs) -> None:
    done = ilp(
        "diagnose", inputs.model, "--data", inputs.data, "--base=", "--trajectory=", "--config=", "--limit=", "--json"
    )
    assert done.code == 0, done.err
