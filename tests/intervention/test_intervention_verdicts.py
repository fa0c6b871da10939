"""A cause is proved by its remedy alone, and never by what a placebo does as well."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pytest
from simulated_experiments import attributed, diverged, measured, placebo, remedy, result

from ilp_service.intervention.effects import effects_of
from ilp_service.intervention.verdicts import Rule, SampleVerdict, agreement
from ilp_service.remedies import Change

NAMES = ("a", "b", "c", "d", "e")
NAMED = attributed(dict.fromkeys(NAMES, "missing_knowledge"))
ORIGINAL = measured(dict.fromkeys(NAMES, 0.05))


def rates(*learned: str) -> Mapping[str, float]:
    return {name: 0.9 if name in learned else 0.05 for name in NAMES}


def verdicts(rule: Rule = "majority", change: Change | None = None) -> dict[str, SampleVerdict]:
    arms = [
        remedy("teach", {"missing_knowledge": NAMES}),
        remedy("shuffle", {"left_side_forgetting": ()}, change=change or Change()),
        placebo(),
    ]
    results = [
        result("teach", 0, rates("a", "b", "d")),
        result("teach", 1, rates("a", "b", "d", "e")),
        result("teach", 2, rates("a", "b", "e")),
        result("shuffle", 0, rates("b", "c")),
        result("shuffle", 1, rates("b", "c")),
        result("again", 0, rates()),
        result("again", 1, rates("d")),
    ]
    found = effects_of(ORIGINAL, NAMED, arms, results, seed=0, rule=rule).verdicts
    return {one.sample_id: one for one in found}


def test_a_cause_is_proved_by_its_remedy() -> None:
    found = verdicts()
    assert {key: (one.verdict, one.proved, one.confirmed) for key, one in found.items()} == {
        "a": ("proved", ("missing_knowledge",), True),
        "b": ("several", ("left_side_forgetting", "missing_knowledge"), True),
        "c": ("proved", ("left_side_forgetting",), False),
        "d": ("placebo", (), None),
        "e": ("proved", ("missing_knowledge",), True),
    }
    assert (found["a"].seeds, found["b"].seeds) == (3, 2)
    assert found["e"].recovered_by == {"teach": pytest.approx(2 / 3)}


def test_all_seeds_may_be_asked_for() -> None:
    found = verdicts("all")
    assert (found["a"].verdict, found["e"].verdict) == ("proved", "not recovered")


def test_half_of_the_seeds_are_no_majority() -> None:
    arms = [remedy("teach", {"missing_knowledge": NAMES}), placebo()]
    results = [result("teach", 0, rates("a")), result("teach", 1, rates()), result("again", 0, rates())]
    assert effects_of(ORIGINAL, NAMED, arms, results, seed=0).verdicts[0].verdict == "not recovered"


def test_a_remedy_that_takes_the_sample_away_proves_nothing() -> None:
    found = verdicts(change=Change(removed={"c": "Judged wrong."}))
    assert found["c"].verdict == "not recovered"
    arms = [remedy("sort", {"data_inconsistency": NAMES}, change=Change(removed={"a": "Judged wrong."})), placebo()]
    results = [result("sort", 0, rates("a", "b")), result("again", 0, rates())]
    alone = effects_of(ORIGINAL, NAMED, arms, results, seed=0).verdicts
    assert [one.verdict for one in alone[:2]] == ["withdrawn", "proved"]


def test_a_remedy_of_several_causes_speaks_only_for_those_under_which_it_treats_the_sample() -> None:
    arms = [remedy("all", {"missing_knowledge": ("a",), "left_side_forgetting": ("b",)}), placebo()]
    results = [result("all", 0, rates("a", "b", "c")), result("again", 0, rates())]
    found = effects_of(ORIGINAL, NAMED, arms, results, seed=0).verdicts
    assert [one.proved for one in found[:3]] == [("missing_knowledge",), ("left_side_forgetting",), ()]


def test_without_a_placebo_nothing_is_proved() -> None:
    arms = [remedy("teach", {"missing_knowledge": NAMES}), placebo()]
    results = [result("teach", 0, rates("a")), diverged("again", 0)]
    found = effects_of(ORIGINAL, NAMED, arms, results, seed=0).verdicts
    assert {one.verdict for one in found} == {"not measured"}


def test_agreement_counts_what_both_tell() -> None:
    labels = pa.table(
        {
            "sample_id": ["a", "b", "c", "d", "e", "stranger"],
            "causes": [["missing_knowledge"], ["left_side_forgetting", "missing_knowledge"], ["missing_knowledge"],
                       ["missing_knowledge"], [], ["missing_knowledge"]],
            "verdict": ["verified", "two_causes", "verified", "verified", "unverified", "verified"],
        }
    )  # fmt: skip
    found = agreement(list(verdicts().values()), labels)
    assert (found.labelled, found.proved, found.agreeing, found.exact) == (4, 3, 2, 2)
    assert found.rate == pytest.approx(2 / 3)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < 2 / 3 < found.high < 1
    assert found.confusion["missing_knowledge"] == {"left_side_forgetting": 1, "missing_knowledge": 1, "placebo": 1}
    nothing = agreement([], labels)
    assert (nothing.labelled, nothing.rate, nothing.coverage) == (0, None, None)
