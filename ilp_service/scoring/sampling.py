"""Choosing the next token, with noise that depends on nothing but the seed, the request and the draw."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch

from ilp_service.scoring.head import rows_at_once


def uniforms(seed: int, key: str, draw: int, steps: int) -> npt.NDArray[np.float64]:
    """The random numbers of one continuation, in [0, 1), one for each token; shape ``(steps,)``.

    Args:
        seed: The run's seed.
        key: The request's key.
        draw: Which of the request's samples it is, from 0.
        steps: Tokens at most; more steps leave the earlier numbers as they are.
    """
    digest = hashlib.blake2b(f"{seed}\x00{draw}\x00{key}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(steps)


def draw_tokens(logits: torch.Tensor, noise: npt.NDArray[np.float64], temperature: float) -> torch.Tensor:
    """Sample one token a row by inverting the cumulative distribution.

    Args:
        logits: Shape ``(rows, vocab)``.
        noise: A number in [0, 1) for each row.
        temperature: The logits are divided by it.

    Returns:
        Token ids, shape ``(rows,)``.
    """
    chosen: list[torch.Tensor] = []
    step = rows_at_once(logits.shape[-1])
    for begin in range(0, len(noise), step):
        some = logits[begin : begin + step].float() / temperature
        cumulative = some.softmax(-1).double().cumsum(-1)
        level = torch.from_numpy(noise[begin : begin + step]).to(logits.device)[:, None] * cumulative[:, -1:]
        chosen.append(torch.searchsorted(cumulative, level, right=True)[:, 0])
    return torch.cat(chosen).clamp_(max=logits.shape[-1] - 1)
