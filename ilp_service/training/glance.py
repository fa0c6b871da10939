"""A quick look at rows while a model is trained: their loss, and how much of each response it would say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ilp_service.training.measuring import undisturbed
from ilp_service.training.rows import IGNORED, ResponseCollator, TrainingRow


@dataclass(frozen=True, slots=True)
class Glance:
    """What one look at a row shows.

    Attributes:
        loss: Sum over the response's tokens, nats.
        tokens: Tokens of the response.
        said: Share of the response's tokens before the first that is not the most likely one, 0-1: greedy decoding
            says just these. It is 0 or 1 for a response of one token, with the terminator or without, as accuracy
            is, and still shows a fall where responses are long and hardly ever right as a whole.
    """

    loss: float
    tokens: int
    said: float


@torch.no_grad()
def glance(model: nn.Module, rows: Sequence[TrainingRow], rows_at_once: int) -> list[Glance]:
    """Look at rows, each with some token in the loss; the model and all random states are afterwards as before.

    Args:
        model: A causal language model, in whatever mode.
        rows: What is looked at.
        rows_at_once: Rows a forward pass.
    """
    found: list[Glance] = []
    device = next(model.parameters()).device
    collate = ResponseCollator()
    with undisturbed(model), _evaluating(model):
        for start in range(0, len(rows), rows_at_once):
            batch = collate(rows[start : start + rows_at_once])
            labels = batch["labels"].to(device)[:, 1:]
            logits = model(input_ids=batch["input_ids"].to(device), use_cache=False).logits[:, :-1]
            for row_logits, row_labels in zip(logits, labels, strict=True):
                inside = row_labels != IGNORED
                scores, wanted = row_logits[inside].float(), row_labels[inside]
                right = (scores.argmax(-1) == wanted).long()
                said = right.cumprod(0).sum().item() / max(1, len(wanted))
                found.append(Glance(cross_entropy(scores, wanted, reduction="sum").item(), len(wanted), said))
    return found


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.train(mode=False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
