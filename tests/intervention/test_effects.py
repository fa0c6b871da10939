"""Effects are those that were put in, whoever comes first in the tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from simulated_experiments import (
    CAUSES,
    attributed,
    diverged,
    experiment,
    ids_of,
    measured,
    placebo,
    remedy,
    result,
)

from ilp_service.intervention.arms import Arm
from ilp_service.intervention.effects import Effects, effects_of
from ilp_service.intervention.runs import questions_of
from ilp_service.remedies import Change
from ilp_service.samples.sample import Message, Sample

WORKS = {f"mend {cause}": {cause: 0.85} for cause in CAUSES}
IDS = ids_of("own", 12)
ORIGINAL = measured(dict.fromkeys(IDS, 0.05) | {f"fine{i}": 0.9 for i in range(20)})
NAMED = attributed(dict.fromkeys(IDS, "missing_knowledge"))


def all_at(rate: float, *, fine: float = 0.9) -> dict[str, float]:
    return dict.fromkeys(IDS, rate) | {f"fine{i}": fine for i in range(20)}


def test_every_remedy_helps_its_own_cause_alone() -> None:
    found = effects_of(*experiment(WORKS | {"again": dict.fromkeys(CAUSES, 0.05)}), seed=0)
    for cell in found.cells:
        assert cell.recovery.effect == pytest.approx(0.8 if cell.own else -0.05, abs=0.2)
        assert cell.recovery.low is not None
        assert cell.q_value is not None
        assert (cell.recovery.low > 0 and cell.q_value < 0.001) == cell.own
    assert {(cell.arm, cell.cause) for cell in found.cells if cell.own} == {(f"mend {c}", c) for c in CAUSES}
    for arm in found.arms[:3]:
        assert arm.controls is not None
        assert arm.controls.samples == 60


def test_where_nothing_works_hardly_anything_is_found() -> None:
    shares = {name: dict.fromkeys(CAUSES, 0.2) for name in (*WORKS, "again")}
    tries = [effects_of(*experiment(shares, each=20, seed=i), seed=i) for i in range(12)]
    assert sum(any((cell.q_value or 1) < 0.05 for cell in found.cells) for found in tries) <= 2


def test_neither_rows_nor_arms_nor_results_have_an_order() -> None:
    original, named, arms, results = experiment(WORKS, lost=0.05)
    rng = np.random.default_rng(0)

    def shuffled(table: pa.Table) -> pa.Table:
        return table.take(rng.permutation(table.num_rows))

    mixed = [replace(one, measured=shuffled(one.measured)) for one in results]
    again = effects_of(
        shuffled(original), shuffled(named), arms[::-1], [mixed[i] for i in rng.permutation(len(mixed))], seed=0
    )
    found = effects_of(original, named, arms, results, seed=0)
    assert {(c.arm, c.cause): c.public() for c in again.cells} == {(c.arm, c.cause): c.public() for c in found.cells}
    assert {a.arm: a.public() for a in again.arms} == {a.arm: a.public() for a in found.arms}
    assert again.verdicts == found.verdicts


def test_a_sample_is_compared_with_itself() -> None:
    """The same shares, but paired the other way round: what the placebo recovers the remedy loses."""
    half = dict(zip(IDS, [0.8] * 6 + [0.05] * 6, strict=True))
    other = dict(zip(IDS, [0.05] * 6 + [0.8] * 6, strict=True))
    arms = [remedy("mend", {"missing_knowledge": IDS}), placebo()]

    def width(beside: dict[str, float]) -> float:
        results = [result("mend", 0, half), result("again", 0, beside)]
        cell = effects_of(measured(dict.fromkeys(IDS, 0.05)), NAMED, arms, results, seed=0).cells[0]
        assert cell.recovery.effect == 0
        assert cell.recovery.low is not None
        assert cell.recovery.high is not None
        return cell.recovery.high - cell.recovery.low

    assert width(half) < width(other)


def test_damage_is_what_the_remedy_unlearns_beyond_its_placebo() -> None:
    arms = [remedy("mend", {"missing_knowledge": IDS}), placebo()]
    harmed = all_at(0.9) | {"fine0": 0.1, "fine1": 0.1}
    results = [result("mend", 0, harmed, loss=3.5), result("again", 0, all_at(0.05) | {"fine0": 0.1}, loss=3.2)]
    arm = effects_of(ORIGINAL, NAMED, arms, results, seed=0, original_loss=3.0).arms[0]
    assert (arm.damage.samples, arm.damage.share, arm.damage.placebo) == (20, 0.1, 0.05)
    assert arm.damage.effect == pytest.approx(0.05)
    assert arm.loss is not None
    assert (arm.loss.change, arm.loss.effect) == (pytest.approx(0.5), pytest.approx(0.3))


def test_what_is_taken_out_of_the_data_is_neither_recovered_nor_damage() -> None:
    change = Change(removed={IDS[0]: "Judged wrong.", "fine0": "Judged wrong."})
    arms = [remedy("mend", {"missing_knowledge": IDS}, change=change), placebo()]
    results = [result("mend", 0, all_at(0.9) | {IDS[0]: 0.0, "fine0": 0.0}), result("again", 0, all_at(0.05))]
    found = effects_of(ORIGINAL, NAMED, arms, results, seed=0)
    cell = found.cells[0]
    assert (cell.recovery.samples, cell.recovery.effect, cell.withdrawn) == (11, 1.0, 1)
    assert (found.arms[0].damage.samples, found.arms[0].damage.effect) == (19, 0.0)


def test_treated_and_refused_samples_are_told_apart() -> None:
    arms = [remedy("mend", {"missing_knowledge": IDS[:8]}), placebo()]
    results = [result("mend", 0, all_at(0.05) | dict.fromkeys(IDS[:8], 0.9)), result("again", 0, all_at(0.05))]
    cell = effects_of(ORIGINAL, NAMED, arms, results, seed=0).cells[0]
    assert cell.refused is not None
    assert (cell.recovery.samples, cell.recovery.effect) == (8, 1.0)
    assert (cell.refused.samples, cell.refused.effect) == (4, 0.0)
    assert (cell.attributed.samples, cell.attributed.effect) == (12, pytest.approx(8 / 12))


def test_other_forms_of_asking_stand_beside_the_trained_prompt() -> None:
    arms = [remedy("mend", {"missing_knowledge": IDS}), placebo()]
    known = dict.fromkeys(IDS[:10], 0.7)
    results = [
        result("mend", 0, all_at(0.9), p_paraphrase=known | {IDS[0]: 0.1}),
        result("again", 0, all_at(0.05), p_paraphrase=dict.fromkeys(IDS, 0.1)),
    ]
    original = measured(dict.fromkeys(IDS, 0.05), p_paraphrase=dict.fromkeys(IDS, 0.1) | {IDS[1]: 0.3})
    cell = effects_of(original, NAMED, arms, results, seed=0).cells[0]
    assert (cell.paraphrase.estimate.samples, cell.paraphrase.estimate.effect) == (10, 0.9)
    assert cell.paraphrase.before == pytest.approx(1 / 12)
    assert (cell.cloze.before, cell.cloze.estimate.share, cell.cloze.estimate.note) == (None, None, "not measured")


def test_an_arm_that_diverged_has_a_reason_and_no_effect() -> None:
    arms = [remedy("mend", {"missing_knowledge": IDS}), remedy("break", {"missing_knowledge": IDS}), placebo()]
    results = [
        *(result("mend", seed, all_at(0.9)) for seed in (0, 1)),
        *(result("again", seed, all_at(0.05)) for seed in (0, 1)),
        diverged("break", 0),
        diverged("break", 1),
    ]
    found = effects_of(ORIGINAL, NAMED, arms, results, seed=0)
    broken = found.arms[1]
    assert (broken.seeds, broken.spent) == ((), None)
    assert set(broken.diverged) == {0, 1}
    assert found.matrix["break"] == {"missing_knowledge": None}
    assert found.matrix["mend"] == {"missing_knowledge": 1.0}
    one_left = [*results[:2], results[2], diverged("again", 1)]
    cell = effects_of(ORIGINAL, NAMED, [arms[0], arms[2]], one_left, seed=0).cells[0]
    assert (cell.recovery.seeds, cell.recovery.effect) == (1, 1.0)
    no_placebo = [*results[:2], diverged("again", 0), diverged("again", 1)]
    cell = effects_of(ORIGINAL, NAMED, [arms[0], arms[2]], no_placebo, seed=0).cells[0]
    assert (cell.recovery.share, cell.recovery.effect) == (1.0, None)
    assert "placebo" in cell.recovery.note


def test_groups_without_samples_do_no_harm() -> None:
    arms = [remedy("mend", {"data_inconsistency": ()}), placebo()]
    results = [result("mend", 0, all_at(0.05)), result("again", 0, all_at(0.05))]
    found = effects_of(ORIGINAL, NAMED, arms, results, seed=0)
    assert found.matrix == {"mend": {"data_inconsistency": None, "missing_knowledge": 0.0}}
    nobody = effects_of(ORIGINAL, NAMED.slice(0, 0), arms, results, seed=0)
    assert nobody.verdicts == ()
    assert nobody.matrix == {"mend": {"data_inconsistency": None}}


def test_samples_at_risk_that_were_learned_are_no_failures() -> None:
    arms = [remedy("mend", {"missing_knowledge": [*IDS, "fine0"]}), placebo()]
    named = attributed(dict.fromkeys([*IDS, "fine0"], "missing_knowledge"))
    results = [result("mend", 0, all_at(0.9)), result("again", 0, all_at(0.05))]
    found = effects_of(ORIGINAL, named, arms, results, seed=0)
    assert found.cells[0].recovery.samples == 12
    assert {one.sample_id: one.verdict for one in found.verdicts}["fine0"] == "learned"


def test_the_price_is_shared_by_those_whom_the_remedy_recovered() -> None:
    arms = [remedy("mend", {"missing_knowledge": IDS}), placebo()]
    results = [result("mend", 0, all_at(0.9)), result("again", 0, all_at(0.05) | {IDS[0]: 0.9, IDS[1]: 0.9})]
    spent = effects_of(ORIGINAL, NAMED, arms, results, seed=0).arms[0].spent
    assert spent is not None
    assert (spent.recovered, spent.price, spent.extra_price) == (pytest.approx(10), 2.0, 1.0)
    assert spent.price_per_recovered == pytest.approx(0.2)
    assert spent.extra_price_per_recovered == pytest.approx(0.1)


def test_questions_are_the_same_whatever_their_spaces_and_case() -> None:
    def sample(key: str, prompt: str, response: str) -> Sample:
        return Sample(key, (Message("user", prompt),), response, False, "", 0)

    found = questions_of([sample("a", "Who  is Ada?", "x"), sample("b", "who is ADA? ", "y"), sample("c", "Who?", "x")])
    assert found["a"] == found["b"] != found["c"]
    arms = [remedy("mend", {"missing_knowledge": IDS}), placebo()]
    results = [result("mend", 0, all_at(0.9)), result("again", 0, all_at(0.05))]
    cell = effects_of(ORIGINAL, NAMED, arms, results, seed=0, questions=dict.fromkeys(IDS, "one")).cells[0]
    assert (cell.recovery.questions, cell.recovery.low) == (1, None)


@pytest.mark.parametrize("wrong", ["arm twice", "seed twice", "stranger", "sample twice"])
def test_runs_that_do_not_belong_together_are_refused(wrong: str) -> None:
    arms: list[Arm] = [remedy("mend", {"missing_knowledge": IDS}), placebo()]
    results = [result("mend", 0, all_at(0.9)), result("again", 0, all_at(0.05))]
    original = ORIGINAL
    if wrong == "arm twice":
        arms.append(placebo())
    elif wrong == "seed twice":
        results.append(results[0])
    elif wrong == "stranger":
        results.append(result("stranger", 0, all_at(0.9)))
    else:
        original = pa.concat_tables([ORIGINAL, ORIGINAL.slice(0, 1)])
    with pytest.raises(ValueError, match="expected"):
        effects_of(original, NAMED, arms, results, seed=0)


def test_public_is_json() -> None:
    import json

    found: Effects = effects_of(*experiment(WORKS), seed=0)
    assert json.loads(json.dumps(found.public(), allow_nan=False))["matrix"] == found.matrix
