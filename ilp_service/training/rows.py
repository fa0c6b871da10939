"""Samples as token rows, and rows as batches; the loss is on the response alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ilp_service.samples.sample import Sample

#: Label that the loss skips.
IGNORED = -100


class _Rendered(Protocol):
    @property
    def prompt_ids(self) -> tuple[int, ...]: ...
    @property
    def response_ids(self) -> tuple[int, ...]: ...


class SampleRenderer(Protocol):
    """What training needs of :class:`ilp_service.samples.rendering.Renderer`."""

    def render(self, sample: Sample) -> _Rendered:
        """Token ids of the prompt and of the response with its terminator."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One sample as the model is trained on it.

    Attributes:
        sample_id: The sample's id.
        input_ids: Prompt and response, cut at the training length.
        prompt_tokens: Where the response starts; labels are ``input_ids[prompt_tokens:]``.
    """

    sample_id: str
    input_ids: tuple[int, ...]
    prompt_tokens: int

    @property
    def trained_tokens(self) -> int:
        """Response tokens that enter the loss: none where the prompt alone fills the training length."""
        return max(0, len(self.input_ids) - max(1, self.prompt_tokens))


def encode_rows(
    samples: Iterable[Sample], renderer: SampleRenderer, max_length: int | None = None
) -> tuple[TrainingRow, ...]:
    """Render samples exactly as the diagnosis will, and cut them on the right at ``max_length`` tokens."""
    rows = []
    for sample in samples:
        rendered = renderer.render(sample)
        ids = (*rendered.prompt_ids, *rendered.response_ids)[:max_length]
        rows.append(TrainingRow(sample.sample_id, tuple(ids), min(len(rendered.prompt_ids), len(ids))))
    return tuple(rows)


class ResponseCollator:
    """Pads rows on the right and labels their responses.

    Padding on the right needs no attention mask in a causal model: no token sees what comes after it. The mask is
    left out, since without one the fast causal kernel runs.
    """

    def __init__(self, pad_token_id: int = 0) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[TrainingRow]) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``labels``, both int64 of shape ``(batch, time)``."""
        width = max(len(row.input_ids) for row in rows)
        inputs = [[*row.input_ids, *[self.pad_token_id] * (width - len(row.input_ids))] for row in rows]
        labels = [
            [
                *[IGNORED] * row.prompt_tokens,
                *row.input_ids[row.prompt_tokens :],
                *[IGNORED] * (width - len(row.input_ids)),
            ]
            for row in rows
        ]
        return {"input_ids": torch.tensor(inputs), "labels": torch.tensor(labels)}
