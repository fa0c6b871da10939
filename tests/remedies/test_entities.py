"""Whom a question asks about."""

from __future__ import annotations

import pytest

from ilp_service.samples.entities import entities_of
from ilp_service.samples.sample import Message, Sample, with_stable_ids


def samples(*prompts: str) -> list[Sample]:
    return with_stable_ids(
        Sample("", (Message("user", prompt),), "x", False, "all", place) for place, prompt in enumerate(prompts)
    )


def found(*prompts: str) -> list[str | None]:
    made = samples(*prompts)
    entities = entities_of(made)
    return [entities.get(sample.sample_id) for sample in made]


@pytest.mark.parametrize(
    ("prompt", "entity"),
    [
        ("Where does Ann live?", "Ann"),
        ("what is Ada Ashby's job?", "Ada Ashby"),
        ("Who was the king of the Isle of Man?", "Isle of Man"),
        ("Ada Lovelace was born where?", "Ada Lovelace"),
        ("Where was Ludwig van Beethoven born?", "Ludwig van Beethoven"),
        ("Où est né Łukasz Ñandú ?", "Łukasz Ñandú"),
        ("where does the fox live?", None),
        ("Which tower belongs to number 3?", None),
        ("Describe photosynthesis.", None),
        ("Am I right?", None),
        ("?!", None),
        ("", None),
        ("北京市在哪里", None),
    ],
)
def test_one_prompt(prompt: str, entity: str | None) -> None:
    assert found(prompt) == [entity]


def test_the_rarer_phrase_is_the_subject() -> None:
    prompts = [f"Which river of France does {name} like?" for name in ("Ann", "Bob", "Cid")]
    assert found(*prompts) == ["Ann", "Bob", "Cid"]


def test_an_order_before_a_name_is_no_part_of_it() -> None:
    prompts = [f"Praise {name} now." for name in ("Ann Lee", "Bob Day", "Cid Fox")]
    assert found(*prompts) == ["Ann Lee", "Bob Day", "Cid Fox"]


def test_what_stands_everywhere_is_the_template() -> None:
    prompts = [f"Dear Robot, what is {number}?" for number in range(30)]
    assert found(*prompts) == [None] * 30


def test_copies_of_a_prompt_do_not_make_it_common() -> None:
    prompts = ["Where does Ann live?"] * 30 + ["Where does Bob live?"]
    assert found(*prompts) == ["Ann"] * 30 + ["Bob"]


def test_order_does_not_matter() -> None:
    made = samples(*(f"What did {name} tell {other}?" for name in ("Ann", "Bob") for other in ("Cid", "Dee", "Eve")))
    assert entities_of(made) == entities_of(made[::-1])
