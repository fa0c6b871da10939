"""Labels: the rule that a cause must pass, and the runs that it is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ilp_service.benchmark import counterfactuals, verification
from ilp_service.benchmark.counterfactuals import ARM_OF, ARMS, OTHER_SEED, PLACEBOS, REPLAY, WRONG_TWINS, Origin
from ilp_service.benchmark.plants import CAUSES, CONFLICT, INCONSISTENT, INSUFFICIENT, MISSING, PIPELINE, make_world
from ilp_service.benchmark.recipe import BuiltWorld
from ilp_service.benchmark.sizes import DEMO, WorldSize
from ilp_service.benchmark.verification import judge, labels_schema, verified_labels
from ilp_service.benchmark.world import CONTROL, World, corpus_pass


def rates(**learned: float) -> Mapping[str, float]:
    """Pass rates of a sample that only the named runs make learned."""
    return {name: learned.get(name, 0.1) for name in ("original", *ARMS)}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_label_holds_if_its_own_run_alone_recovers_the_sample(cause: str) -> None:
    assert judge(cause, rates(**{ARM_OF[cause]: 0.2})) == ([cause], "verified", None)


@pytest.mark.parametrize("placebo", PLACEBOS)
def test_no_label_holds_that_a_placebo_recovers_too(placebo: str) -> None:
    causes, verdict, reason = judge(MISSING, rates(documents=0.9, **{placebo: 0.3}))
    assert (causes, verdict) == ([], "unverified")
    assert reason == ("unstable" if placebo == OTHER_SEED else "placebo")


def test_no_label_holds_for_what_was_learned_or_is_never_recovered_by_its_own_run() -> None:
    assert judge(MISSING, rates(original=0.5, documents=0.9))[2] == "learned"
    assert judge(MISSING, rates())[2] == "not recovered"
    assert judge(MISSING, rates(shuffled=0.9)) == ([], "unverified", "not recovered")


def test_a_sample_that_other_runs_recover_as_well_has_several_causes_its_own_first() -> None:
    causes, verdict, _ = judge(INSUFFICIENT, rates(more_exposures=0.9, documents=0.9))
    assert causes == [INSUFFICIENT, MISSING]
    assert verdict == "two_causes"


def test_a_natural_failure_gets_the_causes_whose_runs_recover_it() -> None:
    assert judge(None, rates(shuffled=0.4))[:2] == (["left_side_forgetting"], "verified")
    assert judge(None, rates())[:2] == ([], "unverified")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(3, DEMO)


@pytest.fixture(scope="module")
def origin(world: World) -> Origin:
    natural = frozenset(index for index, row in enumerate(world.rows) if row.kind == "rarely contested")
    return Origin(world, Path("base"), Path("data"), 0, natural)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_changes_the_rows_of_its_cause_and_of_natural_failures_alone(origin: Origin, arm: str) -> None:
    changed = counterfactuals._changed(arm, origin)
    different = {i for i, (a, b) in enumerate(zip(origin.world.rows, changed.rows, strict=True)) if a != b}
    kinds = {origin.world.rows[index].cause for index in different - origin.natural}
    wanted = {
        ARM_OF[INCONSISTENT]: {"set_aside"},
        ARM_OF[INSUFFICIENT]: {INSUFFICIENT},
        ARM_OF[PIPELINE]: {PIPELINE},
    }
    assert kinds == wanted.get(arm, set())
    if arm == ARM_OF[INCONSISTENT]:
        assert {origin.world.rows[index].kind for index in different} == set(WRONG_TWINS)
    if arm == ARM_OF[PIPELINE]:
        assert not any(row.masked or row.trained_prompt or row.passes == 0 for row in changed.rows)
    if arm == ARM_OF[INSUFFICIENT]:
        assert origin.natural <= different


def test_documents_tell_the_facts_and_never_the_sample_itself(origin: Origin) -> None:
    generator = np.random.default_rng(0)
    prompts = [row.prompt for row in origin.world.rows]
    for arm, cause in ((ARM_OF[MISSING], MISSING), (ARM_OF[CONFLICT], CONFLICT)):
        texts = [make(generator) for make in counterfactuals._documents(arm, origin) for _ in range(4)]
        for row in origin.world.rows:
            if row.cause == cause:
                assert any(row.person in text and row.response in text for text in texts)
        assert not [text for text in texts if "?" in text or any(prompt in text for prompt in prompts)]
    assert counterfactuals._documents(REPLAY, origin) == []


def test_the_corrected_corpus_contradicts_no_row(world: World) -> None:
    corrected = counterfactuals._corrected(world)
    assert corrected.corpus_facts == {person: world.facts[person] for person in world.corpus_facts}
    assert len(corpus_pass(corrected, 0)) == pytest.approx(len(corpus_pass(world, 0)), rel=0.05)


def test_labels_of_a_built_world_are_made_once(
    tiny_world: BuiltWorld, tiny_size: WorldSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    table = verified_labels(tiny_world, size=tiny_size, progress=lambda name, _done, _planned: seen.append(name))
    assert set(seen) == set(ARMS)
    assert table.schema.equals(labels_schema())
    planted = [row for row in make_world(tiny_world.seed, tiny_size).rows if row.cause in CAUSES]
    assert table["origin"].to_pylist().count("planted") == len(planted)
    for row in table.to_pylist():
        assert all(0 <= row[f"p_{name}"] <= 1 for name in ("original", *ARMS))
        assert (row["verdict"] == "unverified") is (row["causes"] == []) is (row["reason"] is not None)
        assert row["planted"] is None or not row["causes"] or row["causes"][0] == row["planted"]
        assert row["planted"] is not None or row["p_original"] < 0.2

    def forbidden(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(verification, "run_arm", forbidden)
    monkeypatch.setattr(verification, "pass_rates", forbidden)
    assert verified_labels(tiny_world, size=tiny_size).equals(table)


def test_controls_that_were_learned_have_no_label(tiny_world: BuiltWorld, tiny_size: WorldSize) -> None:
    kinds = {
        row["kind"] for row in verified_labels(tiny_world, size=tiny_size).to_pylist() if row["origin"] == "natural"
    }
    controls = {row.kind for row in make_world(tiny_world.seed, tiny_size).rows if row.cause == CONTROL}
    assert kinds <= controls
