"""``ilp classifier register --outcomes``: the version tells what it learned from, and how much that counts."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ilp_service.attribution.chosen import ChosenClassifier
from ilp_service.attribution.command import classifier
from ilp_service.attribution.registration import description
from ilp_service.attribution.stored import restore
from ilp_service.errors import DataNotFoundError
from ilp_service.tracking.store import Tracking
from tests.attribution.tables import CAUSES, signals_table
from tests.attribution.test_outcomes import outcomes_table

ODD = {"missing_knowledge.best_right": 3.0, "missing_knowledge.cloze_entropy": 3.0}


@pytest.fixture(autouse=True)
def tables(workplace: Path) -> None:
    pq.write_table(signals_table(per_cause=10), workplace / "signals.parquet")
    pq.write_table(outcomes_table([CAUSES[3]] * 12 + ["mine"] * 2, **ODD), workplace / "outcomes.parquet")


def test_a_registered_version_tells_of_its_outcomes(workplace: Path) -> None:
    command = ["register", "--signals", "signals.parquet", "--outcomes", "outcomes.parquet", "--outcome-weight", "2"]
    done = CliRunner().invoke(classifier, [*command, "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["outcomes"] | {"digest": ""} == {
        "rows": 12, "left_out": 2, "weight": 2.0, "models": ["models:/mine/3"], "causes": {CAUSES[3]: 12}, "digest": "",
    }  # fmt: skip
    client = mlflow.MlflowClient()
    version = client.get_model_version("ilp-meta-classifier", "1")
    assert version.tags["ilp.outcomes_digest"] == found["outcomes"]["digest"]
    assert "12 samples of models:/mine/3" in version.description
    run = client.get_run(found["run_id"])
    assert (run.data.params["outcome_rows"], run.data.params["outcome_weight"]) == ("12", "2.0")

    tracking = Tracking()
    stored = restore(tracking.fetch(tracking.find("models:/ilp-meta-classifier/1"), workplace / "downloads"))
    told = description(ChosenClassifier("models:/ilp-meta-classifier/1", stored.digest, "", stored=stored))
    assert (told["rows"], told["outcome_rows"], told["outcome_weight"]) == (150, 12, 2.0)


def test_missing_outcomes_are_refused_before_anything_is_trained() -> None:
    command = ["register", "--signals", "signals.parquet", "--outcomes", "nowhere.parquet"]
    found = CliRunner().invoke(classifier, command)
    assert isinstance(found.exception, DataNotFoundError)
    assert list(Path("mlruns").iterdir()) == [Path("mlruns/mlflow.db")]
