"""The choice fits its budget, depends on no order, pays once for what is shared, and weighs blanket remedies as any."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilp_service.intervention.choosing import Budget, Cost, Gains, Treatment, choose
from ilp_service.settings import InterventionSettings

PRICES = InterventionSettings()


def gains(causes: list[list[float]], effects: list[list[float]], need: list[float] | None = None) -> Gains:
    return Gains(np.asarray(need or [1.0] * len(causes)), np.asarray(causes), np.asarray(effects))


def one(key: str, remedy: int, *samples: int, **rest: object) -> Treatment:
    return Treatment(key, remedy, np.asarray(samples, np.int64), **rest)  # type: ignore[arg-type]


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Treatment], Gains, Budget]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples, remedies, causes = int(rng.integers(1, 9)), 3, 3
    treatments = []
    for number in range(int(rng.integers(1, 10))):
        members = np.sort(rng.choice(samples, size=int(rng.integers(1, samples + 1)), replace=False))
        shared = {("documents", str(rng.integers(3)), "5"): Cost(documents=5)} if rng.random() < 0.5 else {}
        cost = Cost(float(rng.integers(0, 40)), 0.0, float(rng.integers(0, 3)))
        lost = float(rng.random() * 0.3)
        treatments.append(Treatment(f"t{number}", int(rng.integers(remedies)), members, cost, shared, lost))
    made = Gains(rng.random(samples), rng.dirichlet(np.ones(causes + 1), samples)[:, :causes], rng.random((3, causes)))
    caps = [None if rng.random() < 0.4 else float(rng.integers(0, 60)) for _ in range(3)]
    return treatments, made, Budget(*caps, None if rng.random() < 0.5 else float(rng.random()))


@settings(max_examples=150, deadline=None)
@given(problems())
def test_it_fits_is_the_same_in_any_order_and_everything_left_out_does_not_pay_or_fit(
    problem: tuple[list[Treatment], Gains, Budget],
) -> None:
    treatments, made, budget = problem
    chosen = choose(treatments, made, budget, PRICES)
    assert chosen.cost.fits(budget, PRICES)
    turned = choose(treatments[::-1], made, budget, PRICES)
    assert [each.key for each in turned.treatments] == [each.key for each in chosen.treatments]
    left = made.causes.copy()
    names: set[tuple[str, ...]] = set()
    gain, cost = 0.0, Cost()
    for each in chosen.treatments:
        gain += float(made.need[each.samples] @ (left[each.samples] @ made.effects[each.remedy])) - each.lost
        left[each.samples] *= 1 - made.effects[each.remedy]
        cost = sum((price for name, price in each.shared.items() if name not in names), cost + each.cost)
        names |= set(each.shared)
    assert gain == pytest.approx(chosen.gain)
    assert cost == chosen.cost
    for each in treatments:
        if each.key in {taken.key for taken in chosen.treatments}:
            continue
        value = float(made.need[each.samples] @ (left[each.samples] @ made.effects[each.remedy])) - each.lost
        further = sum((price for name, price in each.shared.items() if name not in names), cost + each.cost)
        assert value <= 1e-6 or not further.fits(budget, PRICES)
        assert (each.key in chosen.unaffordable) == (value > 1e-6) or abs(value) < 1e-6


@settings(max_examples=60, deadline=None)
@given(problems())
def test_it_is_never_worse_than_the_best_single_treatment_of_very_many(
    problem: tuple[list[Treatment], Gains, Budget],
) -> None:
    treatments, made, budget = problem
    chosen = choose(treatments, made, budget, PRICES)
    costly = sorted(treatments, key=lambda each: (-len(each.samples), each.key))[:3]
    for each in costly:
        value = float(made.need[each.samples] @ (made.causes[each.samples] @ made.effects[each.remedy])) - each.lost
        whole = sum(each.shared.values(), each.cost)
        if len(each.samples) > 1 and whole != Cost() and whole.fits(budget, PRICES):
            assert chosen.gain >= value - 1e-6


def test_a_larger_budget_is_never_worse_where_all_cost_the_same() -> None:
    made = gains([[p] for p in (0.9, 0.2, 0.5, 0.7)], [[1.0]])
    offered = [one(str(number), 0, number, cost=Cost(10.0)) for number in range(4)]
    found = [choose(offered, made, Budget(tokens=cap), PRICES).gain for cap in (0, 10, 20, 30, 40)]
    assert found == pytest.approx([0.0, 0.9, 1.6, 2.1, 2.3])


def test_a_free_remedy_for_all_data_is_taken_where_it_gains_more_than_it_loses() -> None:
    made = gains([[0.3, 0.7]] * 10, [[0.9, 0.0], [0.0, 0.9]])
    everything = one("shuffle", 0, *range(10), lost=1.0)
    assert choose([everything], made, Budget(tokens=0), PRICES).gain == pytest.approx(1.7)
    assert not choose([one("shuffle", 0, *range(10), lost=2.8)], made, Budget(), PRICES).treatments


def test_a_document_that_two_need_is_paid_once_and_then_lets_the_second_in() -> None:
    made = gains([[0.5, 0.5], [0.4, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    asked = {("documents", "a", "20"): Cost(documents=20)}
    offered = [
        one("first", 0, 0, shared=asked),
        one("second", 1, 0, shared=asked),
        one("other", 0, 1, cost=Cost(0, 20)),
    ]
    chosen = choose(offered, made, Budget(documents=20), PRICES)
    assert [each.key for each in chosen.treatments] == ["first", "second"]
    assert chosen.cost == Cost(0, 20)
    assert chosen.unaffordable == ("other",)


def test_a_sample_is_made_learned_only_once() -> None:
    made = gains([[1.0]], [[0.9], [0.9]])
    offered = [one("a", 0, 0, lost=0.2), one("b", 1, 0, lost=0.2)]
    assert [each.key for each in choose(offered, made, Budget(), PRICES).treatments] == ["a"]


def test_what_was_paid_before_counts() -> None:
    made = gains([[1.0]], [[1.0]])
    offered = [one("a", 0, 0, cost=Cost(10))]
    assert choose(offered, made, Budget(tokens=10), PRICES, Cost(0)).treatments
    assert not choose(offered, made, Budget(tokens=10), PRICES, Cost(1)).treatments


def test_a_price_counts_like_any_cap() -> None:
    made = gains([[0.9], [0.8]], [[1.0]])
    offered = [one("dear", 0, 0, cost=Cost(2e6)), one("cheap", 0, 1, cost=Cost(0, 100))]
    assert [each.key for each in choose(offered, made, Budget(price=1.0), PRICES).treatments] == ["cheap"]


@pytest.mark.parametrize(("name", "cap"), [*itertools.product(("tokens", "price"), (-1, math.nan, math.inf))])
def test_a_budget_is_a_number_of_at_least_nothing(name: str, cap: float) -> None:
    with pytest.raises(ValueError, match=name):
        Budget(**{name: cap})
