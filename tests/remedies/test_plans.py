"""Plans are made alone and held to their contract; the kit finds whoever breaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any, ClassVar

import pytest

from ilp_service.changes import Change, Correction, TeachingDocument
from ilp_service.consulting.plans import plan_all, plan_one, targets_of
from ilp_service.errors import EndpointError
from ilp_service.plugin import Case, Message, Mitigation, Plan, Price
from ilp_service.plugin_loading import load_plugins
from ilp_service.settings import Settings, load_settings
from ilp_service.testing import ScriptedConsult, StudyBuilder, check_mitigation, fake_study, make_case, ready_studies

MITIGATIONS = load_plugins().mitigations


@pytest.mark.parametrize("mitigation", MITIGATIONS, ids=lambda one: one.name)
def test_every_built_in_mitigation_keeps_the_contract(mitigation: Mitigation) -> None:
    check_mitigation(mitigation)


def test_documents_cost_what_the_samples_tell_whatever_stands_before_the_question() -> None:
    """Sixteen characters in eight tokens, also where most of them are no question."""

    def tokens(**more: Any) -> int:  # noqa: ANN401 (of the sample)
        builder = StudyBuilder()
        builder.sample("Who is Ann?", "A cat", rendering={"prompt_tokens": 6, "response_tokens": 2})
        study = builder.build()
        (sample,) = study.samples
        return make_case(replace(study, samples=(replace(sample, **more),)), "x").text_tokens(["y" * 160, "z" * 160])

    alone = Message("user", "Who is Ann?")
    assert tokens() == tokens(context=(alone,)) == 160
    longer = (Message("system", "x" * 200), Message("user", "And Bob?"), Message("assistant", "A dog..."), alone)
    assert tokens(context=longer) == ceil(320 / (232 / 8))
    assert tokens(plain_prompt="### Question: Who is Ann? ###") == ceil(320 / (34 / 8))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("conflict_bucketing", "mitigations.contradictions", "deletion"),
        ("conflict_bucketing", "mitigations.contradictions", "bucketing"),
        ("epoch_increment", "mitigations.epochs", "global"),
        ("corrective_cpt", "mitigations.rewrite", False),
        ("knowledge_cpt", "mitigations.about_entity", False),
    ],
)
def test_the_contract_holds_under_every_option(name: str, option: str, value: object) -> None:
    (mitigation,) = (one for one in MITIGATIONS if one.name == name)
    for study in ready_studies().values():
        check_mitigation(mitigation, make_case(study, min(mitigation.causes), options={option: value}))


class Double(Mitigation):
    """Shows every target twice as often; ``spoil`` breaks its plan."""

    name = "double"
    title = "Twice as often"
    causes: ClassVar[frozenset[str]] = frozenset({"long_response"})

    def __init__(self, spoil: Callable[[Plan, Case], object] = lambda plan, _: plan) -> None:
        self.spoil = spoil

    def plan(self, case: Case) -> Plan:
        change = Change(exposures=dict.fromkeys(case.targets, 2.0))
        plan = Plan(self.name, case.targets, {}, change, Price(case.training_tokens(change)), "Twice as often.")
        return self.spoil(plan, case)  # type: ignore[return-value]


def teaching(text: str, cause: str = "long_response") -> Callable[[Plan, Case], object]:
    def spoil(plan: Plan, case: Case) -> Plan:
        change = Change(documents=(TeachingDocument(text, plan.treats[:1], (cause,)),)) if plan.treats else Change()
        return replace(plan, change=change, price=Price(case.training_tokens(change)))

    return spoil


def sample_itself(plan: Plan, case: Case) -> object:
    sample = case.study.samples[0]
    return teaching(f"Once more: {sample.prompt} {sample.response}")(plan, case)


class Clock:
    """Plans otherwise each time."""

    def __init__(self) -> None:
        self.time = 2.0

    def __call__(self, plan: Plan, case: Case) -> Plan:
        self.time += 1
        change = Change(exposures=dict.fromkeys(plan.treats, self.time))
        return replace(plan, change=change, price=Price(case.training_tokens(change)))


def first_differs(plan: Plan, case: Case) -> Plan:
    change = Change(exposures={key: 2.0 + (place == 0) for place, key in enumerate(plan.treats)})
    return replace(plan, change=change, price=Price(case.training_tokens(change)))


BROKEN: dict[str, tuple[Callable[[Plan, Case], object], str]] = {
    "no plan": (lambda _, __: None, "it returned NoneType, expected a Plan"),
    "another's": (lambda plan, _: replace(plan, mitigation="other"), "its plan is of 'other'"),
    "no target": (lambda plan, _: replace(plan, treats=(*plan.treats, "who")), "treats or refuses 'who'"),
    "twice": (lambda plan, _: replace(plan, treats=plan.treats * 2), "treats a sample twice"),
    "both": (lambda plan, _: replace(plan, refused=dict.fromkeys(plan.treats[:1], "No.")), "both treats and refuses"),
    "forgotten": (lambda plan, _: replace(plan, treats=plan.treats[1:]), "neither treats nor refuses"),
    "no reason": (
        lambda plan, _: replace(plan, treats=(), refused=dict.fromkeys(plan.treats, "")),
        "expected one line",
    ),
    "unknown": (
        lambda plan, _: replace(plan, change=Change(removed={"who": "Why?"})),
        "names 'who', which is no sample",
    ),
    "no change": (lambda plan, _: replace(plan, change=Change()), "treats samples and changes nothing"),
    "the sample": (sample_itself, "holds a training sample"),
    "a foreign cause": (teaching("A text.", "other"), "expected some of its causes"),
    "an empty text": (teaching(" "), "is empty or about no sample"),
    "a cheap one": (lambda plan, _: replace(plan, price=Price()), "its price has 0 training tokens, expected"),
    "a gift": (lambda plan, _: replace(plan, price=plan.price + Price(documents=-1)), "its price is negative"),
    "silent": (lambda plan, _: replace(plan, summary=""), "expected one sentence"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_contract_is_found_and_refuses_all(name: str) -> None:
    spoil, message = BROKEN[name]
    with pytest.raises(AssertionError, match=message):
        check_mitigation(Double(spoil))
    case = make_case(fake_study(), "long_response")
    plan = plan_one(Double(spoil), case)
    assert (plan.treats, plan.change, plan.price) == ((), Change(), Price())
    assert set(plan.refused) == set(case.targets)
    assert message in plan.summary
    assert plan.summary.startswith("double cannot be applied, ")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(Clock(), "when it was asked twice"), (first_differs, "for the targets in another order")],
    ids=["clock", "order"],
)
def test_the_kit_finds_what_one_plan_does_not_show(spoil: Callable[[Plan, Case], object], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_mitigation(Double(spoil))


def test_the_kit_finds_what_was_asked_for_and_not_told() -> None:
    def asks(plan: Plan, case: Case) -> Plan:
        case.consult.documents([sample.sample_id for sample in case.study.samples], 3)
        return plan

    with pytest.raises(AssertionError, match=r"asked for \(documents, judgements\)"):
        check_mitigation(Double(asks))


def test_a_sound_one_passes() -> None:
    check_mitigation(Double())


def test_whoever_fails_takes_nobody_down() -> None:
    def fails(plan: Plan, case: Case) -> object:
        raise RuntimeError("out of\nideas")

    study = fake_study()
    case = make_case(study, "long_response")
    plans = plan_all(
        [Double(fails), Double()], study, case.evidence, case.attributions, ScriptedConsult(study), Settings()
    )
    assert plans[0].summary == "double cannot be applied, it failed: RuntimeError: out of ideas."
    assert plans[1].treats == case.targets


def test_what_a_user_can_mend_goes_through() -> None:
    def down(plan: Plan, case: Case) -> object:
        raise EndpointError("It is down; start it.")

    with pytest.raises(EndpointError):
        plan_one(Double(down), make_case(fake_study(), "long_response"))


def test_targets_are_the_attributed_ones_and_then_those_at_risk() -> None:
    study = fake_study()
    attributions = make_case(study, "long_response").attributions
    assert targets_of(Double(), attributions) == study.unlearned
    learned = next(one.sample_id for one in study.samples if one.sample_id not in study.unlearned)
    risk = {"long_response": {learned, study.unlearned[0]}, "other": {"x"}}
    assert targets_of(Double(), attributions, risk) == (*study.unlearned, learned)
    assert targets_of(MITIGATIONS[0], attributions) == ()


def test_with_nobody_to_treat_nothing_is_asked() -> None:
    def never(plan: Plan, case: Case) -> object:
        raise AssertionError

    plan = plan_one(Double(never), make_case(fake_study(unlearned=0), "long_response"))
    assert plan.change.is_empty
    assert plan.summary == "No sample was attributed to what it treats."


def test_settings_reach_the_plan() -> None:
    study = fake_study()
    case = make_case(study, "insufficient_optimization")
    settings = load_settings({}, ["mitigations.exposure_factor=7"])
    plans = plan_all(MITIGATIONS, study, case.evidence, case.attributions, ScriptedConsult(study), settings)
    assert set(plans[-1].change.exposures.values()) == {7.0}
    assert [plan.change.is_empty for plan in plans] == [True, True, True, True, False]


def test_prices_add_up() -> None:
    assert Price(1, 2, 3) + Price(10, 20, 30) == Price(11, 22, 33)


def test_a_correction_is_a_change_of_its_row() -> None:
    assert Change(corrected={"a": Correction("x", "y")}).sample_ids == {"a"}
