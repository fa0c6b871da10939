"""Tiny random models of many families, and the slow, plain way to the numbers that the engine has to give."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from ilp_service.scoring.requests import ScoringRequest

VOCABULARY = 97

FLAT: dict[str, dict[str, Any]] = {
    "Qwen2": {},
    "Qwen2-tied": {"tie_word_embeddings": True},
    "Qwen2-sliding": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "Qwen3": {"head_dim": 16},
    "Llama": {},
    "Olmo2": {},
    "Mistral": {"sliding_window": 9},
    "Gemma2": {"head_dim": 16, "sliding_window": 9, "query_pre_attn_scalar": 16, "final_logit_softcapping": 3.0},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0},
}
PADDED: dict[str, dict[str, Any]] = {
    "Bloom": {"n_head": 4, "n_layer": 2},
    "GptOss": {"num_local_experts": 4, "head_dim": 16, "sliding_window": 9},
    "Llama-dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
}


def tiny_model(name: str, vocabulary: int = VOCABULARY, **more: Any) -> Any:  # noqa: ANN401
    """A model of two layers whose weights are large enough for its numbers to depend on the context."""
    family = name.partition("-")[0]
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"num_key_value_heads": 2, "vocab_size": vocabulary, "max_position_embeddings": 128}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{family}Config")(**(size | ids | {**FLAT, **PADDED}.get(name, {}) | more))
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(6)
    return model


def make_requests(number: int = 20, vocabulary: int = VOCABULARY, seed: int = 0) -> list[ScoringRequest]:
    """Prompts of 1 to 40 tokens with 1 to 5 options of 1 to 12 tokens, some of which begin alike."""
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(token) for token in rng.integers(0, vocabulary, int(rng.integers(low, high))))

    requests = []
    for index in range(number):
        opening = ids(2, 5)
        options = [(opening if rng.random() < 0.5 else ()) + ids(1, 9) for _ in range(int(rng.integers(1, 6)))]
        requests.append(ScoringRequest(f"r{index}", ids(1, 40), (*options, options[0])))
    return requests


def plain(model: Any, request: ScoringRequest) -> npt.NDArray[np.float64]:  # noqa: ANN401
    """Log-probability of every token of every option, one sequence at a time; NaN behind an option's end."""
    found = np.full((len(request.options), max(map(len, request.options))), np.nan)
    for row, option in enumerate(request.options):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([request.context + option]), use_cache=False).logits[0]
        logprobs = logits.double().log_softmax(-1)
        for place, token in enumerate(option):
            found[row, place] = logprobs[len(request.context) - 1 + place, token].item()
    return found
