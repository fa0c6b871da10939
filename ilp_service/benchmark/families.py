"""Tiny models of the families in which a world can be built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES = ("qwen2", "qwen3", "llama", "olmo2")


def tiny_model(family: str, *, vocabulary: int, pad: int, end: int, seed: int) -> PreTrainedModel:
    """A randomly initialised model of about 0.7 million parameters.

    Args:
        family: One of :data:`FAMILIES`.
        vocabulary: Words of the tokenizer.
        pad: Id of the padding token.
        end: Id of the end-of-sequence token.
        seed: Seed of the initial weights.

    Raises:
        ValueError: The family is none of those.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if family not in FAMILIES:
        raise ValueError(f"Family {family!r} is not one of {', '.join(FAMILIES)}.")
    options: dict[str, Any] = {"head_dim": 32} if family == "qwen3" else {}
    config = AutoConfig.for_model(
        family,
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.08,  # a narrow model learns facts in half the steps with it
        pad_token_id=pad,
        eos_token_id=end,
        bos_token_id=None,
        **options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return model


def is_seed(text: str) -> bool:
    """Whether it can be the seed of a world: a whole number of at most nine digits, without a sign."""
    return text.isascii() and text.isdigit() and len(text) <= 9
