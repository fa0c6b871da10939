"""A tokenizer gives exactly the ids of its ``tokenizer.json``, however it was saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ilp_service.checkpoints.loading import load_tokenizer
from ilp_service.errors import RemoteCodeError, TokenizerError
from tests.tiny import BOS, CHAT_TEMPLATE, EOS, PAD, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_tokenizer(bos=True).save_pretrained(tmp_path)
    return tmp_path


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_ids_are_those_of_the_file_and_texts_come_back(folder: Path, text: str) -> None:
    tokenizer, raw = load_tokenizer(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer(text)["input_ids"] == raw.encode(text).ids
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == raw.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text


def test_special_tokens_and_template_are_honoured(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (BOS, EOS, PAD)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id


def test_template_inside_the_config(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert load_tokenizer(folder).chat_template is None
    change(folder / "tokenizer_config.json", chat_template="{{ messages }}")
    assert load_tokenizer(folder).chat_template == "{{ messages }}"
    change(folder / "tokenizer_config.json", chat_template=[{"name": "default", "template": "{{ messages[0] }}"}])
    assert load_tokenizer(folder).chat_template == {"default": "{{ messages[0] }}"}


def test_digits_are_split_as_the_file_says_whatever_class_is_named(folder: Path) -> None:
    """A file that keeps numbers whole, with a class name whose family splits them digit by digit."""
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["pre_tokenizer"] = {"type": "Split", "pattern": {"String": "~"}, "behavior": "Isolated", "invert": False}
    raw["model"]["merges"] = [["1", "2"]]
    raw["model"]["vocab"] = {**raw["model"]["vocab"], "12": max(raw["model"]["vocab"].values()) + 1}
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    change(folder / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    assert len(load_tokenizer(folder)("12", add_special_tokens=False)["input_ids"]) == 1


def test_saved_truncation_and_padding_are_switched_off(folder: Path) -> None:
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.enable_truncation(max_length=3)
    raw.enable_padding(length=8)
    raw.save(str(folder / "tokenizer.json"))
    assert len(load_tokenizer(folder)("one two three four five six")["input_ids"]) > 8
    assert len(load_tokenizer(folder)("x")["input_ids"]) == 2


def test_padding_token_is_optional_and_never_invented(folder: Path) -> None:
    before = len(load_tokenizer(folder))
    change(folder / "tokenizer_config.json", pad_token="[PAD that nobody added]")  # noqa: S106
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token is None
    assert len(tokenizer) == before


def test_end_token_may_come_from_the_model(folder: Path) -> None:
    change(folder / "tokenizer_config.json", eos_token=None)
    (folder / "config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    assert load_tokenizer(folder).eos_token == EOS


def test_tokenizer_json_alone_is_enough(folder: Path) -> None:
    for file in folder.iterdir():
        if file.name != "tokenizer.json":
            file.unlink()
    assert load_tokenizer(folder)("x")["input_ids"]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("tokenizer.json", "{}", "is not a tokenizer"),
        ("tokenizer.json", "not json", "is not a tokenizer"),
        ("tokenizer_config.json", "[1]", "cannot be read"),
        ("tokenizer_config.json", '{"eos_token": "<nowhere>"}', "has no token '<nowhere>'"),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"777": {"content": "<|end|>"}}}',
            "gives '<|end|>' the id 1, .* 777",
        ),
    ],
)
def test_damaged_or_contradicting_files(folder: Path, file: str, text: str, words: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(TokenizerError, match=words.replace("|", r"\|")):
        load_tokenizer(folder)


def test_no_tokenizer_or_one_that_cannot_be_converted(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a sentencepiece model")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(TokenizerError, match="could not be converted"):
        load_tokenizer(tmp_path)
    change(tmp_path / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tok.Tok", None]})
    with pytest.raises(RemoteCodeError, match="save a tokenizer"):
        load_tokenizer(tmp_path)


def test_older_files_are_converted(tmp_path: Path) -> None:
    saved = tiny_tokenizer()
    model = json.loads(saved.backend_tokenizer.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", "eos_token": EOS}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer("Ada Lovelace, 42 naïve")["input_ids"]) == "Ada Lovelace, 42 naïve"
