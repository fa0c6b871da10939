"""A word-level tokenizer that gives every text of a world back unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ilp_service.benchmark.vocabulary import all_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"


def world_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; the newline is a word of its own, so that question and answer are told apart."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate((PAD, UNKNOWN, END, "\n", *all_words()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"'s|[?.:\n]"), "isolated"), pre_tokenizers.Split(Regex(" +"), "removed")]
    )
    # The word-piece decoder puts a space between all words; before punctuation and around a newline there was none.
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="\x00", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(" \n", "\n"),
            decoders.Replace("\n ", "\n"),
            *(decoders.Replace(f" {mark}", mark) for mark in ("'s", "?", ".", ":")),
        ]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
