"""Missing knowledge and pre-training conflict: both are read off what the base answers, form by form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ilp_causes import MissingKnowledge, PretrainingConflict
from ilp_causes._forms import Options

from ilp_service.evaluation.multiple_choice import best_of_n
from ilp_service.study import Study
from ilp_service.testing import StudyBuilder
from tests.plugins.causes_for_tests import ask

WORDS = ("oslo", "rome", "lima", "cairo", "delhi")


def distribution(**given_p: float) -> dict[str, float]:
    """The named probabilities, and the rest shared by the other words."""
    rest = (1 - sum(given_p.values())) / (len(WORDS) - len(given_p))
    return {word: given_p.get(word, rest) for word in WORDS}


def study(jsd: float = 0.5, **forms: dict[str, float]) -> Study:
    """One unlearned sample whose right answer is 'oslo'; a form that is not given was not asked."""
    builder = StudyBuilder()
    options = {word: {form: values[word] for form, values in forms.items()} for word in WORDS}
    builder.sample("Where was Ada born?", "oslo", unlearned=True, options=options, evaluation={"jsd": jsd})
    return builder.build()


GUESS = distribution()
KNOWS = distribution(oslo=0.9)
ELSEWHERE = distribution(rome=0.9, oslo=0.01)
TUNED = distribution(rome=0.6, oslo=0.1)


def test_a_base_that_guesses_lacks_the_knowledge_only_where_it_is_blind() -> None:
    # Five options guessed at give the right one 0.2, which is not below the paper's 0.2.
    asked = ask(MissingKnowledge(), study(p=TUNED, base_p=GUESS, cloze_base_p=distribution(oslo=0.05)))
    assert asked.rule.tolist() == [1.0]
    assert not asked.excluded[0]
    assert ask(MissingKnowledge(), study(p=TUNED, base_p=GUESS, cloze_base_p=GUESS)).rule.tolist() == [0.0]


def test_entropy_is_one_for_a_guess_and_small_for_a_belief() -> None:
    row = ask(MissingKnowledge(), study(p=TUNED, base_p=ELSEWHERE, cloze_base_p=GUESS)).rows[0]
    assert row["cloze_entropy"] == pytest.approx(1.0)
    assert row["zero_shot_entropy"] < 0.4
    assert row["least_entropy"] == row["zero_shot_entropy"]


def test_knowledge_in_every_form_rules_missing_knowledge_out_and_in_some_does_not() -> None:
    everywhere = ask(MissingKnowledge(), study(p=TUNED, base_p=KNOWS, cloze_base_p=KNOWS, few_shot_base_p=KNOWS))
    assert everywhere.excluded.tolist() == [True]
    assert everywhere.rows[0]["forms_knowing"] == everywhere.rows[0]["forms_measured"] == 3
    some = ask(MissingKnowledge(), study(p=TUNED, base_p=KNOWS, cloze_base_p=GUESS))
    assert some.excluded.tolist() == [False]


def test_a_base_that_completes_the_statement_with_another_answer_for_certain_does_not_guess() -> None:
    certain = distribution(rome=0.92, oslo=0.01)
    leaning = distribution(rome=0.85, oslo=0.01)
    for cloze, excluded in ((certain, True), (leaning, False), (distribution(oslo=0.95), False)):
        asked = ask(MissingKnowledge(), study(p=TUNED, base_p=GUESS, cloze_base_p=cloze))
        assert asked.excluded.tolist() == [excluded]
    # Sure in the form of the prompt alone is often a matter of form.
    assert ask(MissingKnowledge(), study(p=TUNED, base_p=certain)).excluded.tolist() == [False]


def test_a_form_that_was_not_asked_is_null_and_not_zero() -> None:
    row = ask(MissingKnowledge(), study(p=TUNED, base_p=GUESS)).rows[0]
    assert row["cloze_right"] is None
    assert row["cloze_blind"] is None
    assert row["forms_measured"] == 1


def test_the_datas_own_probe_is_preferred_to_a_rewritten_statement() -> None:
    row = ask(MissingKnowledge(), study(p=TUNED, base_p=GUESS, cloze_base_p=GUESS, probe_base_p=KNOWS)).rows[0]
    assert row["cloze_right"] == pytest.approx(0.9)


def test_thresholds_are_settings() -> None:
    one = study(p=TUNED, base_p=GUESS, cloze_base_p=GUESS)
    builder = StudyBuilder()
    options = {word: {"p": TUNED[word], "base_p": GUESS[word], "cloze_base_p": GUESS[word]} for word in WORDS}
    builder.sample("Where was Ada born?", "oslo", unlearned=True, options=options)
    lenient = builder.build(knowledge__blind_pass=0.3, knowledge__blind_best=0.99)
    assert ask(MissingKnowledge(), one).rule.tolist() == [0.0]
    assert ask(MissingKnowledge(), lenient).rule.tolist() == [1.0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=5, max_size=5))
def test_best_of_n_agrees_with_the_multiple_choice_view(weights: list[float]) -> None:
    values = np.array(weights) / sum(weights)
    form = Options.of(study(p=dict(zip(WORDS, values, strict=True)))).form("tuned")
    assert form.best_of(5)[0] == pytest.approx(best_of_n(values, 0, 5), abs=1e-12)


def test_a_confident_wrong_base_is_a_conflict_only_if_the_models_diverge() -> None:
    forms = {"p": TUNED, "base_p": ELSEWHERE, "cloze_base_p": ELSEWHERE}
    assert ask(PretrainingConflict(), study(jsd=0.31, **forms)).rule.tolist() == [1.0]
    assert ask(PretrainingConflict(), study(jsd=0.30, **forms)).rule.tolist() == [0.0]
    unsure = {**forms, "base_p": distribution(rome=0.5)}
    assert ask(PretrainingConflict(), study(jsd=0.9, **unsure)).rule.tolist() == [0.0]


def test_a_conflict_is_ruled_out_where_no_wrong_answer_is_preferred() -> None:
    assert ask(PretrainingConflict(), study(p=TUNED, base_p=KNOWS, cloze_base_p=KNOWS)).excluded.tolist() == [True]
    thin = distribution(oslo=0.1, rome=0.19, lima=0.19, cairo=0.19)
    assert ask(PretrainingConflict(), study(p=TUNED, base_p=KNOWS, cloze_base_p=thin)).excluded.tolist() == [False]
    assert ask(PretrainingConflict(), study(p=TUNED, base_p=KNOWS, cloze_base_p=ELSEWHERE)).excluded.tolist() == [False]


def test_the_conflict_quotes_the_bases_answer_and_what_the_tuned_model_does_with_it() -> None:
    asked = ask(PretrainingConflict(), study(p=TUNED, base_p=GUESS, cloze_base_p=ELSEWHERE))
    row = asked.rows[0]
    assert (row["base_answer"], row["base_answer_form"]) == ("rome", "cloze")
    assert row["tuned_on_base_answer"] == pytest.approx(0.6)
    assert row["wrong_mass_share"] == pytest.approx(0.6 / 0.9)
    assert row["tuned_agrees"] == 1
    for quoted in ("“rome”", "0.90", "0.01", "60 %"):
        assert quoted in asked.sentences[0]


def test_forms_that_prefer_different_wrong_answers_do_not_agree() -> None:
    other = distribution(lima=0.9, oslo=0.05)
    row = ask(PretrainingConflict(), study(p=TUNED, base_p=other, cloze_base_p=ELSEWHERE)).rows[0]
    assert row["forms_agree"] == pytest.approx(0.5)
    row = ask(PretrainingConflict(), study(p=TUNED, base_p=ELSEWHERE, cloze_base_p=ELSEWHERE)).rows[0]
    assert row["forms_agree"] == 1


def test_a_sample_without_wrong_options_is_not_measured_and_does_no_harm() -> None:
    builder = StudyBuilder()
    builder.sample("Alone?", "yes", unlearned=True, options={"yes": {"p": 1.0, "base_p": 1.0}})
    row = ask(PretrainingConflict(), builder.build()).rows[0]
    assert row["strongest_wrong"] is None
    assert row["base_answer"] is None
    assert ask(MissingKnowledge(), builder.build()).excluded.tolist() == [False]


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(5)))
def test_the_order_of_the_options_changes_no_number(order: list[int]) -> None:
    base = distribution(rome=0.5, oslo=0.2, lima=0.25)
    straight = study(p=TUNED, base_p=base, cloze_base_p=ELSEWHERE)
    turned = straight.options.take(order)
    for cause in (MissingKnowledge(), PretrainingConflict()):
        first, second = ask(cause, straight).rows[0], ask(cause, replace(straight, options=turned)).rows[0]
        for name, value in first.items():
            assert second[name] == (pytest.approx(value) if isinstance(value, float) else value)


def test_the_answer_to_another_question_is_no_belief_about_this_one() -> None:
    asked = study(p=TUNED, base_p=ELSEWHERE)
    sources = [
        "other_response" if text == "rome" else source
        for text, source in zip(asked.options["text"].to_pylist(), asked.options["source"].to_pylist(), strict=True)
    ]
    place = asked.options.schema.get_field_index("source")
    foreign = replace(asked, options=asked.options.set_column(place, "source", pa.array(sources)))
    assert Options.of(asked).form("zero_shot").wrong[0] == pytest.approx(0.9)
    assert Options.of(foreign).form("zero_shot").wrong[0] == pytest.approx(0.03)
