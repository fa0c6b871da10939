"""The parts of a causal language model that the engine calls by themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ilp_service.errors import AdapterKeysError

_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}


@dataclass(frozen=True, slots=True)
class ModelParts:
    """A causal language model taken apart; nothing is copied.

    Attributes:
        whole: The model as it was given, adapter wrapper included.
        model: The transformers model inside, adapter layers included.
        decoder: Everything below the output head; gives hidden states ``(batch, time, hidden)``.
        head: The output head; gives raw scores ``(rows, vocab)``.
        vocabulary: Token ids that can be embedded are below this.
        filler: Token id that fills up padded rows.
        max_positions: Longest sequence the model was made for, None where it has no limit.
        takes_positions: Whether the decoder accepts ``position_ids``.
        one_length_at_a_time: Whether a sequence's numbers depend on the longest sequence beside it
            (rotary embeddings that are stretched by length), so that lengths must not be mixed.
    """

    whole: nn.Module
    model: PreTrainedModel
    decoder: nn.Module
    head: nn.Module
    vocabulary: int
    filler: int
    max_positions: int | None
    takes_positions: bool
    one_length_at_a_time: bool

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        embeddings: Any = self.model.get_input_embeddings()
        return torch.device(embeddings.weight.device)

    def finish(self, raw: torch.Tensor) -> torch.Tensor:
        """Raw scores of the head to logits, float32: the scaling or soft cap that some families put behind it."""
        config: Any = self.model.config.get_text_config()
        logits = raw.float()
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / cap) * cap
        if (divisor := getattr(config, "logits_scaling", None)) is not None:
            logits = logits / divisor
        if (factor := getattr(config, "logit_scale", None)) is not None:
            logits = logits * factor
        return logits

    def hidden(
        self, tokens: torch.Tensor, positions: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states ``(batch, time, hidden)`` of tokens ``(batch, time)``."""
        extra: dict[str, torch.Tensor] = {"position_ids": positions} if self.takes_positions else {}
        output = self.decoder(input_ids=tokens, attention_mask=attention_mask, use_cache=False, **extra)
        states: torch.Tensor = output.last_hidden_state
        return states

    def refusal(self, tokens: Sequence[int], length: int) -> str | None:
        """Why a sequence cannot be read by the model; None if it can.

        Args:
            tokens: Its token ids.
            length: Tokens that it will have in the end.
        """
        if self.max_positions is not None and length > self.max_positions:
            return f"{length} tokens are more than the {self.max_positions} that the model can read."
        if tokens and (max(tokens) >= self.vocabulary or min(tokens) < 0):
            worst = max(tokens) if max(tokens) >= self.vocabulary else min(tokens)
            return f"Token id {worst} is not one of the {self.vocabulary} that the model has; is it its own tokenizer?"
        return None


def take_apart(whole: nn.Module, filler: int = 0) -> ModelParts:
    """Find decoder and head of a causal language model, with or without an adapter around it.

    Raises:
        AdapterKeysError: The adapter is a learned prompt, which lives outside the model.
    """
    outer: Any = whole
    active: Any = getattr(outer, "active_peft_config", None)
    if getattr(active, "is_prompt_learning", False):
        raise AdapterKeysError(
            f"The adapter is of type {active.peft_type.value}, a learned prompt; expected one that changes layers, "
            "such as LoRA. Fine-tune with LoRA, or register the merged model."
        )
    model: Any = outer.get_base_model() if hasattr(outer, "get_base_model") else outer
    config: Any = model.config.get_text_config()
    decoder = model.get_decoder()
    return ModelParts(
        whole=whole,
        model=model,
        decoder=decoder,
        head=model.get_output_embeddings(),
        vocabulary=model.get_input_embeddings().weight.shape[0],
        filler=filler,
        max_positions=getattr(config, "max_position_embeddings", None),
        takes_positions="position_ids" in inspect.signature(decoder.forward).parameters,
        one_length_at_a_time=bool(_rope_types(getattr(config, "rope_parameters", None)) & _LENGTH_DEPENDENT_ROPE),
    )


def _rope_types(parameters: object) -> set[str]:
    """Kinds of rotary embedding in a config, which may hold one for each type of layer."""
    if not isinstance(parameters, dict):
        return set()
    inner = set().union(*(_rope_types(value) for value in parameters.values()))
    return inner | ({str(parameters["rope_type"])} if "rope_type" in parameters else set())


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside the block; the mode is put back afterwards."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in trained:
            module.training = True


@contextmanager
def attention_implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Another attention function inside the block; the model's own is put back afterwards."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
