"""No classifier has seen the family or the seed that it is measured on."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ilp_service.attribution.meta import MetaClassifier, untrained_meta
from ilp_service.benchmark import crossing
from ilp_service.benchmark.ablations import FEWER_SIGNALS, NO_BASE, NO_TRAJECTORY, ORDER
from ilp_service.benchmark.crossing import CLASSIFIER, Crossed, Examined, cross, others_of, training_table
from ilp_service.benchmark.plants import CAUSES, FORGOTTEN
from ilp_service.benchmark.summary import (
    MACRO_F1,
    learned_controls,
    marked,
    misjudged_controls,
    natural_chance,
    report_of,
    scores_of,
    verified,
)
from ilp_service.benchmark.world import CONTROL
from ilp_service.errors import SettingsError
from ilp_service.settings import Settings
from tests.benchmark.made_up import label
from tests.benchmark.made_worlds import EACH, causes, made_world

TRAINING = (("qwen2", 0), ("llama", 1), ("olmo2", 2), ("qwen2", 101), ("llama", 4))
HELD_OUT = (("qwen2", 100), ("llama", 101), ("qwen2", 103))


@pytest.fixture(scope="module")
def training() -> list[Examined]:
    return [made_world(*place) for place in TRAINING]


@pytest.fixture(scope="module")
def held_out() -> list[Examined]:
    return [made_world(*place) for place in HELD_OUT]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[pa.Table]:
    """The tables that classifiers are trained from; the rules of the causes stand in for them."""
    seen: list[pa.Table] = []

    def train(table: pa.Table, seed: int = 0) -> MetaClassifier:
        seen.append(table)
        return untrained_meta()

    monkeypatch.setattr(crossing, "train_meta", train)
    monkeypatch.setattr(crossing, "builtin_meta", untrained_meta)
    monkeypatch.setattr(crossing, "left_out", lambda *_: {"causes": {FORGOTTEN: {"by_world": {"w": 0.75}}}})
    return seen


def crossed(training: list[Examined], held_out: list[Examined]) -> Crossed:
    return cross(training, held_out, causes(), Settings(), lambda _line: None)


def test_family_and_seeds_of_what_is_measured_are_in_no_training(
    training: list[Examined], held_out: list[Examined], tables: list[pa.Table]
) -> None:
    found = crossed(training, held_out)
    trained_on = {family: fold.trained_on for family, fold in found.folds.items()}
    assert trained_on == {
        "llama": ("olmo2-small-2", "qwen2-small-0"),
        "qwen2": ("llama-small-1", "llama-small-4", "olmo2-small-2"),
    }
    assert len(tables) == 2 * (1 + len(FEWER_SIGNALS))
    for table, family in zip(tables, ["llama"] * 3 + ["qwen2"] * 3, strict=True):
        assert set(table["world"].to_pylist()) == set(trained_on[family])
    assert set(ORDER) <= set(tables[0].column_names)
    for table, signals in zip(tables[1:3], FEWER_SIGNALS.values(), strict=True):
        assert set(tables[0].column_names) - set(table.column_names) == set(signals)


def test_every_method_is_asked_about_every_unlearned_sample_and_the_report_is_whole(
    training: list[Examined], held_out: list[Examined], tables: list[pa.Table]
) -> None:
    found = crossed(training, held_out)
    names = sorted(world.findings.built.name for world in held_out)
    for method, table in found.predictions.items():
        assert table.num_rows == sum(len(world.findings.study.unlearned) for world in held_out), method
        assert list(dict.fromkeys(table["world"].to_pylist())) == names
    assert found.unmeasured[NO_TRAJECTORY] == (FORGOTTEN,)
    scores = scores_of(found, held_out)
    assert scores[NO_TRAJECTORY].samples == 5 * EACH * len(held_out)
    assert scores[CLASSIFIER].samples == 6 * EACH * len(held_out)
    report = report_of(found, scores, training, held_out)
    assert set(MACRO_F1.values()) <= set(report)
    assert {"macro_f1_no_trajectory_left_in", "macro_f1_no_base_left_in", "ece", "aurc"} <= set(report["intervals"])
    assert report["repaired_rules_macro_f1"] == 1.0
    assert set(report["verified"].values()) == {EACH}
    assert report["learned_controls_attributed"] == 0
    assert report["unknown_causes"][FORGOTTEN]["value"] == 0.75
    assert report["recovery"][f"arm_{FORGOTTEN}"][FORGOTTEN] == 1.0
    assert set(report["leaks"]) == {"order", "rarity", "duplication"}
    assert set(report["not_measurable"]) == {NO_TRAJECTORY, NO_BASE}


def test_without_cleanlab_its_baseline_alone_is_left_out_and_said_so(
    training: list[Examined], held_out: list[Examined], tables: list[pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crossing, "installed", lambda: False)
    told: list[str] = []
    found = cross(training, held_out[1:2], causes(), Settings(), told.append)
    assert "cleanlab" not in found.predictions
    assert any("ilp-service[bench]" in line for line in told)
    scores = scores_of(found, held_out[1:2])
    report = report_of(found, scores, training, held_out[1:2])
    assert set(report["data_inconsistency"]) == {CLASSIFIER}


def test_too_few_worlds_to_train_on_are_told(training: list[Examined], held_out: list[Examined]) -> None:
    with pytest.raises(SettingsError, match="Without llama and its seeds 1 training worlds"):
        others_of([world for world in training if world.findings.built.seed != 0], held_out[1:2])


def test_the_training_table_is_in_order_and_keeps_what_signals_mean(training: list[Examined]) -> None:
    table = training_table(training)
    keys = list(zip(table["world"].to_pylist(), table["sample_id"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    assert table.num_rows == 6 * EACH * len(training)
    assert table.schema.field(ORDER[0]).metadata[b"direction"] == b"+"
    assert training_table(training[::-1]).equals(table)


def test_a_learned_control_that_is_named_is_counted(held_out: list[Examined]) -> None:
    world = held_out[0]
    planted = zip(*(world.findings.truth[name].to_pylist() for name in ("sample_id", "cause")), strict=True)
    control = next(key for key, cause in planted if cause == "control")
    name = world.findings.built.name
    said = pa.table({"world": [name, name], "sample_id": [control, world.findings.study.unlearned[0]]})
    assert learned_controls(said.append_column("cause", pa.array([FORGOTTEN, FORGOTTEN])), held_out) == 1
    assert learned_controls(said.append_column("cause", pa.array(["unattributed", FORGOTTEN])), held_out) == 0


def test_a_control_that_the_diagnosis_alone_calls_unlearned_is_counted_and_one_that_failed_is_not(
    held_out: list[Examined],
) -> None:
    world = held_out[0]
    planted = dict(zip(*(world.findings.truth[name].to_pylist() for name in ("sample_id", "cause")), strict=True))
    keys = list(world.findings.study.unlearned[:2])
    control = pa.array([CONTROL if key in keys else cause for key, cause in planted.items()])
    truth = world.findings.truth.set_column(1, "cause", control)
    failed = world.labels.filter(pc.not_equal(world.labels["sample_id"], keys[0]))
    judged = Examined(replace(world.findings, truth=truth), failed)
    name = world.findings.built.name
    said = pa.table({"world": [name, name], "sample_id": keys, "cause": [FORGOTTEN, FORGOTTEN]})
    assert misjudged_controls(said, [judged]) == {"unlearned": 1, "attributed": 1}
    assert misjudged_controls(said.slice(1), [judged]) == {"unlearned": 1, "attributed": 0}
    assert misjudged_controls(said, [world]) == {"unlearned": 0, "attributed": 0}


def test_chance_agrees_with_natural_failures_by_how_many_causes_they_have() -> None:
    rows = [label("w", "one", CAUSES[:1]), label("w", "two", CAUSES[:3]), label("w", "open", [])]
    natural = pa.Table.from_pylist([{**row, "origin": "natural"} for row in rows])
    assert natural_chance(natural) == 4 / 12
    assert natural_chance(pa.Table.from_pylist(rows)) is None


def test_verified_counts_are_those_of_the_poorest_world(held_out: list[Examined]) -> None:
    first = held_out[0]
    poor = Examined(first.findings, first.labels.slice(1))
    counts = verified([*held_out, poor])
    assert sorted(counts.values()) == [EACH - 1] + [EACH] * 5
    rows = marked(first)
    assert sum(cause is not None for cause in rows.causes) == 6 * EACH
    assert len(rows.prompts) == len(rows.blocks) == len(first.findings.study.samples)
