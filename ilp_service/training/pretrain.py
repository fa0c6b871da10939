"""Causal pre-training on plain text, from scratch or continued: a lean loop for small bases on a CPU.

Fine-tuning goes through transformers' Trainer (:mod:`ilp_service.training.loop`); here nothing is to be resumed,
saved or logged in between, so there is no Trainer around the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Documents = Sequence[str] | Callable[[int], Sequence[str]]


def pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Documents,
    *,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    max_length: int = 512,
    packed: bool = False,
    warmup: float = 0.05,
    weight_decay: float = 0.01,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train ``model`` in place on documents, AdamW with a cosine that ends at zero.

    Args:
        model: A causal language model; left in eval mode.
        tokenizer: Its tokenizer. A document ends with the end-of-sequence token where the tokenizer has one.
        documents: The texts, or a function from the pass number (from 0) to the texts of that pass.
        steps: Optimizer steps.
        batch_size: Rows a step.
        learning_rate: Peak learning rate.
        seed: Seed of the order of the documents and of dropout.
        max_length: Tokens a row; a longer document is cut, or with ``packed`` goes on in the next row.
        packed: Rows of exactly ``max_length`` tokens cut from the joined documents, instead of one document a row.
        warmup: Share of the steps over which the learning rate rises.
        weight_decay: AdamW's.
        progress: Called after every step with the step (from 1), ``steps`` and the loss.

    Returns:
        The loss of every step, nats per token.
    """
    batches = _batches(tokenizer, documents, batch_size, np.random.default_rng(seed), max_length, packed)
    return train_on_texts(
        model,
        batches,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        warmup=warmup,
        weight_decay=weight_decay,
        progress=progress,
    )


def train_on_texts(
    model: PreTrainedModel | PeftModel,
    batches: Iterable[Sequence[Sequence[int]]],
    *,
    steps: int,
    learning_rate: float,
    seed: int = 0,
    warmup: float = 0.05,
    weight_decay: float = 0.01,
    rows_at_once: int | None = None,
    bf16: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train ``model`` in place on batches of token rows, AdamW with a cosine that ends at zero.

    Args:
        model: A causal language model or an adapter around one; what is trainable is trained. Left in eval mode.
        batches: Token rows, each of two tokens or more, batch after batch; at least ``steps`` of them.
        steps: Optimizer steps.
        learning_rate: Peak learning rate.
        seed: Seed of dropout.
        warmup: Share of the steps over which the learning rate rises.
        weight_decay: AdamW's.
        rows_at_once: Most rows a forward pass; larger batches are accumulated, each token weighing the same.
        bf16: Forward passes in bfloat16.
        progress: Called after every step with the step (from 1), ``steps`` and the loss; may raise to end it.

    Returns:
        The loss of every step, nats per token.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    rising = max(1, round(warmup * steps))
    losses = []
    given = iter(batches)
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for step in range(steps):
            if step < rising:
                rate = (step + 1) / rising
            else:
                rate = 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate
            loss = _backward(model, next(given), rows_at_once, bf16)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss)
            if progress is not None:
                progress(step + 1, steps, losses[-1])
    model.train(mode=False)
    return losses


def _backward(
    model: PreTrainedModel | PeftModel, rows: Sequence[Sequence[int]], rows_at_once: int | None, bf16: bool
) -> float:
    """Add the gradients of the mean loss over the rows' tokens, and give the loss."""
    parts = (
        [rows] if rows_at_once is None else [rows[at : at + rows_at_once] for at in range(0, len(rows), rows_at_once)]
    )
    predicted = sum(len(row) - 1 for row in rows)
    total = 0.0
    for part in parts:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            loss = _loss(model, part)
        if len(parts) > 1:
            loss = loss * (sum(len(row) - 1 for row in part) / predicted)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _loss(model: PreTrainedModel | PeftModel, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Mean loss over the rows' tokens; padding stands on the right, where a causal model does not see it."""
    width = max(len(row) for row in rows)
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    inside = torch.arange(1, width, device=model.device)[None, :] < lengths[:, None]  # (batch, time - 1)
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return cross_entropy(logits[inside].float(), tokens[:, 1:][inside])


def _batches(
    tokenizer: PreTrainedTokenizerBase,
    documents: Documents,
    batch_size: int,
    generator: np.random.Generator,
    max_length: int,
    packed: bool,
) -> Iterator[list[list[int]]]:
    """Batches without end; each pass over the documents in a new order, rows of two passes may share a batch."""
    batch: list[list[int]] = []
    joined: list[int] = []
    known: list[list[int]] | None = None
    number = 0
    while True:
        if callable(documents):
            rows = encode_texts(tokenizer, documents(number))
        else:
            known = rows = encode_texts(tokenizer, documents) if known is None else known
        number += 1
        if not any(len(row) > 1 for row in rows):
            raise ValueError("The documents hold no text of two tokens or more.")
        for index in generator.permutation(len(rows)):
            if packed:
                joined += rows[index]
                whole = len(joined) // max_length * max_length
                pieces = [joined[start : start + max_length] for start in range(0, whole, max_length)]
                joined = joined[whole:]
            else:
                pieces = [rows[index][:max_length]]
            for piece in pieces:
                if len(piece) > 1:
                    batch.append(piece)
                if len(batch) == batch_size:
                    yield batch
                    batch = []


def encode_texts(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str]) -> list[list[int]]:
    """Token ids of every document, with the tokenizer's own special tokens and an end-of-sequence token."""
    rows: list[list[int]] = tokenizer(list(documents), return_attention_mask=False)["input_ids"]
    end = tokenizer.eos_token_id
    if end is None:
        return rows
    return [row if row and row[-1] == end else [*row, int(end)] for row in rows]
