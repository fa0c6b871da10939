"""``ilp prescribe`` and ``ilp export`` from a run's id to a new version and a repaired data set, on a tiny model."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest

from ilp_service.changes import Change
from ilp_service.checkpoints.reference import resolve
from ilp_service.cli import main
from ilp_service.consulting.consultation import Consultation
from ilp_service.intervention import prescribing
from ilp_service.intervention.arms import MEASURED
from ilp_service.intervention.deciding import PrescriptionRequest, decide
from ilp_service.intervention.export import copies_of
from ilp_service.intervention.prescription_outcome import compare
from ilp_service.samples.reading import read_samples
from ilp_service.samples.sample import content_key
from ilp_service.settings import DataSettings
from ilp_service.tracking.store import Tracking
from ilp_service.training import changed
from tests.intervention.conftest import Place

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ilp(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in the working folder, with its exit code and what it prints."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ilp", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def effects(place: Place, tmp_path: Path) -> Path:
    """Effects under which every remedy does something for every cause, so that something is prescribed."""
    causes = ("missing_knowledge", "pretraining_conflict", "data_inconsistency", "left_side_forgetting")
    rows = dict.fromkeys((*causes, "insufficient_optimization", "training_pipeline"), (0.9, 0.8, 1.0))
    names = ("knowledge_cpt", "corrective_cpt", "conflict_bucketing", "replay_resampling", "epoch_increment")
    path = tmp_path / "effects.json"
    path.write_text(json.dumps({"provenance": "Made up.", "effects": dict.fromkeys(names, rows), "damage": {}}))
    return path


def versions() -> list[Any]:
    return sorted(mlflow.MlflowClient().search_model_versions("name = 'bot'"), key=lambda one: int(one.version))


def common(place: Place, effects: Path) -> tuple[object, ...]:
    corpus = ("--general", place.corpus, "--set", f"knowledge_sources.corpus={place.corpus}")
    return (place.run_id, *corpus, "--effects", effects)


def test_a_prescription_is_decided_trained_measured_and_registered_as_a_new_version_once(
    place: Place, ilp: Call, effects: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = versions()
    code, out, err = ilp("prescribe", *common(place, effects), "--dry-run", "--json")
    assert code == 0, err
    wanted = json.loads(out)
    assert wanted["treats" if "treats" in wanted else "plans"]
    assert len(versions()) == len(before)

    def refuse(*_arguments: object, **_more: object) -> None:
        raise AssertionError("asked or trained a second time")

    monkeypatch.setattr(Consultation, "documents", refuse)
    code, out, err = ilp(
        "prescribe", *common(place, effects), "--register", "always", "--json", "--output", tmp_path / "o"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["status"] == "done"
    assert found["measured"]["unlearned_before"] > 0
    (version,) = [one for one in versions() if f"models:/bot/{one.version}" == found["model_uri"]]
    assert len(versions()) == len(before) + 1
    assert version.tags["ilp.parent"] == found["parent"]
    assert version.tags["ilp.base_model"]
    assert version.tags["ilp.data"] == str(place.data)
    assert json.loads(Path(version.tags["ilp.prescription"]).read_text())["change"] == wanted["change"]
    assert float(version.tags["ilp.unlearned_rate"]) == pytest.approx(
        found["measured"]["unlearned_rate_after"], rel=1e-4
    )
    reference = resolve(found["model_uri"], base=None, tracking=Tracking(), work_dir=tmp_path / "w")
    assert (reference.kind, reference.base) == ("full", version.tags["ilp.base_model"])
    assert (tmp_path / "o" / "model" / "config.json").is_file()

    run = mlflow.MlflowClient().get_run(found["run_id"])
    assert run.data.tags["mlflow.parentRunId"] == place.run_id
    assert (run.info.status, run.data.tags["ilp.kind"]) == ("FINISHED", "prescription")
    measured = pq.read_table(f"{run.info.artifact_uri}/measured.parquet").cast(MEASURED)
    assert measured.num_rows == len(read_samples(place.data, DataSettings()).samples)
    assert run.data.metrics["ilp.unlearned_rate"] == pytest.approx(found["measured"]["unlearned_rate_after"])

    monkeypatch.setattr(changed, "train_changed", refuse)
    code, out, err = ilp("prescribe", *common(place, effects), "--register", "always", "--json")
    assert code == 0, err
    again = json.loads(out)
    assert (again["run_id"], again["model_uri"]) == (found["run_id"], found["model_uri"])
    assert again["measured"] == found["measured"]
    assert len(versions()) == len(before) + 1


def test_what_did_not_help_is_registered_only_when_asked(
    place: Place, ilp: Call, effects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(versions())
    arguments = ("prescribe", *common(place, effects), "--seed", 5)
    monkeypatch.setattr(prescribing.Outcome, "worse", lambda _self, limit: f"it lost more than {limit}.")
    code, out, err = ilp(*arguments, "--max-damage", 0.01)
    assert code == 0, err
    assert "It is not registered: it lost more than 0.01. '--register always'" in out
    assert "not registered, as was asked for" in ilp(*arguments, "--register", "never")[1]
    assert len(versions()) == before
    code, out, err = ilp(*arguments, "--register", "always", "--name", "other-bot", "--json")
    assert json.loads(out)["model_uri"] == "models:/other-bot/1"
    assert len(versions()) == before


def test_a_diverged_training_is_told_and_registers_nothing(
    place: Place, ilp: Call, effects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(versions())
    trained = changed.Trained(None, 10, 0, 1, 0.1, 1, "At step 1 the loss was not finite.", ())
    monkeypatch.setattr(changed, "train_changed", lambda *_arguments, **_more: trained)
    code, out, err = ilp("prescribe", *common(place, effects), "--seed", 6, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["status"], found["model_uri"], found["measured"]) == ("diverged", None, None)
    assert mlflow.MlflowClient().get_run(found["run_id"]).info.status == "FAILED"
    assert len(versions()) == before


def test_a_training_without_memory_left_is_done_again_and_nothing_is_open_beside_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, effects: Path
) -> None:
    request = PrescriptionRequest(
        place.run_id,
        seed=7,
        effects=effects,
        register="never",
        overrides=("mitigations.general_share=0",),
    )
    decision = decide(request, Tracking(), lambda _line: None)
    checkpoint = decision.diagnosed.prepared.checkpoint
    reasons = iter((f"cuda {changed.NO_MEMORY} at step 1 of fine-tuning.", "At step 2 the loss was nan."))

    def train(*_arguments: object, **_more: object) -> changed.Trained:
        assert not checkpoint._full
        return changed.Trained(None, 10, 0, 1, 0.1, 1, next(reasons), ())

    monkeypatch.setattr(changed, "train_changed", train)
    with checkpoint.base():
        pass
    assert checkpoint._full
    told = [prescribing.carry_out(decision, Tracking(), lambda _line: None).diverged for _ in range(3)]
    assert [str(reason).partition(" at ")[0] for reason in told] == [
        f"cuda {changed.NO_MEMORY}",
        *["At step 2 the loss was nan."] * 2,
    ]


def test_the_same_under_another_budget_is_a_run_of_its_own(
    place: Place, ilp: Call, effects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = changed.Trained(None, 10, 0, 1, 0.1, 1, "At step 1 the loss was not finite.", ())
    monkeypatch.setattr(changed, "train_changed", lambda *_arguments, **_more: trained)
    runs = []
    for budget in (10**9, 10**10, 10**9):
        code, out, err = ilp("prescribe", *common(place, effects), "--seed", 7, "--budget-tokens", budget, "--json")
        assert code == 0, err
        runs.append(mlflow.MlflowClient().get_run(json.loads(out)["run_id"]))
    assert runs[0].info.run_id == runs[2].info.run_id != runs[1].info.run_id
    assert [float(run.data.params["budget.tokens"]) for run in runs] == [10**9, 10**10, 10**9]
    plans = [json.loads(Path(run.info.artifact_uri, "prescription.json").read_text()) for run in runs]
    assert [plan["budget"]["tokens"] for plan in plans] == [10**9, 10**10, 10**9]
    assert plans[0]["change"] == plans[1]["change"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget-tokens", 0, "--budget-documents", 0, "--budget-judgements", 0), "documents 0 of 0"),
        (("--budget-price", "nan"), "expected a number of at least 0"),
        (("--set", "detection.runs=3"), "--set changes 'detection'"),
    ],
)
def test_caps_and_refusals_are_said_in_words(
    place: Place, ilp: Call, effects: Path, arguments: tuple[object, ...], said: str
) -> None:
    code, out, err = ilp("prescribe", *common(place, effects), "--dry-run", *arguments)
    assert (code, said in out) == (0, True) if "documents" in said else (code, said in err) == (10, True)


def test_documents_without_general_text_are_refused_before_anything_is_trained(
    place: Place, ilp: Call, effects: Path, tmp_path: Path
) -> None:
    documents = tmp_path / "documents.csv"
    people = read_samples(place.data, DataSettings()).samples
    names = sorted({word for sample in people for word in sample.prompt.split() if word[0].isupper()} - {"Where"})
    documents.write_text(
        "entity,text\n" + "".join(f"{name},{name} is known to all and lives well.\n" for name in names)
    )
    code, out, err = ilp(
        "prescribe",
        place.run_id,
        "--effects",
        effects,
        "--dry-run",
        "--set",
        f"knowledge_sources.user_documents={documents}",
    )
    assert code in (0, 10)
    if code == 10:
        assert "none is known; name some with --general FILE" in err
    else:
        assert "knowledge_cpt" not in out


def test_the_repaired_data_is_exported_from_the_store_and_reads_back_as_planned(
    place: Place, ilp: Call, effects: Path, tmp_path: Path
) -> None:
    code, out, err = ilp("prescribe", *common(place, effects), "--no-train", "--json")
    assert code == 0, err
    plan = json.loads(out)
    change = Change.from_public(plan["change"])
    for arguments in ((plan["run_id"],), (place.run_id, "--prescription", plan["run_id"])):
        code, out, err = ilp("export", *arguments, "--output", tmp_path / "out.jsonl", "--overwrite", "--json")
        assert code == 0, err
        done = json.loads(out)
        again = read_samples(Path(done["data"]), DataSettings())
        planned: Counter[str] = Counter()
        for sample in read_samples(place.data, DataSettings()).samples:
            key = sample.sample_id
            if key not in change.removed:
                planned[content_key(sample.context, sample.response)] += copies_of(
                    change.exposures.get(key, 1.0), key, plan["seed"]
                )
        assert Counter(content_key(sample.context, sample.response) for sample in again.samples) == planned
    entries = [json.loads(line) for line in Path(done["ledger"]).read_text().splitlines()]
    assert {entry["id"] for entry in entries if entry["id"]} == set(change.sample_ids)
    assert all(entry["cause"] == plan["sample_causes"].get(entry["id"]) for entry in entries)
    kept = [entry for entry in entries if entry["id"] and entry["cause"] is None]
    assert kept
    assert all(entry["reason"] == "Shown 2 times as often, so that it is not forgotten." for entry in kept)
    code, out, err = ilp("export", plan["run_id"], "--output", tmp_path / "trl.jsonl", "--format", "trl")
    assert code == 0, err
    row = json.loads((tmp_path / "trl.jsonl").read_text().splitlines()[0])
    assert {"prompt", "completion"} <= row.keys()
    assert "completion_only_loss" in (tmp_path / "trl.training.md").read_text()


def test_export_says_what_is_missing(place: Place, ilp: Call, tmp_path: Path) -> None:
    code, _, err = ilp("export", place.run_id, "--prescription", place.run_id, "--output", tmp_path / "x.jsonl")
    assert code == 10
    assert "is no prescription" in err
    code, _, err = ilp("export", "nothing", "--output", tmp_path / "x.jsonl")
    assert code == 11


def test_before_and_after_are_compared_without_what_is_not_taught_any_more() -> None:
    import pyarrow as pa

    def measured(**unlearned: bool) -> pa.Table:
        rows = [
            {
                "sample_id": key,
                "p_correct": 0.0,
                "unlearned": value,
                "p_paraphrase": 0.1 if value else 0.9,
                "p_cloze": None,
            }
            for key, value in unlearned.items()
        ]
        return pa.Table.from_pylist(rows, schema=MEASURED)

    found = compare(
        measured(a=True, b=True, c=False, d=False, e=True),
        measured(a=False, b=True, c=True, d=False, e=False),
        withdrawn={"e"},
        cause_of={"a": "one", "b": "two"},
        threshold=0.2,
    )
    assert (found.samples, found.before, found.after, found.lost, found.withdrawn) == (4, 2, 2, 1, 1)
    assert found.recovered == {"one": 1, "two": 0}
    assert found.damage == 0.5
    assert found.forms == {"paraphrase": (0.5, 0.5)}
    assert "2 samples are unlearned, and 2 were" in found.worse(0.5)
    better = compare(
        measured(a=True, b=False, c=False),
        measured(a=False, b=False, c=False),
        withdrawn=(),
        cause_of={},
        threshold=0.2,
    )
    assert better.worse(0.0) == ""
