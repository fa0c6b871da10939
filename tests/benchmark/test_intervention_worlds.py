"""Interventions on a tiny world: the planted model is made again, arms keep within the purse, figures come out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ilp_service.benchmark.blind import BlindWorld, study_at_risk, world_settings
from ilp_service.benchmark.effect_arms import ABLATIONS, ablation_arms, placebo_arms, remedy_arms
from ilp_service.benchmark.finetuning import load_model, training_rows
from ilp_service.benchmark.headline import (
    EVERYTHING,
    LONGER,
    RESAMPLE_FILTER,
    RESHUFFLE,
    UNDIAGNOSED,
    Patient,
    Purse,
    at_random,
    by_cause,
    treated,
    treatment,
)
from ilp_service.benchmark.intervention_figures import REMEDY_OF, Rows, unlearned_rates
from ilp_service.benchmark.intervention_recipe import recipe_of_world, tokens_of_course
from ilp_service.benchmark.interventions import (
    crossed_effects_in,
    effectiveness_of,
    effects_in,
    headline_in,
    told,
    treated_world,
)
from ilp_service.benchmark.plants import CAUSES, PIPELINE, make_world
from ilp_service.benchmark.recipe import BuiltWorld, read_truth
from ilp_service.benchmark.sizes import WorldSize
from ilp_service.benchmark.world import World
from ilp_service.evidence.collection import collect_evidence
from ilp_service.plugin_loading import Plugins, load_plugins
from ilp_service.remedies import Change
from ilp_service.training.changed import Trained, train_changed
from ilp_service.training.recipe import Recipe


@pytest.fixture(scope="module")
def world(tiny_size: WorldSize) -> World:
    return make_world(1, tiny_size)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins(())


@pytest.fixture(scope="module")
def truth(tiny_world: BuiltWorld) -> dict[str, str]:
    table = read_truth(tiny_world.truth)
    return dict(zip(table["sample_id"].to_pylist(), table["cause"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def patient(tiny_world: BuiltWorld, world: World, plugins: Plugins, truth: dict[str, str]) -> Patient:
    """Every sample at risk of the tiny world; attributed by the truth, for no classifier learns from so few."""
    settings = world_settings(tiny_world, world)
    few = settings.evaluation.model_copy(update={"samples": 1, "max_new_tokens": 2})
    settings = settings.model_copy(update={"evaluation": few})
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    study = study_at_risk(tiny_world, settings)
    causes = [truth[key] if truth[key] in CAUSES else "unattributed" for key in study.unlearned]
    named = {"sample_id": pa.array(study.unlearned), "cause": pa.array(causes)}
    named |= {f"p_{cause}": pa.array([float(one == cause) for one in causes]) for cause in CAUSES}
    evidence = collect_evidence(study, plugins.causes).table
    recipe = recipe_of_world(tiny_world, world)
    remedies, sources, judges = plugins.mitigations, plugins.sources, plugins.judges
    return Patient(recipe, study, evidence, pa.table(named), remedies, sources, judges, settings)


def test_the_recipe_makes_the_planted_model_again(tiny_world: BuiltWorld, patient: Patient, tmp_path: Path) -> None:
    trained = train_changed(patient.recipe, Change(), seed=0, folder=tmp_path)
    assert trained.model is not None
    planted = load_model(tiny_world.model).state_dict()
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, planted[name]), name
    assert trained.training_tokens == tokens_of_course(patient.recipe, 0) == patient.tokens(Change())


def test_rows_are_those_of_the_worlds_pipeline(tiny_world: BuiltWorld, world: World, patient: Patient) -> None:
    made = patient.recipe.encode(patient.recipe.samples)
    rows = training_rows(world, tiny_world.data, world.size.max_length)
    assert [(row.input_ids, row.prompt_tokens) for row in made] == [(row.input_ids, row.prompt_tokens) for row in rows]
    assert [row.sample_id for row in made] == [sample.sample_id for sample in patient.recipe.samples]
    sample = patient.recipe.samples[0]
    (other,) = patient.recipe.encode([replace(sample, response="Paris")])
    assert other.input_ids != made[0].input_ids
    assert other.sample_id == sample.sample_id


@pytest.mark.parametrize("arm", UNDIAGNOSED)
@pytest.mark.parametrize("more", [0.0, 0.4, 1.5])
def test_who_does_not_diagnose_spends_no_more_than_the_purse(patient: Patient, arm: str, more: float) -> None:
    own = patient.tokens(Change())
    purse = Purse(round(own * (1 + more)), round(60 * more), round(6 * more))
    found = treatment(arm, patient, purse, seed=0)
    assert purse.holds(found.spent), (purse, found.spent)
    assert found.spent.tokens == patient.tokens(found.change)
    assert found == treatment(arm, patient, purse, seed=0)
    if arm in (LONGER, RESHUFFLE):
        assert found.spent.tokens > 0.98 * purse.tokens
        assert found.change.shuffled is (arm == RESHUFFLE)
        assert not found.change.documents


def test_attributions_change_nothing_for_who_does_not_diagnose(patient: Patient) -> None:
    purse = Purse(2 * patient.tokens(Change()), 100, 20)
    ids = patient.attributions["sample_id"]
    nobody = replace(patient, attributions=pa.table({"sample_id": ids, "cause": pa.array(["unattributed"] * len(ids))}))
    for arm in UNDIAGNOSED:
        assert treatment(arm, patient, purse, 0) == treatment(arm, nobody, purse, 0)


def test_everything_treats_more_with_more(patient: Patient) -> None:
    own = patient.tokens(Change())
    found = [treatment(EVERYTHING, patient, Purse(own * more, 80 * more, 8 * more), 0).spent for more in (1, 2, 8)]
    assert found[0].documents < found[1].documents < found[2].documents
    filtered = treatment(RESAMPLE_FILTER, patient, Purse(2 * own, 0, 0), 0)
    assert not filtered.change.removed
    assert filtered.spent.judgements == 0


def test_who_treats_everybody_spends_what_is_left_on_what_is_learned(patient: Patient) -> None:
    rich = Purse(40 * patient.tokens(Change()), 10_000, 1_000)
    found = treatment(EVERYTHING, patient, rich, 0).change
    learned = {sample.sample_id for sample in patient.recipe.samples} - set(patient.at_risk) - set(found.removed)
    factor = patient.settings.intervention.retention_factor
    assert learned
    assert {found.exposures[key] for key in learned} == {factor}
    assert max(found.exposures[key] for key in patient.at_risk if key in found.exposures) > factor
    part = patient.settings.intervention.model_copy(update={"retention_factor": 1.0})
    bare = replace(patient, settings=patient.settings.model_copy(update={"intervention": part}))
    assert not learned & treatment(EVERYTHING, bare, rich, 0).change.exposures.keys()


def test_few_documents_take_no_exposures_from_who_treats_everybody(patient: Patient) -> None:
    own = patient.tokens(Change())
    few = treatment(EVERYTHING, patient, Purse(40 * own, 3, 0), 0)
    assert 0 < few.spent.documents <= 3
    exposed = {key for key in patient.at_risk if few.change.exposures.get(key, 1.0) > 1}
    assert exposed == set(patient.at_risk)
    assert max(few.change.exposures.values()) == patient.settings.mitigations.exposure_factor
    # Where tokens are too few even for the weakest, whom documents are fetched for are those that are shown more often.
    poor = treatment(EVERYTHING, patient, Purse(own + 50, 3, 0), 0)
    assert poor.spent.tokens <= own + 50
    assert len([key for key in patient.at_risk if poor.change.exposures.get(key, 1.0) > 1]) < len(exposed)


def test_random_remedies_are_dealt_to_everybody_at_risk_once(patient: Patient) -> None:
    dealt = at_random(patient, 0)
    assert sorted(key for keys in dealt.values() for key in keys) == sorted(patient.at_risk)
    assert at_random(patient, 0) == dealt != at_random(patient, 1)


def test_the_truth_is_told_as_attributions(patient: Patient, truth: dict[str, str]) -> None:
    named = told(
        patient.attributions.append_column("p_unattributed", pa.nulls(len(patient.at_risk), pa.float64())), truth
    )
    for row in named.to_pylist():
        planted = truth[row["sample_id"]]
        assert row["cause"] == (planted if planted in CAUSES else "unattributed")
        assert sum(row[name] for name in row if name.startswith("p_")) == 1.0
    assert treated("truth", patient, by_cause(patient, truth)).spent.documents > 0


def test_each_remedy_has_an_arm_and_a_placebo_that_costs_as_much(patient: Patient) -> None:
    arms = remedy_arms(patient)
    assert {arm.name for arm in arms} <= set(REMEDY_OF.values())
    placebos = {arm.name: arm for arm in placebo_arms(patient, arms)}
    for arm in (*arms, *ablation_arms(patient)):
        assert arm.kind == "remedy"
        assert arm.placebo in placebos
        placebo = placebos[str(arm.placebo)]
        assert not placebo.treats
        if arm.change.documents:
            assert placebo.general_tokens >= patient.tokens(arm.change) - patient.tokens(Change())
        assert not set(placebo.change.exposures) & set(arm.change.exposures)
    assert {arm.name for arm in ablation_arms(patient)} <= set(ABLATIONS)


def test_an_experiment_on_a_world_ends_in_figures_and_is_kept(
    tiny_world: BuiltWorld,
    world: World,
    patient: Patient,
    truth: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = pa.table(
        {
            "sample_id": list(truth),
            "causes": pa.array([[cause] if cause in CAUSES else [] for cause in truth.values()], pa.list_(pa.string())),
            "verdict": ["verified" if cause in CAUSES else "unverified" for cause in truth.values()],
        }
    )
    blind = BlindWorld(tiny_world, world, patient, patient, labels, ("a", "b"))
    found = treated_world(blind, read_truth(tiny_world.truth), tmp_path)
    assert found.original["unlearned"].to_pylist() == [rate < 0.2 for rate in found.original["p_correct"].to_pylist()]
    trained: list[Change] = []

    def train(_: Recipe, change: Change, **__: object) -> Trained:
        # Training is tested elsewhere: any two models tell whether figures come out.
        trained.append(change)
        return Trained(
            load_model(tiny_world.base if change.documents else tiny_world.model), 10, 0, 1, 0.0, 1, None, ()
        )

    monkeypatch.setattr("ilp_service.training.changed.train_changed", train)
    figures = effects_in(found, [1], lambda _: None)[1]
    assert json.loads(json.dumps(figures))["world"] == tiny_world.name
    assert set(figures["own_cause"]) <= set(REMEDY_OF)
    assert set(figures["paper"]) >= {"table_6", "table_11"}
    crossed = crossed_effects_in(found, [1], lambda _: None)
    everybody = set(found.blind.sick.attributions["sample_id"].to_pylist())
    shown = crossed.runs.arms["epoch_increment"]
    refused = everybody - {key for keys in shown.treats.values() for key in keys}
    # Only what never enters the loss is refused; whatever a sample was attributed to, it is treated.
    assert len(refused) < len(everybody) / 2
    assert len(shown.treats) > 1
    assert all(cell.own for cell in crossed.cells if cell.arm == "epoch_increment" and cell.recovery.samples)
    expected = effectiveness_of({tiny_world.name: crossed})
    assert tiny_world.name in expected.provenance
    made = headline_in(found, truth, expected, [1], [1.0], lambda _: None)
    assert [point["arm"] for point in made["points"]] == ["again", "prescription", *UNDIAGNOSED, "truth"]
    for point in made["points"]:
        assert 0 <= point["seeds"][0]["unlearned_rate"] <= 1
    count = len(trained)
    assert effects_in(found, [1], lambda _: None)[1] == figures
    assert len(trained) == count > 10


def test_unlearned_rates_leave_out_wrong_twins_and_tell_the_pipeline_apart() -> None:
    kinds = ["plain", "wrong twin", "masked", "plain"]
    causes = ["control", "set_aside", PIPELINE, "control"]
    rows = Rows.of(pa.table({"sample_id": list("abcd"), "cause": causes, "kind": kinds}))

    def measured(*rates: float) -> pa.Table:
        values = pa.array(rates, pa.float64())
        return pa.table({"sample_id": list("abcd"), "p_correct": values, "p_paraphrase": values, "p_cloze": values})

    found = unlearned_rates(rows, measured(0.1, 0.0, 0.0, 0.9), measured(0.9, 0.0, 0.0, 0.9))
    assert found["unlearned_rate"] == 0.5
    assert found["unlearned_rate_with_pipeline"] == pytest.approx(2 / 3)
    assert found["damage"] == 0.5
    assert np.isfinite(list(found.values())).all()
