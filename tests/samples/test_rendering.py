"""Samples to tokens: nothing doubled, nothing lost, the same alone and in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from ilp_service.errors import DataFormatError, TokenizerError
from ilp_service.samples.rendering import RENDERING, Rendered, Renderer, renderable, rendering_table
from ilp_service.samples.sample import Message, Sample, with_stable_ids
from ilp_service.settings import DataSettings
from ilp_service.study import Study
from tests.samples.tokenizers_for_tests import (
    CHATML,
    DATED,
    LLAMA3,
    NO_SYSTEM,
    THINKING,
    byte_level,
    sentence_piece,
    word_level,
)

PLAIN_TOKENIZERS = [byte_level(), byte_level(adds_bos=True), sentence_piece()]
CHAT_TOKENIZERS = [byte_level(CHATML), byte_level(LLAMA3, adds_bos=True), byte_level(THINKING), byte_level(DATED)]
QUESTION, ANSWER = "Where does Ann Smith live?", "Paris"


def sample(prompt: str | Sequence[Message] = QUESTION, response: str = ANSWER, *, chat: bool = False) -> Sample:
    context = (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
    return Sample("", context, response, chat, "all", 0)


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def with_system(response: str = ANSWER) -> Sample:
    return sample((Message("system", "user"), Message("user", QUESTION)), response, chat=True)


@pytest.mark.parametrize("tokenizer", CHAT_TOKENIZERS)
def test_the_prompt_is_the_template_with_a_generation_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    rendered = Renderer(tokenizer, DataSettings()).render(sample(chat=True))
    full = rendered.prompt_ids + rendered.response_ids
    assert rendered.prompt_text.startswith(("<|im_start|>user", "<|begin_of_text|>", "Today is 26 Jul 2024"))
    assert rendered.response_text == ANSWER + str(tokenizer.eos_token)
    assert full == ids(tokenizer, rendered.prompt_text + rendered.response_text)
    assert rendered.ends_with_eos
    assert rendered.round_trips


def test_chat_prompts_equal_what_transformers_makes() -> None:
    for tokenizer in (byte_level(CHATML), byte_level(LLAMA3, adds_bos=True)):
        rendered = Renderer(tokenizer, DataSettings()).render(with_system())
        messages = [{"role": "system", "content": "user"}, {"role": "user", "content": QUESTION}]
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert list(rendered.prompt_ids) == expected


def test_a_template_with_bos_and_a_tokenizer_that_adds_one_do_not_double_it() -> None:
    tokenizer = byte_level(LLAMA3, adds_bos=True)
    renderer = Renderer(tokenizer, DataSettings())
    for one in (sample(chat=True), sample(), sample("<|begin_of_text|>Hi")):
        rendered = renderer.render(one)
        assert rendered.bos_tokens == 1
        assert rendered.prompt_ids.count(tokenizer.bos_token_id) == 1


def test_a_doubled_bos_in_the_data_is_counted() -> None:
    renderer = Renderer(byte_level(adds_bos=True), DataSettings())
    assert renderer.render(sample("<|begin_of_text|><|begin_of_text|>Hi")).bos_tokens == 2
    assert Renderer(byte_level(), DataSettings()).render(sample()).bos_tokens == 0


@pytest.mark.parametrize("tokenizer", [*PLAIN_TOKENIZERS, word_level()])
def test_a_plain_response_ends_with_one_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    eos = tokenizer.eos_token_id
    for response in (ANSWER, ANSWER + str(tokenizer.eos_token)):
        rendered = Renderer(tokenizer, DataSettings()).render(sample(response=response))
        assert rendered.response_ids.count(eos) == 1
        assert rendered.response_ids[-1] == eos
        assert rendered.ends_with_eos
    bare = Renderer(tokenizer, DataSettings(append_eos=False)).render(sample())
    assert eos not in bare.response_ids
    assert not bare.ends_with_eos


@pytest.mark.parametrize(
    ("prompt", "response", "sides"),
    [
        ("Q?", "A", ("Q?\n", "A")),
        ("Q?\n\n", "A", ("Q?\n\n", "A")),
        ("Q?", "\nA", ("Q?", "\nA")),
        ("Q: ", "A", ("Q:", " A")),
        ("Q:", " A", ("Q:", " A")),
    ],
)
def test_the_separator_stands_only_where_neither_side_has_white_space(
    prompt: str, response: str, sides: tuple[str, str]
) -> None:
    rendered = Renderer(byte_level(), DataSettings(append_eos=False)).render(sample(prompt, response))
    assert (rendered.prompt_text, rendered.response_text) == sides


def test_the_alpaca_text_is_used_plain_and_a_user_message_in_chat() -> None:
    alpaca = Sample(
        "", (Message("user", "Name a river."),), "The Seine.", False, "all", 0, plain_prompt="### Response:"
    )
    tokenizer = byte_level(CHATML)
    assert Renderer(tokenizer, DataSettings()).render(alpaca).prompt_text == "### Response:\n"
    chat = Renderer(tokenizer, DataSettings(rendering="chat")).render(alpaca)
    assert chat.prompt_text == "<|im_start|>user\nName a river.<|im_end|>\n<|im_start|>assistant\n"


def test_the_setting_decides_between_chat_and_plain() -> None:
    tokenizer = byte_level(CHATML)
    auto, chat, plain = (
        Renderer(tokenizer, DataSettings.model_validate({"rendering": name})) for name in ("auto", "chat", "plain")
    )
    conversation, text = sample(chat=True), sample()
    assert [r.uses_chat(conversation) for r in (auto, chat, plain)] == [True, True, False]
    assert [r.uses_chat(text) for r in (auto, chat, plain)] == [False, True, False]
    assert not Renderer(byte_level(), DataSettings()).uses_chat(conversation)
    with pytest.raises(TokenizerError, match=r"no default chat template.*data\.rendering=plain"):
        Renderer(byte_level(), DataSettings(rendering="chat"))


def test_a_conversation_the_template_refuses_is_a_reason_or_an_error() -> None:
    renderer = Renderer(byte_level(NO_SYSTEM), DataSettings())
    refused, good = with_system(), sample(chat=True)
    reason = renderer.try_render(refused)
    assert reason == "The chat template refuses the conversation: System role not supported."
    with pytest.raises(DataFormatError, match="System role not supported"):
        renderer.render(refused)
    bad, fine = with_stable_ids([refused, good])
    assert renderable([bad, fine], renderer) == ((fine,), {bad.sample_id: reason})
    table = rendering_table([bad, fine], renderer)
    assert table["prompt_tokens"].to_pylist()[0] is None
    assert table["round_trips"].to_pylist() == [None, True]


def test_a_template_that_drops_the_response_is_refused() -> None:
    renderer = Renderer(byte_level("{% for m in messages %}{{ m.role }}{% endfor %}"), DataSettings())
    assert renderer.try_render(sample(chat=True)) == "The chat template does not keep the response."


def test_a_template_that_trims_keeps_prompt_and_turn_end() -> None:
    renderer = Renderer(byte_level(LLAMA3, adds_bos=True), DataSettings())
    assert renderer.render(sample(response="  Paris \n", chat=True)).response_text == "Paris<|eot_id|>"


def test_a_clock_in_the_template_stands_still() -> None:
    rendered = Renderer(byte_level(DATED), DataSettings()).render(sample(chat=True))
    assert rendered.prompt_text.startswith("Today is 26 Jul 2024\n")


def test_stop_tokens_are_end_of_text_and_end_of_turn() -> None:
    tokenizer = byte_level(CHATML)
    assert Renderer(tokenizer, DataSettings()).stop_ids == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    words = word_level(CHATML)
    assert Renderer(words, DataSettings()).stop_ids == {words.eos_token_id}


@pytest.mark.parametrize("tokenizer", [*PLAIN_TOKENIZERS, *CHAT_TOKENIZERS, word_level()])
def test_a_batch_renders_as_one_by_one(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer, DataSettings(max_length=20))
    samples = [sample(f"{QUESTION} {n}", f"{ANSWER} {n}", chat=bool(n % 2)) for n in range(9)] + [with_system()]
    assert list(renderer.render_many(samples)) == [renderer.try_render(one) for one in samples]


@pytest.mark.parametrize("tokenizer", [*PLAIN_TOKENIZERS, *CHAT_TOKENIZERS])
def test_options_share_the_prompt_and_the_own_response_is_one_of_them(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer, DataSettings())
    one = sample(chat=True)
    rendered = renderer.render_options(one, [ANSWER, "London", "?!", "1"])
    assert all(isinstance(found, Rendered) for found in rendered)
    assert len({found.prompt_ids for found in rendered if isinstance(found, Rendered)}) == 1
    assert rendered[0] == renderer.render(one)
    assert rendered[1] == renderer.render(one, "London")


def test_a_boundary_that_the_tokenizer_would_merge_is_tokenised_apart() -> None:
    tokenizer = sentence_piece()
    renderer = Renderer(tokenizer, DataSettings(separator="", append_eos=False))
    rendered = renderer.render(sample("Where does Ann Smith li", "ve"))
    assert rendered.merged_boundary
    assert rendered.prompt_ids[1:] == ids(tokenizer, "Where does Ann Smith li")
    assert rendered.response_ids == ids(tokenizer, "ve")


def test_truncation_counts_response_tokens_beyond_the_training_length() -> None:
    whole = Renderer(byte_level(), DataSettings()).render(sample())
    prompt, response = len(whole.prompt_ids), len(whole.response_ids)
    for length, lost in ((prompt + response, 0), (prompt + 1, response - 1), (prompt, response), (2, response)):
        cut = Renderer(byte_level(), DataSettings(max_length=length)).render(sample())
        assert cut.truncated_tokens == lost
        assert cut.response_ids == whole.response_ids
    assert whole.truncated_tokens == 0


def test_unknown_words_are_counted_and_do_not_round_trip() -> None:
    renderer = Renderer(word_level(), DataSettings())
    known, unknown = renderer.render(sample()), renderer.render(sample("Where does Zoltan live?"))
    assert (known.unknown_tokens, known.round_trips) == (0, True)
    assert (unknown.unknown_tokens, unknown.round_trips) == (1, False)


def test_a_tokenizer_that_loses_most_texts_is_refused() -> None:
    renderer = Renderer(word_level(), DataSettings())
    good, bad = sample(), sample("Wo wohnt Zoltán?", "Köln")
    renderer.check_round_trip([good, good, bad])
    with pytest.raises(TokenizerError, match="does not give the text back for 2 of 3 samples"):
        renderer.check_round_trip([good, bad, bad])


def test_statements_have_a_prefix_and_no_terminator() -> None:
    tokenizer = byte_level(adds_bos=True)
    renderer = Renderer(tokenizer, DataSettings())
    context, answer = renderer.render_statement("Ann Smith is in", "Paris")
    assert context == (tokenizer.bos_token_id, *ids(tokenizer, "Ann Smith is in"))
    assert answer == ids(tokenizer, " Paris")
    assert renderer.render_statement("Ann Smith is in ", "Paris") == (context, answer)
    assert renderer.render_statement("安在", "巴黎")[1] == ids(tokenizer, "巴黎")


@pytest.mark.parametrize("tokenizer", [byte_level(adds_bos=True), byte_level(LLAMA3, adds_bos=True), word_level()])
def test_few_shot_is_plain_text_with_one_prefix_and_no_terminator(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer, DataSettings())
    shots = [sample("Where does Bob Jones work?", "London", chat=True)]
    rendered = renderer.render_few_shot(shots, sample(chat=True), "London")
    assert rendered.prompt_text == f"Where does Bob Jones work?\nLondon\n\n{QUESTION}\n"
    assert rendered.response_ids == ids(tokenizer, "London")
    assert rendered.prompt_ids.count(tokenizer.bos_token_id) == rendered.bos_tokens
    alone = renderer.render_few_shot([], sample())
    assert alone.prompt_ids == Renderer(tokenizer, DataSettings(rendering="plain")).render(sample()).prompt_ids


def test_the_table_has_the_columns_that_causes_read() -> None:
    table = rendering_table(with_stable_ids([sample()]), Renderer(byte_level(), DataSettings()))
    assert table.schema.equals(RENDERING)
    assert all(name in (Study.__doc__ or "") for name in table.column_names)
    (row,) = table.to_pylist()
    assert row["response_tokens"] == len(ids(byte_level(), ANSWER)) + 1


def test_what_was_decided_can_be_logged() -> None:
    plain = Renderer(byte_level(), DataSettings(max_length=9)).describe()
    assert (plain["chat_template"], plain["separator"], plain["append_eos"], plain["max_length"]) == (
        False,
        "\n",
        True,
        9,
    )
    one, other = (Renderer(byte_level(template), DataSettings()).describe() for template in (CHATML, LLAMA3))
    assert one["template_digest"] != other["template_digest"]
    assert one["turn_end"] == "<|im_end|>"


@settings(max_examples=40, deadline=None)
@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip),
    response=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip),
    chat=st.booleans(),
)
def test_any_text_round_trips_through_a_byte_level_vocabulary(prompt: str, response: str, chat: bool) -> None:
    tokenizer = byte_level(CHATML)
    rendered = Renderer(tokenizer, DataSettings()).render(sample(prompt, response, chat=chat))
    text = tokenizer.decode([*rendered.prompt_ids, *rendered.response_ids])
    assert text == rendered.prompt_text + rendered.response_text
    assert response.strip() in text
    assert rendered.round_trips
