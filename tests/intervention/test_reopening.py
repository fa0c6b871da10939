"""A diagnosis is taken up as it was, without a model being opened, and refused where something has changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ilp_service.checkpoints.loading import Checkpoint
from ilp_service.errors import ModelNotFoundError, SettingsError
from ilp_service.intervention.reopening import reopen
from ilp_service.tracking.store import Tracking
from ilp_service.tracking.stored_runs import read_run
from tests.intervention.conftest import Place


def quiet(_line: str) -> None:
    """Nobody listens."""


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Checkpoint) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(Checkpoint, "tuned", refuse)
    monkeypatch.setattr(Checkpoint, "base", refuse)


def test_study_and_attributions_are_those_of_the_run(place: Place, no_model: None) -> None:
    diagnosed = reopen(place.run_id, Tracking(), quiet)
    run = read_run(Tracking(), place.run_id)
    stored = pq.read_table(f"{run.artifact_uri}/attributions.parquet")
    assert diagnosed.attributions.to_pylist() == stored.to_pylist()
    evaluation = pq.read_table(f"{run.artifact_uri}/evaluation.parquet")
    assert diagnosed.evaluation.to_pylist() == evaluation.to_pylist()
    assert set(diagnosed.unlearned) == set(diagnosed.study.unlearned)
    assert diagnosed.unlearned


def test_samples_at_risk_are_explained_beside_the_unlearned(place: Place) -> None:
    plain = reopen(place.run_id, Tracking(), quiet)
    wider = reopen(place.run_id, Tracking(), quiet, at_risk=0.9)
    assert wider.unlearned == plain.unlearned
    assert set(plain.unlearned) < set(wider.study.unlearned)
    rates = dict(zip(*(wider.evaluation[name].to_pylist() for name in ("sample_id", "p_correct")), strict=True))
    assert set(wider.study.unlearned) == {key for key, rate in rates.items() if rate < 0.9}
    assert wider.attributions["sample_id"].to_pylist() == list(wider.study.unlearned)
    assert wider.evaluation.to_pylist() != []
    assert wider.evaluation["unlearned"] == plain.evaluation["unlearned"]


def test_looking_at_samples_at_risk_leaves_the_slices_of_the_diagnosis(place: Place) -> None:
    def kept() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in plain.folder.rglob("*.parquet") if "at_risk" not in str(path)}

    plain = reopen(place.run_id, Tracking(), quiet)
    before = kept()
    reopen(place.run_id, Tracking(), quiet, at_risk=0.8)
    assert kept() == before


@pytest.mark.parametrize("changed", ["data", "model"])
def test_what_has_changed_since_is_refused_in_a_sentence(place: Place, tmp_path: Path, changed: str) -> None:
    path = place.data if changed == "data" else _weights(place)
    shutil.copy(path, tmp_path / "kept")
    try:
        if changed == "data":
            path.write_text(path.read_text().replace("Riga", "Bonn"))
        else:
            path.write_bytes(path.read_bytes()[:-4] + b"\1\2\3\4")
        with pytest.raises(SettingsError, match=rf"The {changed} is not what the diagnosis {place.run_id} has seen"):
            reopen(place.run_id, Tracking(), quiet)
    finally:
        shutil.copy(tmp_path / "kept", path)


def _weights(place: Place) -> Path:
    return reopen(place.run_id, Tracking(), quiet).prepared.reference.model_dir / "model.safetensors"


def test_other_measurements_are_another_diagnosis(place: Place) -> None:
    with pytest.raises(SettingsError, match="--set changes 'detection'"):
        reopen(place.run_id, Tracking(), quiet, overrides=["detection.threshold=0.5"])


def test_a_run_that_is_no_finished_diagnosis_is_refused(place: Place) -> None:
    tracking = Tracking()
    with tracking.run("something else") as run:
        pass
    with pytest.raises(SettingsError, match="is no run of ilp, expected one of 'ilp diagnose'"):
        reopen(run.run_id, tracking, quiet)
    with pytest.raises(ModelNotFoundError, match="There is no run"):
        reopen("0" * 32, tracking, quiet)
    with tracking.run("broken", {"ilp.kind": "diagnosis"}) as run:
        run.fail("the disk was full")
    with pytest.raises(SettingsError, match="has failed \\(the disk was full\\)"):
        reopen(run.run_id, tracking, quiet)
