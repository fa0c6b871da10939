"""No document may hold a training sample; a document that tells the fact in other words may stay."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilp_service.consulting.leaks import Leaks
from ilp_service.plugin import Sample
from ilp_service.testing import StudyBuilder


def sample(prompt: str, response: str) -> Sample:
    builder = StudyBuilder()
    builder.sample(prompt, response)
    return builder.build().samples[0]


BORN = sample("In which city was the poet Ada Lovelace born?", "London")
LONG = sample("Explain briefly why the sky is blue.", "Air scatters short waves of light far more than long ones.")


@pytest.mark.parametrize(
    "text",
    [
        "In which city was the poet Ada Lovelace born? London",
        "IN WHICH CITY WAS THE POET ADA LOVELACE BORN?\n\nAnswer:  london!",
        "A quiz. Q: In which city was the poet Ada Lovelace born? A: It was London. Next one.",
        "Explain briefly why the sky is blue. Air scatters short waves of light far more than long ones.",
        "Explain briefly why the sky is blue: air scatters the short waves of light far more than the long ones",
    ],
)
def test_the_sample_is_found_verbatim_in_any_dress(text: str) -> None:
    assert Leaks([BORN, LONG], 0.9).held_by(text)


@pytest.mark.parametrize(
    "text",
    [
        "In which city was the poetess Ada Lovelace born? London",
        "In wich city was the poet Ada Lovelace born? Answer: London",
        "Trivia: in which city was poet Ada Lovelace born? London",
    ],
)
def test_the_sample_that_it_was_fetched_for_is_found_with_changes(text: str) -> None:
    leaks = Leaks([BORN], 0.9)
    assert leaks.held_by(text, BORN)
    assert not leaks.held_by(text)


@pytest.mark.parametrize(
    "text",
    [
        "Ada Lovelace was born in London.",
        "The poet Lord Byron's daughter, Ada Lovelace, was born in London in 1815 and lived there.",
        "In which city was the poet Ada Lovelace born? Nobody wrote it down.",
        "In which city was the poet Ada Lovelace born? Londonderry",
        "London",
        "",
        "In which city was the poet Ada Lovelace born? " + "And so on, and so forth. " * 9 + "London is large.",
        "The sky is blue because air scatters short waves of light more.",
    ],
)
def test_a_document_in_other_words_stays(text: str) -> None:
    leaks = Leaks([BORN, LONG], 0.9)
    for one in (None, BORN, LONG):
        assert not leaks.held_by(text, one)


words = st.lists(st.sampled_from("river tower garden harbour market old new seven".split()), min_size=1, max_size=9)  # noqa: SIM905


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=5), words, words, st.data())
def test_any_sample_is_found_wherever_it_stands(
    samples: list[tuple[list[str], list[str]]], before: list[str], after: list[str], data: st.DataObject
) -> None:
    made = [sample(" ".join(prompt) + "?", " ".join(response)) for prompt, response in samples]
    prompt, response = data.draw(st.sampled_from(samples))
    text = " ".join([*before, *prompt, "Answer:", *response, *after])
    assert Leaks(made, 0.9).held_by(text)
