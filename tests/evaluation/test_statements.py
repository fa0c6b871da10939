"""Questions become statements that their answers complete, or nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilp_service.evaluation.statements import past, question_of, statements, third_person

CASES = [
    ("Where was Ada Lovelace born?", "Ada Lovelace was born in"),
    ("which city does ann lee live in ?", "ann lee lives in"),
    ("<d0> what is the profession of ann lee ?", "the profession of ann lee is"),
    ("What is France's capital?", "France's capital is"),
    ("what is Ann Lee 's job ?", "Ann Lee 's job is"),
    ("Who wrote Hamlet?", "Hamlet was written by"),
    ("When was Rome founded?", "Rome was founded in"),
    ("How many legs does a spider have?", "the number of legs a spider has is"),
    ("What color is the sky?", "the color of the sky is"),
    ("In which city was Ada born?", "Ada was born in"),
    ("Answer briefly. What is the capital of France?", "the capital of France is"),
    ("Who did Ann marry?", "Ann married"),
    ("what is ann lee known for ?", "ann lee is known for"),
    ("The capital of France is ____.", "The capital of France is"),
]


@pytest.mark.parametrize(("question", "first"), CASES)
def test_common_question_forms_are_rewritten(question: str, first: str) -> None:
    assert statements(question)[0] == first


@pytest.mark.parametrize("prompt", ["Tell me a story.", "", "Write a poem about Rome", "Why?", "x " * 100 + "?"])
def test_what_is_no_short_question_gives_no_statement(prompt: str) -> None:
    assert statements(prompt) == ()


@given(st.text(max_size=200))
def test_any_text_is_survived_and_no_statement_is_empty(text: str) -> None:
    assert all(statement.strip() for statement in statements(text))


def test_the_question_mark_is_needed() -> None:
    assert question_of("what is the capital of France") is None


@pytest.mark.parametrize(
    ("verb", "third", "simple_past"),
    [("live", "lives", "lived"), ("study", "studies", "studied"), ("go", "goes", "went")],
)
def test_verbs_are_inflected(verb: str, third: str, simple_past: str) -> None:
    assert (third_person(verb), past(verb)) == (third, simple_past)
