"""From figures of worlds to the report and its page: medians, ratios, the paper's tables, and where it does not pay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from ilp_service.attribution.card import put_into
from ilp_service.benchmark import intervention_run, run
from ilp_service.benchmark.command import benchmark
from ilp_service.benchmark.crossing import Examined, others_of
from ilp_service.benchmark.headline import ARMS, UNDIAGNOSED
from ilp_service.benchmark.intervention_page import BEGIN, END, page
from ilp_service.benchmark.intervention_report import PAPER, report_of
from ilp_service.benchmark.intervention_run import InterventionPlan, run_interventions
from ilp_service.benchmark.plants import FORGOTTEN, MISSING
from ilp_service.benchmark.run import Steps
from ilp_service.errors import SettingsError
from ilp_service.intervention.effectiveness import read_effectiveness
from ilp_service.plugin_loading import load_plugins
from tests.benchmark.made_worlds import made_world

DOCS = Path(__file__).parents[2] / "docs" / "interventions.md"


def effects(name: str, effect: float = 0.8, proved: int = 10) -> dict[str, Any]:
    """Figures of a world, as an experiment leaves them."""
    recovery = {
        "samples": 9,
        "share": effect,
        "placebo": 0.0,
        "effect": effect,
        "low": effect - 0.1,
        "high": effect + 0.1,
    }
    form = {"before": 0.1, "effect": effect / 2}
    arm = {
        "arm": "knowledge_cpt",
        "controls": {"effect": 0.1},
        "damage": {"effect": 0.01},
        "general_loss": {"change": -0.02},
        "spent": {
            "training_tokens": 1000,
            "documents": 20,
            "judgements": 0,
            "seconds": 3.0,
            "price_per_recovered": None,
        },
    }
    placebo = {
        "arm": "placebo_general_text",
        "controls": None,
        "damage": {"effect": None},
        "general_loss": None,
        "spent": None,
    }
    return {
        "world": name,
        "trained_on": ["a", "b"],
        "own_cause": {MISSING: recovery},
        "matrix": {"knowledge_cpt": {MISSING: effect, FORGOTTEN: None}},
        "cells": [{"arm": "knowledge_cpt", "cause": MISSING, "paraphrase": form, "cloze": form}],
        "arms": [arm, placebo],
        "ablations": {"matrix": {"deletion": {MISSING: 0.0}}},
        "agreement": {
            "labelled": 20,
            "proved": proved,
            "agreeing": 9,
            "exact": 8,
            "rate": 9 / proved if proved else None,
        },
        "paper": {
            "table_4": {"diagnosed training": 0.3, "more epochs": 0.4, "CPT + SFT": 0.35 + effect / 2},
            "table_6": {"before": 0.05, "after": 0.06},
        },
    }


def headline(name: str, **rates: float) -> dict[str, Any]:
    """Points of a world: every arm at 1, those without a diagnosis at 2 as well."""

    def point(arm: str, budget: float) -> dict[str, Any]:
        rate = rates.get(arm, 0.2) / (1 if budget == 1 else 20)
        seen = {"unlearned_rate": rate, "paraphrase": rate, "cloze": rate, "unlearned_rate_with_pipeline": rate + 0.1}
        seen |= {
            "damage": 0.01,
            "general_loss": 0.9,
            "tokens": 100.0,
            "documents": 10.0,
            "judgements": 1.0,
            "price": 2.0,
        }
        return {"arm": arm, "budget": budget, "seeds": [seen | {"seconds": 1.0}] * 2}

    points = [point(arm, 1.0) for arm in ARMS] + [point(arm, 2.0) for arm in UNDIAGNOSED]
    price = {"tokens": 100, "documents": 10, "judgements": 1}
    original = {"unlearned_rate": 0.3, "paraphrase": 0.3, "cloze": 0.4, "damage": 0.0}
    return {"world": name, "prescription": {"price": price}, "original": original, "points": points}


@pytest.fixture
def report() -> dict[str, Any]:
    worlds = [effects("a-small-100", 0.8), effects("b-small-101", 0.6)]
    heads = [
        headline("a-small-100", prescription=0.02, longer=0.1, everything=0.05),
        headline("b-small-101", prescription=0.04),
    ]
    made = report_of(worlds, heads)
    return {**made, "seeds": 2, "seconds": 1.0, "effectiveness": {"provenance": "training worlds"}}


def test_effects_are_medians_over_worlds_with_an_interval(report: dict[str, Any]) -> None:
    own = report["own_cause"][MISSING]
    assert own["effect"] == pytest.approx(0.7)
    assert own["interval"] == pytest.approx([0.6, 0.8])
    assert report["matrix"]["knowledge_cpt"][MISSING]["worlds"] == 2
    assert FORGOTTEN not in report["matrix"]["knowledge_cpt"]
    assert report["agreement"]["rate"] == pytest.approx(0.9)
    assert json.loads(json.dumps(report))["worlds"] == ["a-small-100", "b-small-101"]


def test_one_world_has_the_interval_of_its_samples() -> None:
    assert report_of([effects("a", 0.5)], [])["own_cause"][MISSING]["interval"] == pytest.approx([0.4, 0.6])
    assert report_of([effects("a", proved=0)], [])["agreement"]["by_world"] is None


def test_ratios_are_taken_world_by_world_against_the_best(report: dict[str, Any]) -> None:
    longer = report["ratios"]["longer_or_reshuffle"]["unlearned_rate"]
    assert longer["value"] == pytest.approx((0.02 / 0.1 + 0.04 / 0.2) / 2)
    assert longer["best"] == ["longer", "longer"]
    best = report["ratios"]["best_undiagnosed"]["cloze"]
    assert best["best"] == ["everything", "everything"]
    assert best["value"] == pytest.approx((0.02 / 0.05 + 0.04 / 0.2) / 2)
    assert report["headline"]["prescription_unlearned_rate"] == pytest.approx(0.03)
    assert {f"{arm}_unlearned_rate" for arm in ARMS} <= report["headline"].keys()


def test_each_budget_that_the_prescription_was_trained_at_has_its_ratios(report: dict[str, Any]) -> None:
    # At 2 only others were trained.
    assert report["ratios_by_budget"] == {"1": report["ratios"]}
    world, poor = headline("a", prescription=0.02), headline("a", prescription=0.15, longer=0.1)
    half = [{**point, "budget": 0.5} for point in poor["points"] if point["budget"] == 1.0]
    both = report_of([], [{**world, "points": [*world["points"], *half]}])["ratios_by_budget"]
    found = {budget: ratios["longer_or_reshuffle"]["unlearned_rate"]["value"] for budget, ratios in both.items()}
    assert found == pytest.approx({"0.5": 1.5, "1": 0.1})


def test_directions_of_the_papers_tables_are_judged_by_the_median(report: dict[str, Any]) -> None:
    directions = {(one["less"], one["more"]): one for one in report["paper"]["table_4"]["directions"]}
    assert directions["diagnosed training", "CPT + SFT"]["reproduced"]
    assert report["paper"]["table_6"]["directions"][0]["reproduced"] is False
    assert set(report["paper"]) == {"table_4", "table_6"}
    for table in PAPER.values():
        # The paper has not asked for statements.
        names = {name for pair in table["rises"] for name in pair if not name.endswith("cloze")}
        assert not table["paper"] or names <= set(table["paper"])


def test_the_page_tells_the_figures_and_where_diagnosis_does_not_pay(report: dict[str, Any]) -> None:
    made = page(report)
    assert "| missing_knowledge | knowledge_cpt | 0.70 | 0.60 to 0.80 |" in made
    assert "budget 2, trained prompt: everything leaves" in made
    assert "budget 1, trained prompt" not in made
    assert "not reproduced" in made
    assert "training worlds" in made
    whole = put_into(DOCS.read_text(), made, BEGIN, END)
    assert put_into(whole, made, BEGIN, END) == whole
    assert "What is measured" in whole
    alone = page({**report_of([], [headline("a")]), "seeds": 1, "effectiveness": {"provenance": ""}})
    assert "### The headline" in alone
    assert "### Recovery" not in alone


def plan(tmp_path: Path, **changes: Any) -> InterventionPlan:  # noqa: ANN401
    training = (("qwen2", 0), ("llama", 1), ("olmo2", 2))
    values = {"held_out": (("qwen2", 100),), "training": training, "measured": (), "size": "demo", "out": tmp_path}
    return InterventionPlan(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": (("qwen2", 0),)}, "qwen2:0 is to be trained on and measured"),
        ({"held_out": ()}, "name some with --seeds"),
        ({"measured": (("llama", 4),)}, "llama:4 is to tell what remedies do and is no training world"),
        ({"training": (("qwen2", 0), ("llama", 1))}, "Without qwen2 and seed 100 1 training worlds are left"),
    ],
)
def test_what_would_fail_after_hours_is_refused_at_once(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    def never(*_: object) -> Any:  # noqa: ANN401
        raise AssertionError("nothing may be built")

    with pytest.raises(SettingsError, match=message):
        run_interventions(plan(tmp_path, **changes), load_plugins(()), Steps(never, never, never), lambda _: None)


def test_a_run_measures_remedies_on_training_worlds_and_arms_on_held_out_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, int]] = []
    examined = {
        place: made_world(*place) for place in (("qwen2", 100), ("qwen2", 0), ("llama", 1), ("olmo2", 2), ("llama", 4))
    }
    shipped = read_effectiveness()

    def blind(one: Examined, _world: object, training: Sequence[Examined], *_: object) -> SimpleNamespace:
        others = others_of(training, [one])
        return SimpleNamespace(built=one.findings.built, trained_on=tuple(o.findings.built.name for o in others))

    def measured(world: SimpleNamespace, seeds: Sequence[int], *_: object, **__: object) -> tuple[Any, dict[str, Any]]:
        asked.append(("effects", world.blind.built.name, len(seeds)))
        return None, effects(world.blind.built.name) | {"trained_on": list(world.blind.trained_on)}

    def crossed(world: SimpleNamespace, seeds: Sequence[int], *_: object) -> None:
        asked.append(("crossed", world.blind.built.name, len(seeds)))

    def headed(
        world: SimpleNamespace, truth: object, expected: object, seeds: Sequence[int], *_: object
    ) -> dict[str, Any]:
        assert expected == shipped
        asked.append(("headline", world.blind.built.name, len(seeds)))
        return headline(world.blind.built.name) | {"trained_on": list(world.blind.trained_on)}

    monkeypatch.setattr(intervention_run, "diagnose_blind", blind)
    monkeypatch.setattr(intervention_run, "treated_world", lambda blind, *_: SimpleNamespace(blind=blind))
    monkeypatch.setattr(intervention_run, "effects_in", measured)
    monkeypatch.setattr(intervention_run, "crossed_effects_in", crossed)
    monkeypatch.setattr(intervention_run, "effectiveness_of", lambda found: shipped if len(found) == 2 else None)
    monkeypatch.setattr(intervention_run, "headline_in", headed)
    steps = Steps(
        lambda place: examined[place].findings.built,
        lambda built: next(one.labels for one in examined.values() if one.findings.built is built),
        lambda built, _: next(one for one in examined.values() if one.findings.built is built),
    )
    training = (("qwen2", 0), ("llama", 1), ("olmo2", 2), ("llama", 4))
    wanted = plan(tmp_path, training=training, measured=(("qwen2", 0), ("olmo2", 2)))
    report = run_interventions(wanted, load_plugins(()), steps, lambda _: None)
    assert asked == [
        ("crossed", "qwen2-small-0", 1),
        ("crossed", "olmo2-small-2", 1),
        ("effects", "qwen2-small-100", 2),
        ("headline", "qwen2-small-100", 2),
    ]
    assert json.loads((tmp_path / "interventions.json").read_text()) == report
    assert json.loads((tmp_path / "effectiveness.json").read_text()) == shipped.public()
    assert report["worlds"] == ["qwen2-small-100"]
    assert page(report)
    asked.clear()
    uneven = run_interventions(replace(wanted, measured=(), headline_seeds=3), load_plugins(()), steps, lambda _: None)
    assert asked == [("effects", "qwen2-small-100", 2), ("headline", "qwen2-small-100", 3)]
    assert "fine-tuning seeds: 2; of the headline: 3." in page(uneven)


def test_the_command_writes_report_page_and_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: dict[str, Any]
) -> None:
    asked: list[InterventionPlan] = []

    def ran(plan: InterventionPlan, *_: object) -> dict[str, Any]:
        asked.append(plan)
        return report

    monkeypatch.setattr(intervention_run, "run_interventions", ran)
    monkeypatch.setattr(run, "ordinary_steps", lambda *_: None)
    target = tmp_path / "interventions.md"
    target.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    options = ["interventions", "--out", str(tmp_path), "--seeds", "100,101", "--into", str(target)]
    found = CliRunner().invoke(benchmark, [*options, "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout) == report
    assert "old" not in target.read_text()
    assert "### The headline" in target.read_text()
    (told,) = asked
    assert told.held_out == (("qwen2", 100), ("llama", 101))
    assert told.measured == ()
    assert told.budgets == (0.5, 1.0, 2.0)
    CliRunner().invoke(benchmark, [*options, "--effectiveness-seeds", "0,1,2"])
    assert asked[1].measured == (("qwen2", 0), ("llama", 1), ("olmo2", 2))
    assert asked[1].measured_worlds == told.held_out == told.headline_worlds
    CliRunner().invoke(benchmark, [*options, "--headline-seeds", "llama:104,olmo2:105"])
    fresh = asked[2]
    assert (fresh.effects_worlds, fresh.headline_worlds) == (told.held_out, (("llama", 104), ("olmo2", 105)))
    assert fresh.measured_worlds == (*fresh.effects_worlds, *fresh.headline_worlds)
    CliRunner().invoke(benchmark, [*options, "--sft-seeds", "1", "--headline-sft-seeds", "3"])
    assert (asked[3].seeds, asked[3].headline_seeds, fresh.headline_seeds) == (1, 3, None)
    for wrong in ("0.5", "1,x", "1,-1"):
        refused = CliRunner().invoke(benchmark, [*options, "--budgets", wrong])
        assert refused.exit_code == 2
