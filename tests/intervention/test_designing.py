"""From plans to arms: every remedy has the placebo that costs as much, and a budget is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from ilp_service.changes import Change, TeachingDocument
from ilp_service.intervention.arms import Arm
from ilp_service.intervention.designing import (
    EXPOSURES,
    GENERAL_TEXT,
    OTHER_SEED,
    continued_tokens,
    design,
    price_of,
    within_budget,
)
from ilp_service.remedies import Plan, Price
from ilp_service.settings import InterventionSettings
from ilp_service.training.course import Course
from ilp_service.training.recipe import ContinuedOptions
from ilp_service.training.rows import TrainingRow
from tests.tiny import tiny_tokenizer

if TYPE_CHECKING:
    from ilp_service.training.recipe import Recipe

IDS = tuple(f"s{number}" for number in range(10))
UNLEARNED = {"s0": "missing_knowledge", "s1": "insufficient_optimization", "s2": "left_side_forgetting"}
LEARNED = IDS[3:]


def recipe(*, general: bool = True, course: Course | None = None) -> Recipe:
    made = SimpleNamespace(
        tokenizer=tiny_tokenizer(),
        samples=IDS,
        encode=lambda keys: [TrainingRow(key, (1,) * (3 + number), 2) for number, key in enumerate(keys)],
        course=lambda _seed: course or Course((IDS, IDS)),
        loop=SimpleNamespace(seed=0),
        continued=ContinuedOptions(max_length=16),
        general=(lambda _number: ["general text"]) if general else None,
    )
    return cast("Recipe", made)


def plan(name: str, treats: str, change: Change, price: Price | None = None) -> Plan:
    return Plan(name, (treats,), {}, change, price or Price(5, 1, 0), f"{name} treats {treats}.")


def reading(length: int = 4, share: float = 0.8) -> Change:
    text = " ".join(["London"] * length)
    return Change(documents=(TeachingDocument(text, ("s0",), ("missing_knowledge",)),), general_share=share)


SHOWN = plan("epoch_increment", "s1", Change(exposures={"s1": 4.0}))
SHUFFLED = plan("replay_resampling", "s2", Change(shuffled=True))


def by_name(arms: tuple[Arm, ...]) -> dict[str, Arm]:
    assert len({arm.name for arm in arms}) == len(arms)
    return {arm.name: arm for arm in arms}


def test_every_remedy_has_the_placebo_that_costs_as_much() -> None:
    plans = [plan("knowledge_cpt", "s0", reading()), SHOWN, SHUFFLED]
    arms = by_name(design(plans, recipe(), UNLEARNED, LEARNED))
    assert [arms[one.mitigation].placebo for one in plans] == [GENERAL_TEXT, EXPOSURES, OTHER_SEED]
    assert arms["knowledge_cpt"].treats == {"missing_knowledge": ("s0",)}
    placebo = arms[GENERAL_TEXT]
    assert placebo.change.is_empty
    assert placebo.general_tokens == continued_tokens(reading(), recipe()) == placebo.price.training_tokens
    assert arms[OTHER_SEED].change.is_empty
    assert arms[OTHER_SEED].price == Price()
    assert all(not arms[name].treats for name in (GENERAL_TEXT, EXPOSURES, OTHER_SEED))


@pytest.mark.parametrize("learned", [LEARNED, LEARNED[:2], LEARNED[:1]])
def test_as_many_further_exposures_go_to_learned_samples(learned: tuple[str, ...]) -> None:
    course = Course((IDS, IDS, ("s1", "s3", "s4")))
    exposed = Change(exposures={"s0": 3.0, "s1": 5.0, "s2": 2.0})
    made = recipe(course=course)
    arms = by_name(design([plan("epoch_increment", "s1", exposed)], made, UNLEARNED, learned))
    shown = course.exposures

    def more(change: Change) -> float:
        return sum((factor - 1) * shown[key] for key, factor in change.exposures.items())

    placebo = arms[EXPOSURES].change
    assert set(placebo.exposures) <= set(learned)
    assert more(placebo) == pytest.approx(more(exposed))
    again = by_name(design([plan("epoch_increment", "s1", exposed)], made, UNLEARNED, learned[::-1]))
    assert again[EXPOSURES].change == placebo


def test_without_learned_samples_or_general_text_there_is_the_placebo_that_can_be_had() -> None:
    plans = [plan("knowledge_cpt", "s0", reading(share=0.0)), SHOWN]
    arms = by_name(design(plans, recipe(general=False), UNLEARNED, ()))
    assert {arm.placebo for arm in arms.values() if arm.kind == "remedy"} == {OTHER_SEED}


def test_remedies_that_read_about_as_much_share_a_placebo() -> None:
    near = [plan("knowledge_cpt", "s0", reading(4)), plan("corrective_cpt", "s0", reading(4))]
    assert len(design(near, recipe(), UNLEARNED, LEARNED)) == 3
    far = [plan("knowledge_cpt", "s0", reading(2)), plan("corrective_cpt", "s0", reading(6))]
    arms = by_name(design(far, recipe(), UNLEARNED, LEARNED))
    assert arms["corrective_cpt"].placebo == f"{GENERAL_TEXT}:corrective_cpt"
    assert arms[f"{GENERAL_TEXT}:corrective_cpt"].general_tokens > arms[GENERAL_TEXT].general_tokens


def test_who_treats_nobody_is_no_arm() -> None:
    nobody = Plan("epoch_increment", (), {"s1": "Cut."}, Change(), Price(), "Nobody.")
    assert design([nobody], recipe(), UNLEARNED, LEARNED) == ()


PRICES = InterventionSettings(token_price=1.0, document_price=0.5, judgement_price=0.25)


def test_documents_and_judgements_are_paid_once_and_tokens_for_every_seed() -> None:
    arm = Arm("x", "remedy", Change(), price=Price(1_000_000, 4, 8))
    assert price_of(arm, 2_000_000, 3, PRICES) == 3 * 3 + 4 * 0.5 + 8 * 0.25


def test_a_budget_takes_the_cheapest_for_each_sample_with_their_placebos() -> None:
    million = Price(1_000_000)
    few = Arm("few", "remedy", Change(), {"a": ("1",)}, "placebo:other_seed", price=million)
    many = Arm("many", "remedy", Change(), {"a": ("1", "2", "3")}, "placebo:other_seed", price=million)
    dear = Arm("dear", "remedy", Change(), {"b": ("4",)}, "placebo:own", price=Price(9_000_000))
    placebos = (Arm("placebo:other_seed", "placebo", Change()), Arm("placebo:own", "placebo", Change(), price=million))
    arms = (few, dear, many, *placebos)
    kept, left_out = within_budget(arms, 5.0, 1_000_000, 1, PRICES)
    assert [arm.name for arm in kept] == ["few", "many", "placebo:other_seed"]
    assert left_out == {"dear": "dear and its placebo would cost 12; 0 of the budget of 5 is left."}
    kept, left_out = within_budget(arms, 4.0, 1_000_000, 1, PRICES)
    assert [arm.name for arm in kept] == ["many", "placebo:other_seed"]
    assert set(left_out) == {"few", "dear"}
    kept, left_out = within_budget(arms, 1e9, 1_000_000, 1, PRICES)
    assert kept == arms
    assert not left_out
    spent = sum(price_of(arm, 1_000_000, 1, PRICES) for arm in kept)
    assert within_budget(arms, spent, 1_000_000, 1, PRICES)[0] == arms
    assert within_budget(arms, 0.0, 1_000_000, 1, PRICES)[0] == ()
