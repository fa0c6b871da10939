"""A prescription treats by attribution, stays within its budget, asks for no more than it may, and says why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from ilp_service.attribution.attribute import attributions_schema
from ilp_service.changes import Change
from ilp_service.consulting.plans import breaches
from ilp_service.intervention.candidates import Counted
from ilp_service.intervention.choosing import Budget, Cost
from ilp_service.intervention.effectiveness import (
    Damage,
    Effect,
    Effectiveness,
    read_effectiveness,
)
from ilp_service.intervention.prescribed import Prescription, prescription_text
from ilp_service.intervention.prescription import prescribe
from ilp_service.knowledge import Choice, Pair
from ilp_service.plugin import Case, Mitigation, Plan, Price
from ilp_service.plugin_loading import load_plugins
from ilp_service.settings import Settings
from ilp_service.study import Study
from ilp_service.testing import ScriptedConsult, StudyBuilder

CAUSES = (
    "missing_knowledge",
    "pretraining_conflict",
    "data_inconsistency",
    "left_side_forgetting",
    "insufficient_optimization",
)
BLIND, CONFLICT, TWINS, FORGOTTEN, RARE = CAUSES
MITIGATIONS = load_plugins().mitigations
NAMES = ("Ada Lovelace", "Alan Turing", "Grace Hopper", "Emmy Noether", "Kurt Goedel", "Rosa Parks")
EFFECTS = read_effectiveness(Path(__file__).with_name("effects.json"))


class Ward:
    """Samples, each with what is wrong with it."""

    def __init__(self) -> None:
        self.builder = StudyBuilder()
        self.causes: dict[str, Mapping[str, float]] = {}
        for number in range(20):
            self.builder.sample(f"Well known fact {number}?", "yes, it is")

    def sick(self, prompt: str, response: str, causes: Mapping[str, float], rate: float = 0.05, **rest: object) -> str:
        key = self.builder.sample(prompt, response, unlearned=True, evaluation={"p_correct": rate}, **rest)  # type: ignore[arg-type]
        self.causes[key] = causes
        return key

    def attributions(self) -> pa.Table:
        rows = [
            {
                "sample_id": key,
                "cause": max(causes, key=lambda name: causes[name]),
                "confidence": max(causes.values()),
                **{f"p_{name}": causes.get(name, 0.0) for name in CAUSES},
                "p_unattributed": max(1 - sum(causes.values()), 0.0),
                "runner_up": None,
                "rule_cause": "unattributed",
                "explanation": "Made up.",
            }
            for key, causes in self.causes.items()
        ]
        return pa.Table.from_pylist(rows, schema=attributions_schema(CAUSES))

    def prescribed(
        self,
        consult: ScriptedConsult | None = None,
        budget: Budget | None = None,
        effects: Effectiveness = EFFECTS,
        mitigations: Sequence[Mitigation] = MITIGATIONS,
        settings: Settings | None = None,
    ) -> tuple[Prescription, ScriptedConsult, Study]:
        study = self.builder.build()
        asked = consult or ScriptedConsult(study)
        attributions = self.attributions()
        evidence = pa.table({"sample_id": attributions["sample_id"]})
        found = prescribe(
            mitigations,
            study,
            evidence,
            attributions,
            asked,
            settings or Settings(),
            effectiveness=effects,
            budget=budget,
        )
        return found, asked, study


@pytest.fixture
def ward() -> Ward:
    """Two or three samples of each of the five causes, one of them at risk."""
    made = Ward()
    for number, name in enumerate(NAMES[:2]):
        made.sick(f"Where was {name} born?", f"town{number}", {BLIND: 0.9})
    belief = {"river": {"p": 0.1, "base_p": 0.1, "cloze_base_p": 0.05}, "tower": {"p": 0.8, "cloze_base_p": 0.9}}
    made.sick(f"Where does {NAMES[2]} live?", "river", {CONFLICT: 0.9}, options=belief)
    right = made.sick("Which harbour is the oldest?", "north", {TWINS: 0.9})
    wrong = made.builder.sample("Which harbour is the oldest?", "south")
    made.builder.pair(right, wrong, 1.0, same_answer=False)
    for number in range(3):
        made.sick(f"Overwritten meaning {number}?", "old", {FORGOTTEN: 0.85})
    for number in range(2):
        made.sick(f"Rare word {number}?", "seldom", {RARE: 0.9})
    made.sick("Shaky word?", "rarely", {RARE: 0.8}, rate=0.4)
    return made


def scripted(study: Study, per_entity: int = 20) -> ScriptedConsult:
    """Documents about everybody, and a judge that knows."""
    documents = {}
    verdicts = {}
    for sample in study.samples:
        name = next((one for one in NAMES if one in sample.prompt), None)
        if name:
            documents[sample.sample_id] = [
                f"{name}, as text {n} has it, knows {sample.response}." for n in range(per_entity)
            ]
    by_answer = {sample.response: sample.sample_id for sample in study.samples}
    verdicts[by_answer["north"], by_answer["south"]] = Choice.FIRST
    return ScriptedConsult(study, documents, verdicts)


def test_every_cause_gets_its_remedy_and_a_sample_at_risk_is_treated_as_well(ward: Ward) -> None:
    found, _, study = ward.prescribed(scripted(ward.builder.build()))
    by_cause: dict[str, set[str]] = {}
    for key, causes in ward.causes.items():
        by_cause.setdefault(max(causes, key=lambda name: causes[name]), set()).add(key)
    treats = {name: set(keys) for name, keys in found.treats.items()}
    assert treats["knowledge_cpt"] == by_cause[BLIND]
    assert treats["corrective_cpt"] == by_cause[CONFLICT]
    assert treats["conflict_bucketing"] == by_cause[TWINS]
    assert treats["epoch_increment"] >= by_cause[RARE]
    assert treats["replay_resampling"] >= by_cause[FORGOTTEN]
    assert found.change.shuffled
    more = {key for key, times in found.change.exposures.items() if times > Settings().intervention.retention_factor}
    assert more == treats["epoch_increment"]
    (removed,) = found.change.removed
    assert study.samples[[one.sample_id for one in study.samples].index(removed)].response == "south"
    assert set(found.reasons) | set(found.left_out) == set(ward.causes)
    assert found.expected.unlearned == 9
    assert 3 < found.expected.low <= found.expected.learned <= found.expected.high <= 9
    assert 0.3 < found.expected.secured < 0.6


def test_the_price_is_what_was_asked_for_and_what_the_change_costs(ward: Ward) -> None:
    found, consult, study = ward.prescribed(scripted(ward.builder.build()))
    assert (consult.ledger.documents, consult.ledger.judgements) == (found.price.documents, found.price.judgements)
    case = Case(study, pa.table({"sample_id": []}), ward.attributions(), (), {}, consult)
    assert found.price.training_tokens == case.training_tokens(found.change)


@pytest.mark.parametrize(
    "budget",
    [
        Budget(tokens=0),
        Budget(tokens=60),
        Budget(tokens=700),
        Budget(documents=0),
        Budget(documents=20),
        Budget(documents=45),
        Budget(judgements=0),
        Budget(price=0.021),
        Budget(tokens=400, documents=25, judgements=1, price=0.05),
    ],
)
@pytest.mark.parametrize("length", [1, 40])
def test_no_cap_is_ever_exceeded_whatever_documents_turn_out_to_be(ward: Ward, budget: Budget, length: int) -> None:
    study = ward.builder.build()
    consult = scripted(study)
    told = {key: [text * length for text in texts] for key, texts in (consult._documents or {}).items()}
    found, asked, _ = ward.prescribed(ScriptedConsult(study, told, consult._verdicts), budget)
    assert Cost.of(found.price).fits(budget, Settings().intervention)
    assert asked.ledger.documents == found.price.documents
    assert asked.ledger.judgements == found.price.judgements
    assert found.change.shuffled  # costs nothing
    assert set(found.reasons) | set(found.left_out) == set(ward.causes)


def test_a_tight_budget_leaves_the_dearest_out_and_says_so(ward: Ward) -> None:
    found, consult, _ = ward.prescribed(scripted(ward.builder.build()), Budget(documents=20))
    assert consult.ledger.documents == 20
    reasons = [reason for reason in found.left_out.values() if reason.startswith("Budget")]
    assert len(reasons) == 2
    text = prescription_text(found, Settings().intervention)
    assert "documents 20 of 20" in text
    assert "Left out, 1: budget" in text


def test_twice_the_same_and_in_another_order_of_mitigations(ward: Ward) -> None:
    first, _, _ = ward.prescribed(scripted(ward.builder.build()), Budget(tokens=300, documents=45))
    again, _, _ = ward.prescribed(
        scripted(ward.builder.build()), Budget(tokens=300, documents=45), mitigations=MITIGATIONS[::-1]
    )
    assert json.dumps(first.public()) == json.dumps(again.public())
    assert Change.from_public(json.loads(json.dumps(first.public()))["change"]) == first.change


def test_what_cannot_be_had_is_left_out_with_the_reason_of_the_remedy(ward: Ward) -> None:
    study = ward.builder.build()
    found, _, _ = ward.prescribed(ScriptedConsult(study, {}, scripted(study)._verdicts))
    assert "knowledge_cpt" not in found.treats
    born = [key for key, causes in ward.causes.items() if BLIND in causes]
    assert all("Refused by knowledge_cpt" in found.left_out[key] for key in born if key in found.left_out)
    assert not found.change.documents


def test_where_nothing_is_known_a_blanket_remedy_that_costs_nothing_is_all_that_is_done() -> None:
    ward = Ward()
    for number in range(30):
        ward.sick(f"Who knows {number}?", "nobody", dict.fromkeys(CAUSES, 0.2))
    found, consult, _ = ward.prescribed(budget=Budget(tokens=0, documents=0, judgements=0))
    assert list(found.treats) == ["replay_resampling"]
    assert len(found.treats["replay_resampling"]) == 30
    assert (consult.ledger.documents, consult.ledger.judgements) == (0, 0)


def test_with_flat_probabilities_and_no_caps_everybody_gets_everything_that_does_no_harm() -> None:
    ward = Ward()
    for number in range(12):
        ward.sick(f"Who knows {number}?", "nobody", dict.fromkeys(CAUSES, 0.2))
    harmless = Effectiveness(EFFECTS.effects)
    found, _, _ = ward.prescribed(effects=harmless)
    for name in ("epoch_increment", "replay_resampling"):
        assert len(found.treats[name]) == 12
    harmful = Effectiveness(EFFECTS.effects, {"epoch_increment": Damage(0.5)})
    assert "epoch_increment" not in ward.prescribed(effects=harmful)[0].treats


def test_passes_over_everything_win_where_most_are_undertrained_and_lose_where_few_are() -> None:
    settings = Settings(mitigations={"epochs": "global", "epochs_most": 2})  # type: ignore[arg-type]
    many, few = Ward(), Ward()
    for number in range(40):
        many.sick(f"Rare word {number}?", "seldom", {RARE: 0.9})
    few.sick("Rare word?", "seldom", {RARE: 0.9})
    costly = Effectiveness(EFFECTS.effects, {"epoch_increment": Damage(lost_share=0.1)})
    assert many.prescribed(effects=costly, settings=settings)[0].change.epochs is not None
    assert few.prescribed(effects=costly, settings=settings)[0].change.epochs is None


def test_documents_that_state_what_others_correct_are_left_out(ward: Ward) -> None:
    ward.sick(f"What does {NAMES[2]} eat?", "bread", {BLIND: 0.9})
    study = ward.builder.build()
    consult = scripted(study)
    told = dict(consult._documents or {})
    eats = next(key for key, causes in ward.causes.items() if study_of(study, key).response == "bread")
    told[eats] = [f"{NAMES[2]} eats bread.", f"{NAMES[2]} eats bread in the tower."]
    found, _, _ = ward.prescribed(ScriptedConsult(study, told, consult._verdicts))
    texts = [document.text for document in found.change.documents]
    assert f"{NAMES[2]} eats bread." in texts
    assert not any("tower" in text for text in texts)
    assert any("1 of" in note for note in found.notes)


def study_of(study: Study, key: str) -> object:
    return next(one for one in study.samples if one.sample_id == key)


def test_every_plan_is_the_mitigations_own_and_keeps_its_contract(ward: Ward) -> None:
    found, consult, study = ward.prescribed(scripted(ward.builder.build()))
    by_name = {one.name: one for one in MITIGATIONS}
    case = Case(study, pa.table({"sample_id": []}), ward.attributions(), (), Settings().mitigation_options(), consult)
    for plan in found.plans:
        targets = (*plan.treats, *plan.refused)
        assert not list(breaches(by_name[plan.mitigation], replace(case, targets=targets), plan))


class Broken(Mitigation):
    """Raises as soon as it is asked."""

    name = "broken"
    title = "Broken"
    causes = frozenset({RARE})

    def plan(self, case: Case) -> Plan:
        raise RuntimeError(f"no plan for {len(case.targets)}")


class Unknown(Mitigation):
    """A remedy that was never measured."""

    name = "unknown"
    title = "Unknown"
    causes = frozenset({RARE})

    def plan(self, case: Case) -> Plan:
        change = Change(exposures=dict.fromkeys(case.targets, 2.0))
        return Plan(self.name, case.targets, {}, change, Price(case.training_tokens(change)), "Twice as often.")


def test_a_broken_remedy_takes_nobody_down_and_an_unmeasured_one_is_given_half_a_chance(ward: Ward) -> None:
    found, _, _ = ward.prescribed(scripted(ward.builder.build()), mitigations=[*MITIGATIONS, Broken()])
    assert set(found.treats) == {one.name for one in MITIGATIONS}
    rare = {key for key, causes in ward.causes.items() if RARE in causes}
    alone, _, _ = ward.prescribed(mitigations=[Unknown(), Broken()])
    assert set(alone.treats) == {"unknown"}
    assert set(alone.treats["unknown"]) == rare


def test_nothing_to_treat_is_an_empty_prescription() -> None:
    found, _, _ = Ward().prescribed()
    assert found.change.is_empty
    assert found.plans == ()
    assert "Nothing is prescribed" in prescription_text(found, Settings().intervention)


def test_what_is_learned_or_treated_otherwise_is_shown_more_often_and_what_is_left_out_is_not(ward: Ward) -> None:
    ward.sick("Why is the moon green?", "it is not", {RARE: 0.01})
    found, _, study = ward.prescribed(scripted(ward.builder.build()))
    none, _, _ = ward.prescribed(
        scripted(ward.builder.build()),
        settings=Settings(intervention={"retention_factor": 1.0}),  # type: ignore[arg-type]
    )
    added = {key for key in found.change.exposures if key not in none.change.exposures}
    everybody = {sample.sample_id for sample in study.samples}
    assert none.change.exposures.items() <= found.change.exposures.items()
    assert found.left_out
    assert not added & found.left_out.keys()
    assert added == everybody - set(found.change.removed) - none.change.exposures.keys() - found.left_out.keys()
    assert {found.change.exposures[key] for key in added} == {2.0}
    assert any(f"{len(added)} other samples are shown 2 times" in note for note in found.notes)
    assert found.price.training_tokens > none.price.training_tokens


def test_a_budget_goes_into_treatment_first_and_what_is_left_into_retention() -> None:
    ward = Ward()
    for number in range(3):
        ward.sick(f"Rare word {number}?", "seldom", {RARE: 0.9})
    one = Settings(intervention={"retention_factor": 1.0})  # type: ignore[arg-type]
    bare, _, _ = ward.prescribed(settings=one)
    whole, _, _ = ward.prescribed()
    between = (bare.price.training_tokens + whole.price.training_tokens) // 2
    some, _, _ = ward.prescribed(budget=Budget(tokens=between))
    assert some.treats == bare.treats == whole.treats
    assert bare.price.training_tokens < some.price.training_tokens <= between < whole.price.training_tokens
    tight, _, _ = ward.prescribed(budget=Budget(tokens=bare.price.training_tokens))
    assert tight.change == bare.change


def test_effects_whose_interval_holds_nothing_count_as_nothing() -> None:
    assert Effect(0.2, -0.1, 0.5).counted.value == 0
    assert Effect(0.2, 0.1, 0.5).counted.value == 0.2
    assert Effect(-0.2, -0.3, -0.1).counted.value == 0


@pytest.mark.parametrize("judgements", [0, 5])
def test_no_document_teaches_what_is_judged_wrong_or_not_judged_at_all(judgements: int) -> None:
    ward = Ward()
    belief = {"river": {"p": 0.1, "base_p": 0.1}, "tower": {"p": 0.8, "cloze_base_p": 0.9}}
    causes = {CONFLICT: 0.6, TWINS: 0.35}
    wrong = ward.sick(f"Where does {NAMES[0]} live?", "river", causes, options=belief)
    right = ward.builder.sample(f"Where does {NAMES[0]} live?", "tower")
    ward.builder.pair(wrong, right, 1.0, same_answer=False)
    doubted = ward.sick(f"Where does {NAMES[1]} live?", "river", causes, options=belief)
    other = ward.builder.sample(f"Where does {NAMES[1]} live?", "tower")
    ward.builder.pair(doubted, other, 1.0, same_answer=False)
    study = ward.builder.build()
    documents = {key: [f"{name} lives by the river."] for key, name in ((wrong, NAMES[0]), (doubted, NAMES[1]))}
    consult = ScriptedConsult(study, documents, {(wrong, right): Choice.SECOND, (doubted, other): Choice.FIRST})
    found, _, _ = ward.prescribed(consult, Budget(judgements=judgements))
    taught = {key for document in found.change.documents for key in document.sample_ids}
    if judgements:
        assert set(found.change.removed) == {wrong, other}
        assert taught == {doubted}
    else:
        assert taught == set()
        assert "may be wrong itself" in found.left_out[wrong] or "Budget" in found.left_out[wrong]
        assert consult.ledger.documents == 0


@pytest.mark.parametrize("judgements", [0, 5])
def test_nothing_is_shown_more_often_that_may_be_wrong(judgements: int) -> None:
    ward = Ward()
    causes = {RARE: 0.6, TWINS: 0.35}
    wrong = ward.sick(f"Where does {NAMES[0]} live?", "river", causes)
    right = ward.sick(f"Where does {NAMES[0]} live?", "tower", causes)
    ward.builder.pair(wrong, right, 1.0, same_answer=False)
    alone = ward.sick(f"Where does {NAMES[1]} live?", "harbour", causes)
    consult = ScriptedConsult(ward.builder.build(), {}, {(wrong, right): Choice.SECOND})
    found, _, _ = ward.prescribed(consult, Budget(judgements=judgements))
    assert set(found.change.exposures) & set(ward.causes) == ({right, alone} if judgements else {alone})
    assert set(found.change.removed) == ({wrong} if judgements else set())


def test_who_repeats_what_was_judged_wrong_in_other_words_is_not_shown_more_often() -> None:
    ward = Ward()
    wrong = ward.sick(f"Where does {NAMES[0]} live?", "river", {TWINS: 0.9})
    right = ward.builder.sample(f"Where does {NAMES[0]} live?", "tower")
    ward.builder.pair(wrong, right, 1.0, same_answer=False)
    reworded = ward.sick(f"At which place is {NAMES[0]} at home?", "river", {RARE: 0.9})
    namesake = ward.sick(f"Where does {NAMES[1]} live?", "river", {RARE: 0.9})
    elsewhere = ward.sick(f"What did {NAMES[0]} build?", "engines", {RARE: 0.9})
    about = dict.fromkeys((wrong, right, reworded, elsewhere), NAMES[0]) | {namesake: NAMES[1]}
    consult = ScriptedConsult(ward.builder.build(), {}, {(wrong, right): Choice.SECOND}, entities=about)
    found, _, _ = ward.prescribed(consult)
    assert set(found.change.removed) == {wrong}
    assert set(found.change.exposures) & set(ward.causes) == {namesake, elsewhere}
    assert "may be wrong itself" in found.left_out[reworded]


def test_what_no_cause_was_found_for_is_treated_where_that_was_measured_to_help() -> None:
    ward = Ward()
    strange = ward.sick("Why is the moon green?", "it is not", {RARE: 0.01})
    untreated, _, _ = ward.prescribed()
    assert untreated.left_out[strange].startswith("No remedy")
    measured = {"epoch_increment": {"unattributed": Effect(0.4, 0.3, 0.5)}}
    found, _, _ = ward.prescribed(effects=EFFECTS.overridden(Effectiveness(measured, {})))
    assert found.treats == {"epoch_increment": (strange,)}
    assert "for unattributed (0.99)" in found.reasons[strange]


def test_nothing_is_asked_for_beyond_the_budget_however_often_and_by_whom(ward: Ward) -> None:
    study = ward.builder.build()
    keys = [one.sample_id for one in study.samples if any(name in one.prompt for name in NAMES)]
    pairs = [Pair(one, other) for one, other in zip(study.samples[:3], study.samples[3:6], strict=True)]

    def received(budget: Budget, limit: int = 2) -> tuple[float, float]:
        consult = Counted(scripted(study), budget, Settings().intervention)
        for some in (keys[:1], keys, reversed(keys)):
            found = consult.documents(list(some), limit)
        short = [key for key in keys if not found.documents[key]]
        assert all("budget" in found.reasons[key].lower() for key in short)
        verdicts = [*consult.judge(pairs), *consult.judge([pair.swapped for pair in pairs])]
        unheard = [one for one in verdicts if "budget" in one.reason.lower()]
        assert all(one.choice is Choice.UNSURE for one in unheard)
        assert len(verdicts) - len(unheard) == 2 * consult.account.cost.judgements
        return consult.account.cost.documents, consult.account.cost.judgements

    everything = received(Budget())
    assert everything[1] == 3
    assert received(Budget(documents=5, judgements=1)) == (min(5.0, everything[0]), 1.0)
    assert received(Budget(documents=0, judgements=0)) == (0.0, 0.0)
    prices = Settings().intervention
    few = Budget(price=3 * prices.document_price)
    assert received(few)[0] == min(3.0, everything[0])
