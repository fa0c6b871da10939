"""The default judge: near-duplicates and the base's belief, weighed alike for both samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ilp_knowledge import Consensus

from ilp_service.plugin import Choice, Pair, Setup, Study, Verdict
from ilp_service.testing import StudyBuilder, check_judge

PROMPT = "Where does the fox live?"
Base = dict[str, float | dict[str, float]]


def study_of(answers: list[str], base: Base | None = None, *, near: float = 1.0, copies_near: bool = True) -> Study:
    """The first sample is unlearned; every other one is near it. ``base``: what the base believes, in every form."""
    builder = StudyBuilder()
    keys = []
    for place, answer in enumerate(answers):
        options = None
        if place == 0 and base is not None:
            options = {
                text: held if isinstance(held, dict) else {"base_p": held, "few_shot_base_p": held}
                for text, held in base.items()
            }
        keys.append(builder.sample(PROMPT, answer, unlearned=place == 0, options=options))
    for place, key in enumerate(keys[1:], start=1):
        if place == 1 or copies_near:
            builder.pair(keys[0], key, near, same_answer=answers[place] == answers[0])
    return builder.build()


def judged(study: Study | None, pair: Pair) -> Verdict:
    (verdict,) = Consensus().judge([pair], Setup({}, Path("unused"), study=study))
    return verdict


def of_first_two(
    answers: list[str], base: Base | None = None, near: float = 1.0, *, copies_near: bool = True
) -> Verdict:
    study = study_of(answers, base, near=near, copies_near=copies_near)
    return judged(study, Pair(*study.samples[:2]))


def test_most_near_duplicates_decide() -> None:
    verdict = of_first_two(["wood", "den", "wood", "Wood.", "wood"])
    assert verdict.choice is Choice.FIRST
    assert 0.6 < verdict.confidence < 0.8
    assert verdict.reason == "Near-duplicates: 4 for 'wood', 1 for 'den'; the base model was not asked."
    assert of_first_two(["den", "wood", "wood", "wood"]).choice is Choice.SECOND


def test_where_votes_are_even_the_base_decides() -> None:
    verdict = of_first_two(["wood", "den"], {"wood": 0.9, "den": 0.02})
    assert verdict.choice is Choice.FIRST
    assert 0.8 < verdict.confidence < 0.95
    assert verdict.reason.endswith("the base model, asked as it stands, believes them 90% and 2%.")
    assert of_first_two(["wood", "den"], {"wood": 0.02, "den": 0.9}).choice is Choice.SECOND


def test_a_base_that_knows_neither_says_little() -> None:
    verdict = of_first_two(["wood", "den"], {"wood": 0.03, "den": 0.01, "sea": 0.9})
    assert verdict.choice is Choice.FIRST
    assert verdict.confidence < 0.6


def test_a_mistake_that_is_copied_often_does_not_outvote_a_base_that_knows_better() -> None:
    answers = ["wood", *["den"] * 10]
    knows = of_first_two(
        answers, {"wood": {"base_p": 0.05, "cloze_base_p": 0.9}, "den": {"base_p": 0.1, "cloze_base_p": 0}}
    )
    assert knows.choice is Choice.FIRST
    assert knows.confidence > 0.6
    assert "completing a statement, believes them 90% and 0%" in knows.reason
    assert of_first_two(answers, {"wood": 0.05, "den": 0.05}).choice is Choice.SECOND


def test_the_base_is_heard_where_it_tells_the_two_apart_best() -> None:
    in_one_form: Base = {
        "wood": {"base_p": 0.3, "few_shot_base_p": 0.9, "cloze_base_p": 0.1},
        "den": {"base_p": 0.4, "few_shot_base_p": 0.0, "cloze_base_p": 0.3},
    }
    assert of_first_two(["wood", "den"], in_one_form).choice is Choice.FIRST
    probed: Base = {
        "wood": {"base_p": 0.3, "cloze_base_p": 0.0, "probe_base_p": 0.6},
        "den": {"base_p": 0.3, "cloze_base_p": 0.9, "probe_base_p": 0.2},
    }
    assert of_first_two(["wood", "den"], probed).choice is Choice.FIRST


def test_an_answer_that_outvotes_both_makes_neither_right_and_the_base_alone_does_not() -> None:
    assert of_first_two(["wood", "den", *["sea"] * 5]).choice is Choice.NEITHER
    assert of_first_two(["wood", "den"], {"sea": 0.99, "wood": 0.0, "den": 0.0}).choice is Choice.UNSURE


def test_nothing_to_weigh_is_unsure_and_the_same_answer_is_both() -> None:
    verdict = of_first_two(["wood", "den"])
    assert verdict.choice is Choice.UNSURE
    assert verdict.confidence == pytest.approx(0.5)
    assert of_first_two(["The wood", "wood."]).choice is Choice.BOTH
    study = study_of(["wood", "den", "wood"])
    assert judged(None, Pair(*study.samples[:2])).choice is Choice.UNSURE


def test_only_those_that_ask_the_same_vote() -> None:
    answers = ["wood", "den", "den", "den"]
    assert of_first_two(answers, near=0.5).choice is Choice.UNSURE
    assert of_first_two(answers, copies_near=False).choice is Choice.UNSURE
    assert of_first_two(answers, near=0.9).choice is Choice.SECOND


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["wood", "den", "sea"]), max_size=6),
    st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_the_order_of_a_pair_says_nothing_and_another_vote_never_harms(
    others: list[str], belief: tuple[float, float] | None
) -> None:
    base: Base | None = None if belief is None else {"wood": belief[0], "den": belief[1]}
    study = study_of(["wood", "den", *others], base)
    pair = Pair(*study.samples[:2])
    verdict, turned = judged(study, pair), judged(study, pair.swapped)
    assert verdict.choice is turned.choice.swapped
    assert verdict.confidence == turned.confidence
    assert 0 <= verdict.confidence <= 1
    if verdict.choice is Choice.FIRST:
        more = study_of(["wood", "den", *others, "wood"], base)
        again = judged(more, Pair(*more.samples[:2]))
        assert again.choice is Choice.FIRST
        assert again.confidence >= verdict.confidence


def test_it_keeps_the_contract() -> None:
    check_judge(Consensus())
