"""Contradictions inside the data: who contradicts, how much alike, and whom the model follows."""

from __future__ import annotations

import pytest
from ilp_causes import DataInconsistency

from ilp_service.testing import StudyBuilder
from tests.plugins.causes_for_tests import ask

QUESTION = "Where was Ada Fell born?"


def town(builder: StudyBuilder, *, people: int = 40) -> None:
    """Questions about other people, so that names are rare and the template is common."""
    for number in range(people):
        builder.sample(f"Where was Bo{number} Quill{number} born?", "rome")


def contradicted(similarity: float = 1.0, prompt: str = QUESTION, twins: int = 1, agreeing: int = 0) -> StudyBuilder:
    builder = StudyBuilder()
    town(builder)
    options = {"oslo": {"p": 0.1}, "Lima": {"p": 0.7, "source": "twin"}, "rome": {"p": 0.2}}
    own = builder.sample(QUESTION, "oslo", unlearned=True, options=options)
    for _ in range(twins):
        builder.pair(own, builder.sample(prompt, "Lima"), similarity, same_answer=False)
    for _ in range(agreeing):
        builder.pair(own, builder.sample(QUESTION, "oslo"), 1.0, same_answer=True)
    return builder


def test_a_near_prompt_with_another_answer_fulfils_the_rule_above_the_threshold_only() -> None:
    near = contradicted(0.81, "Where was Ada Fell born again?")
    assert ask(DataInconsistency(), near.build()).rule.tolist() == [1.0]
    assert ask(DataInconsistency(), near.build(knowledge__similarity=0.9)).rule.tolist() == [0.0]


def test_without_a_contradicting_neighbour_the_cause_is_ruled_out() -> None:
    nobody = contradicted(twins=0)
    assert ask(DataInconsistency(), nobody.build()).excluded.tolist() == [True]
    agreed = contradicted(twins=0, agreeing=2)
    asked = ask(DataInconsistency(), agreed.build())
    assert asked.excluded.tolist() == [True]
    assert asked.rows[0]["near_pairs"] == 2
    assert ask(DataInconsistency(), contradicted().build()).excluded.tolist() == [False]


def test_the_twin_is_quoted_with_id_answer_and_what_the_model_gives_it() -> None:
    study = contradicted().build()
    asked = ask(DataInconsistency(), study)
    twin = next(sample.sample_id for sample in study.samples if sample.response == "Lima")
    assert asked.rows[0]["twin_id"] == twin
    for quoted in (twin, "“Lima”", "“oslo”", "70 %", "the same prompt"):
        assert quoted in asked.sentences[0]
    assert asked.rows[0]["twin_share_of_wrong"] == pytest.approx(0.7 / 0.9)


def test_the_most_alike_twin_is_quoted_and_ties_go_to_the_smallest_id() -> None:
    builder = contradicted(0.85, "Where was Ada Fell really born?", twins=1)
    own = next(iter(builder.build().unlearned))
    exact = [builder.sample(QUESTION, answer) for answer in ("lima two", "lima three")]
    for twin in exact:
        builder.pair(own, twin, 1.0, same_answer=False)
    assert ask(DataInconsistency(), builder.build()).rows[0]["twin_id"] == min(exact)


def test_votes_count_the_sample_itself_and_those_that_agree() -> None:
    outvoted = ask(DataInconsistency(), contradicted(twins=3, agreeing=1).build()).rows[0]
    assert outvoted["votes_against"] == pytest.approx(3 / 5)
    assert outvoted["outvoted"] == 1
    winning = ask(DataInconsistency(), contradicted(twins=1, agreeing=1).build()).rows[0]
    assert winning["votes_against"] == pytest.approx(1 / 3)
    assert winning["outvoted"] == 0


def test_the_same_template_about_another_person_is_not_the_same_question() -> None:
    other = ask(DataInconsistency(), contradicted(0.9, "Where was Bo1 Quill1 born?").build()).rows[0]
    reworded = ask(DataInconsistency(), contradicted(0.9, "Where was Ada Fell born then?").build()).rows[0]
    same = ask(DataInconsistency(), contradicted(1.0).build()).rows[0]
    assert other["similarity"] == reworded["similarity"]
    assert other["same_question"] < 0.4 < reworded["same_question"] < same["same_question"] == pytest.approx(1.0)


def test_case_and_punctuation_make_no_other_question() -> None:
    row = ask(DataInconsistency(), contradicted(0.99, "WHERE was ada fell born").build()).rows[0]
    assert row["same_question"] == pytest.approx(1.0)
    assert row["exact_contradicting"] == 0


def test_a_twin_whose_answer_is_no_option_has_an_unknown_probability() -> None:
    builder = StudyBuilder()
    own = builder.sample("Which?", "oslo", unlearned=True, options={"oslo": {"p": 0.1}, "rome": {"p": 0.9}})
    builder.pair(own, builder.sample("Which?", "Lima"), 1.0, same_answer=False)
    asked = ask(DataInconsistency(), builder.build())
    assert asked.rows[0]["twin_p"] is None
    assert "an unknown share" in asked.sentences[0]


def test_foreign_scripts_are_words_too() -> None:
    builder = StudyBuilder()
    own = builder.sample("北京在哪里", "中国", unlearned=True, options={"中国": {"p": 0.1}, "法国": {"p": 0.9}})
    builder.pair(own, builder.sample("北京在哪儿", "法国"), 0.9, same_answer=False)
    row = ask(DataInconsistency(), builder.build()).rows[0]
    assert 0.2 < row["same_question"] < 1
