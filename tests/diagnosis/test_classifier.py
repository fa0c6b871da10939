"""Which classifier a diagnosis uses, what it says about it, and the commands around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from ilp_service.attribution.builtin import SIGNALS
from tests.diagnosis.conftest import Ilp, Inputs

NAME = "models:/ilp-meta-classifier"


@pytest.fixture
def signals(workplace: Path) -> Path:
    """A tenth of the built-in table, of two causes only: another classifier, trained in a second."""
    table = pq.read_table(str(SIGNALS))
    kept = table.filter(
        pc.is_in(table["cause"], value_set=pa.array(["insufficient_optimization", "missing_knowledge"]))
    )
    path = workplace / "signals.parquet"
    pq.write_table(kept.take(list(range(0, kept.num_rows, 3))), path)
    return path


def details(found: dict[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(found["artifacts"]["summary"]).read_text())["details"]
    return loaded


def passes(workplace: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in workplace.glob("mlruns/ilp-work/*/*/**/*.parquet")
            if "output" not in path.parts}  # fmt: skip


def probabilities(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {key: row[key] for key in row if key.startswith("p_")}
        for row in pq.read_table(found["artifacts"]["attributions"]).to_pylist()
    ]


def test_a_changed_champion_changes_the_causes_without_a_new_model_pass(
    ilp: Ilp, inputs: Inputs, workplace: Path, signals: Path
) -> None:
    command = ("diagnose", inputs.model, "--base", inputs.base, "--data", inputs.data, "--set", "detection.threshold=1",
               "--json")  # fmt: skip
    first = ilp(*command).json()
    assert details(first)["classifier"]["uri"] == "built-in"
    before = passes(workplace)
    assert before

    made = ilp("classifier", "register", "--signals", signals, "--alias", "champion", "--json").json()
    assert made["model"] == f"{NAME}/1"
    done = ilp(*command)
    second = done.json()
    assert f"classifier: {NAME}/1" in done.err
    assert passes(workplace) == before
    assert probabilities(second) != probabilities(first)
    assert second["artifacts"]["classifier"] == f"{NAME}/1"
    assert details(second)["classifier"] | {"reason": ""} == {
        "uri": f"{NAME}/1", "digest": made["digest"], "reason": "", "fallback": False,
    }  # fmt: skip
    config = yaml.safe_load(Path(second["artifacts"]["config"]).read_text())
    assert config["settings"]["attribution"]["classifier"] == f"{NAME}/1"
    assert config["digests"]["classifier"] == made["digest"]
    data = mlflow.MlflowClient().get_run(second["run_id"]).data
    assert (data.params["classifier"], data.tags["ilp.classifier"]) == (f"{NAME}/1", f"{NAME}/1")
    assert data.tags["ilp.classifier_digest"] == made["digest"]
    assert f"{NAME}/1" in Path(second["artifacts"]["report"]).read_text()

    # The first run's config still names the built-in one, whatever is champion now.
    again = ilp("diagnose", "--config", first["artifacts"]["config"], "--json").json()
    assert probabilities(again) == probabilities(first)
    # What a run logged of the built-in classifier can be named as one.
    named = ilp(*command, "--set", f"attribution.classifier={first['artifacts']['classifier']}").json()
    assert probabilities(named) == probabilities(first)


def test_a_broken_champion_is_told_and_the_built_in_one_used(
    ilp: Ilp, inputs: Inputs, workplace: Path, signals: Path
) -> None:
    ilp("classifier", "register", "--signals", signals, "--alias", "champion")
    (model,) = workplace.glob("mlruns/artifacts/models/*/artifacts/model.skops")
    model.write_bytes(b"broken")
    done = ilp("classifier", "show", "--json")
    assert "note: The classifier" in done.err
    assert "the built-in classifier is used instead" in done.err
    shown = done.json()
    assert (shown["uri"], shown["fallback"]) == ("built-in", True)
    assert "cannot be loaded" in shown["reason"]
    refused = ilp("diagnose", inputs.model, "--data", inputs.data, "--set", f"attribution.classifier={NAME}/1")
    assert refused.code == 12
    assert f"{NAME}/1 cannot be used" in refused.err
    assert not passes(workplace), "it was refused only after the model had been run"


def test_show_tells_which_and_why(ilp: Ilp, signals: Path) -> None:
    assert ilp("classifier", "show", "--json").json()["uri"] == "built-in"
    assert ilp("classifier", "register", "--signals", signals).code == 0
    assert "no model ilp-meta-classifier with the alias" in ilp("classifier", "show").out
    ilp("classifier", "register", "--signals", signals, "--alias", "champion")
    found = ilp("classifier", "show", "--json").json()
    assert found["uri"] == f"{NAME}/2"
    assert set(found["causes"]) == {"insufficient_optimization", "missing_knowledge"}
    assert found["rows"] == pq.read_metadata(signals).num_rows
    built_in = ilp("classifier", "show", "--set", "attribution.classifier=built-in", "--json").json()
    assert built_in["uri"] == "built-in"


def test_scores_go_into_the_card_and_the_run(ilp: Ilp, signals: Path, workplace: Path) -> None:
    scores = workplace / "benchmark.json"
    scores.write_text(json.dumps({"macro_f1": 0.9512, "ece": {"median": 0.03, "low": 0.01, "high": 0.06}}))
    made = ilp("classifier", "register", "--signals", signals, "--scores", scores, "--json").json()
    run = mlflow.MlflowClient().get_run(made["run_id"])
    assert run.data.metrics["macro_f1"] == pytest.approx(0.9512)
    (card,) = workplace.glob("mlruns/artifacts/models/*/artifacts/extra_files/card.md")
    assert "| macro-F1 over the causes | 0.951 | not given |" in card.read_text()
    assert "| 0.030 | 0.010 to 0.060 |" in card.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("register", "--signals", "missing.parquet"), 20, "missing.parquet"),
        (("register", "--signals", "sft.jsonl"), 22, "sft.jsonl"),
        (("register", "--scores", "sft.jsonl"), 22, "no JSON"),
        (("card", "--scores", "missing.json"), 20, "missing.json"),
        (("card", "--into", "missing.md"), 20, "missing.md"),
        (("card", "--into", "sft.jsonl"), 22, "no part to be made anew"),
        (("show", "--set", "attribution.classifier=best"), 10, "attribution.classifier"),
        (("show", "--set", "attribution.classifier=models:/nobody/1"), 11, "nobody"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(
    ilp: Ilp, inputs: Inputs, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = ilp("classifier", *arguments)
    assert (done.code, done.out) == (code, ""), done.err
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_table_without_causes_or_worlds_is_refused(ilp: Ilp, workplace: Path) -> None:
    pq.write_table(pa.table({"world": ["a"], "family": ["x"]}), workplace / "t.parquet")
    done = ilp("classifier", "register", "--signals", "t.parquet")
    assert done.code == 22, done.err
    assert "no column 'sample_id'" in done.err
