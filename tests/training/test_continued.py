from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilp_service.changes import Change, ConflictingStatement, TeachingDocument
from ilp_service.errors import SettingsError
from ilp_service.training.continued import ConflictFilter, Mix, continued_steps, mixed, read_mix
from ilp_service.training.course import Course
from ilp_service.training.loop import LoopOptions
from ilp_service.training.pretrain import encode_texts
from ilp_service.training.recipe import ContinuedOptions, Recipe
from tests.tiny import tiny_tokenizer
from tests.training.small import same_weights, small_model, weights

DOCUMENTS = tuple(
    TeachingDocument(f"The town of {name} has a river, and the river has {index} bridges.", (), ())
    for index, name in enumerate(("Ansk", "Brod", "Cern", "Dorf", "Elst", "Frim"))
)
WORDS = st.sampled_from(
    ["Anna", "anna", "Bo", "O'Neil", "Paris", "in", "(Paris)", "-", "Ångström", "STRASSE", "straße"]
)
TEXTS = st.lists(WORDS, max_size=8).flatmap(
    lambda words: st.sampled_from([" ", "  ", "\n", "", ", "]).map(lambda gap: gap.join(words))
)


def general(number: int) -> Sequence[str]:
    return [f"Sentence {index} of pass {number} is about nothing." for index in range(30)]


def recipe_with(general: Callable[[int], Sequence[str]] | None, length: int = 64) -> Recipe:
    return Recipe(
        base=Path("nowhere"),
        base_name="small",
        tokenizer=tiny_tokenizer(),
        samples=(),
        encode=lambda _: (),
        course=lambda _: Course(()),
        loop=LoopOptions(batch_size=4),
        continued=ContinuedOptions(learning_rate=1e-3, batch_size=5, max_length=length),
        general=general,
    )


def texts_of(mix: Mix) -> list[str]:
    return sorted(tiny_tokenizer().decode(row, skip_special_tokens=True) for row in mix.rows)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("passes", [1, 3])
def test_documents_are_the_rest_of_the_tokens(share: float, passes: int) -> None:
    change = Change(documents=DOCUMENTS, general_share=share, document_passes=passes)
    mix = mixed(recipe_with(general), change, general_tokens=0, seed=0)
    assert mix is not None
    assert mix.document_tokens + mix.general_tokens == sum(map(len, mix.rows))
    longest = max(map(len, mix.rows))
    assert abs(mix.general_tokens - mix.document_tokens * share / (1 - share)) <= longest / 2
    assert [text for text in texts_of(mix) if "river" in text] == sorted(
        document.text for document in DOCUMENTS for _ in range(passes)
    )


def test_general_text_comes_pass_after_pass_and_none_twice_in_a_pass() -> None:
    asked: list[int] = []

    def counting(number: int) -> Sequence[str]:
        asked.append(number)
        return general(number)

    mix = mixed(recipe_with(counting), Change(), general_tokens=2500, seed=0)
    assert mix is not None
    assert mix.document_tokens == 0
    assert abs(mix.general_tokens - 2500) <= max(map(len, mix.rows)) / 2
    assert asked == list(range(len(asked)))
    assert len(asked) > 1
    assert len(set(texts_of(mix))) == len(mix.rows)


def test_nothing_to_read_is_no_mix() -> None:
    assert mixed(recipe_with(None), Change(), general_tokens=0, seed=0) is None


def test_the_order_depends_on_the_seed_alone() -> None:
    change = Change(documents=DOCUMENTS)
    one, same, other = (mixed(recipe_with(general), change, general_tokens=0, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one is not None
    assert other is not None
    assert one.rows != other.rows


def test_long_texts_are_cut() -> None:
    change = Change(documents=DOCUMENTS, general_share=0.0)
    mix = mixed(recipe_with(None, length=8), change, general_tokens=0, seed=0)
    assert mix is not None
    assert {len(row) for row in mix.rows} == {8}


def test_general_text_that_states_a_conflict_is_left_out() -> None:
    wrong = ConflictingStatement("Sentence 3", "pass 0", "s")
    change = Change(documents=DOCUMENTS, conflicting_documents=frozenset({wrong}))
    mix = mixed(recipe_with(general), change, general_tokens=0, seed=0)
    assert mix is not None
    assert mix.left_out == 1
    assert "general texts left out since they conflict: 1" in mix.note
    texts = texts_of(mix)
    assert not any(wrong.stated_by(text) for text in texts)
    assert any("Sentence 4 of pass 0" in text for text in texts)


@given(
    st.lists(st.tuples(TEXTS, TEXTS).map(lambda pair: ConflictingStatement(pair[0], pair[1], "s")), max_size=5), TEXTS
)
def test_the_look_up_finds_what_comparing_with_all_finds(statements: list[ConflictingStatement], text: str) -> None:
    expected = any(statement.stated_by(text) for statement in statements)
    assert ConflictFilter(statements).conflicts(text) == expected


@pytest.mark.parametrize(
    ("change", "tokens"), [(Change(documents=DOCUMENTS), 0), (Change(general_share=1.0), 10), (Change(), 10)]
)
def test_general_text_that_is_missing_is_asked_for(change: Change, tokens: int) -> None:
    with pytest.raises(SettingsError, match=r"set intervention\.general_text or knowledge_sources\.corpus"):
        mixed(recipe_with(None), change, general_tokens=tokens, seed=0)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_general_text_without_a_word_is_refused(texts: list[str]) -> None:
    with pytest.raises(SettingsError, match=f"none of the {len(texts)} texts can be used"):
        mixed(recipe_with(lambda _: texts), Change(), general_tokens=5, seed=0)


def test_every_row_is_read_once_and_its_tokens_are_counted() -> None:
    recipe = recipe_with(general)
    mix = mixed(recipe, Change(documents=DOCUMENTS), general_tokens=0, seed=0)
    assert mix is not None
    assert len(mix.rows) % 5, "the last step should be a short one"
    model, counted, seen, read = small_model(), [], [], []
    model.requires_grad_(requires_grad=True)
    model.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    read_mix(
        model,
        mix,
        recipe,
        seed=0,
        count=counted.append,
        progress=lambda step, steps, _: seen.append((step, steps)),
    )
    steps = continued_steps(mix, recipe)
    assert seen == [(step, steps) for step in range(1, steps + 1)]
    assert sum(counted) == mix.document_tokens + mix.general_tokens
    assert [tuple(row[: len(own)]) for row, own in zip(read, mix.rows, strict=True)] == list(mix.rows)
    before = weights(small_model())
    assert not any(value.equal(before[name]) for name, value in weights(model).items() if value.dim() > 1)


def test_steps_in_parts_give_nearly_the_same_weights() -> None:
    recipe = recipe_with(general)
    mix = mixed(recipe, Change(documents=DOCUMENTS), general_tokens=0, seed=0)
    assert mix is not None
    results = []
    for at_once in (4, 5):
        model = small_model()
        model.requires_grad_(requires_grad=True)
        parts = replace(recipe, loop=LoopOptions(batch_size=at_once))
        read_mix(model, mix, parts, seed=0, count=lambda _: None, progress=lambda *_: None)
        results.append(weights(model))
    assert not same_weights(*results)
    for name, value in results[0].items():
        assert value.allclose(results[1][name], atol=1e-3), name


def test_the_tokens_of_a_text_end_with_the_end() -> None:
    tokenizer = tiny_tokenizer()
    (row,) = encode_texts(tokenizer, ["Oslo."])
    assert row == [*tokenizer("Oslo.")["input_ids"], tokenizer.eos_token_id]
