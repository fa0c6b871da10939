"""Attention over one unpadded row that holds many prompts, each followed by the tree of its options.

A token sees the tokens before it in its own prompt, and of the options only those it follows. transformers calls
:func:`flat_attention` in every layer while :func:`flat_layout` is in force; where a layer asks for something it does
not know, it refuses, because a mask that is ignored gives numbers that look right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface

from ilp_service.scoring.batching import Piece

ATTENTION = "ilp_flat"
_QUERY_BLOCK = 512
_HARMLESS = {"position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states", "return_dict"}


class FlatUnsupportedError(Exception):
    """A layer needs something that the flat row cannot give."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Where one prompt and its options lie in the row: ``[start, branch)`` and ``[branch, end)``."""

    start: int
    branch: int
    end: int
    ancestry: npt.NDArray[np.bool_]
    depths: npt.NDArray[np.int64]

    def allowed(self, window: int | None) -> npt.NDArray[np.bool_]:
        """What the option tokens see, shape ``(branch tokens, prompt + branch tokens)``."""
        context = self.branch - self.start
        visible = np.concatenate([np.ones((self.end - self.branch, context), dtype=np.bool_), self.ancestry], axis=1)
        if window is not None:
            own = context - 1 + self.depths
            positions = np.concatenate([np.arange(context), own])
            visible &= own[:, None] - positions[None, :] < window
        return visible


@dataclass(slots=True)
class FlatLayout:
    """The segments of a row; remembers its masks over the layers.

    Attributes:
        segments: In the order of the row, without gaps.
        longest: Largest position in the row plus one: a window at least this wide hides nothing.
        calls: How many layers have used the layout.
    """

    segments: Sequence[Segment]
    longest: int
    calls: int = 0
    _masks: dict[tuple[int, int | None, torch.device, torch.dtype], torch.Tensor] = field(default_factory=dict)

    def branch_mask(self, number: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Additive mask of a segment's options; a boolean one is misread by eager attention."""
        key = (number, window, like.device, like.dtype)
        if key not in self._masks:
            allowed = torch.from_numpy(self.segments[number].allowed(window)).to(like.device)
            mask = torch.zeros(allowed.shape, dtype=like.dtype, device=like.device)
            self._masks[key] = mask.masked_fill_(~allowed, -torch.inf)
        return self._masks[key]


def layout_of(pieces: Sequence[Piece]) -> FlatLayout:
    """Lay prompts with their options one after another."""
    segments: list[Segment] = []
    start = longest = 0
    for piece in pieces:
        branch = start + len(piece.context)
        end = branch + len(piece.trie.tokens)
        segments.append(Segment(start, branch, end, piece.trie.ancestry(), piece.trie.depths))
        longest = max(longest, len(piece.context) + int(piece.trie.depths.max(initial=0)))
        start = end
    return FlatLayout(segments, longest)


_current: ContextVar[FlatLayout | None] = ContextVar("flat_layout", default=None)


@contextmanager
def flat_layout(layout: FlatLayout) -> Iterator[FlatLayout]:
    """Put a layout in force for the forward passes inside the block."""
    token = _current.set(layout)
    try:
        yield layout
    finally:
        _current.reset(token)


def _window(module: nn.Module, layout: FlatLayout, kwargs: dict[str, Any]) -> int | None:
    """The layer's sliding window, None where it hides nothing."""
    window: int | None = kwargs.get("sliding_window")
    config: Any = getattr(module, "config", None)
    types = getattr(config, "layer_types", None)
    if types is not None:
        kind = types[module.layer_idx]
        if (kind == "sliding_attention") != (window is not None) or kind not in ("sliding_attention", "full_attention"):
            raise FlatUnsupportedError(f"a layer of type {kind!r} that is given the window {window!r}")
    elif window is None and getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise FlatUnsupportedError("a sliding window that the attention function is not told of")
    return window if window is not None and window < layout.longest else None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of ``(1, heads, time, head size)`` tensors; causal where no mask is given."""
    if softcap is None:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
        )
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype, device=scores.device).triu_(1)
    return (scores + mask).softmax(-1, dtype=torch.float32).to(value.dtype) @ value


def _windowed_prompt(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int,
    scaling: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """Causal attention within a window, in blocks of queries, so that no square mask is made."""
    length = query.shape[2]
    blocks: list[torch.Tensor] = []
    for first in range(0, length, _QUERY_BLOCK):
        last = min(first + _QUERY_BLOCK, length)
        begin = max(0, first - window + 1)
        back = torch.arange(first, last, device=query.device)[:, None] - torch.arange(begin, last, device=query.device)
        mask = torch.zeros(back.shape, dtype=query.dtype, device=query.device)
        mask.masked_fill_((back < 0) | (back >= window), -torch.inf)
        keys, values = key[:, :, begin:last], value[:, :, begin:last]
        blocks.append(_attend(query[:, :, first:last], keys, values, mask, scaling, softcap))
    return torch.cat(blocks, dim=2)


def flat_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,  # noqa: ANN401
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls, see its ``AttentionInterface``.

    Args:
        module: The attention layer.
        query: Shape ``(1, heads, row, head size)``.
        key: Shape ``(1, key heads, row, head size)``.
        value: Shape ``(1, key heads, row, head size)``.
        attention_mask: None; the layout in force says who sees whom.
        dropout: Zero, the model is in evaluation mode.
        scaling: Factor of the scores.
        kwargs: What else the family passes on.

    Returns:
        Tensor of shape ``(1, row, heads, head size)``, and no weights.

    Raises:
        FlatUnsupportedError: The layer asks for something that is not known here.
    """
    layout = _current.get()
    softcap: float | None = kwargs.get("softcap")
    unknown = {name for name, given in kwargs.items() if given is not None} - _HARMLESS - {"softcap", "sliding_window"}
    if unknown or attention_mask is not None or dropout or not getattr(module, "is_causal", True):
        raise FlatUnsupportedError(f"attention with {sorted(unknown) or 'a mask, dropout or no causality'}")
    row = (1, 0 if layout is None else layout.segments[-1].end)
    if layout is None or (query.shape[0], query.shape[2]) != row or (key.shape[0], key.shape[2]) != row:
        raise FlatUnsupportedError("tokens that the layout does not have")
    layout.calls += 1
    window = _window(module, layout, kwargs)
    if query.shape[1] != key.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    output = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    by_head = output.transpose(1, 2)
    for number, segment in enumerate(layout.segments):
        prompt, branch = slice(segment.start, segment.branch), slice(segment.branch, segment.end)
        own = query[:, :, prompt], key[:, :, prompt], value[:, :, prompt]
        by_head[:, :, prompt] = (
            _attend(*own, None, scaling, softcap)
            if window is None
            else _windowed_prompt(*own, window, scaling, softcap)
        )
        if segment.end > segment.branch:
            seen = slice(segment.start, segment.end)
            mask = layout.branch_mask(number, window, query)
            by_head[:, :, branch] = _attend(
                query[:, :, branch], key[:, :, seen], value[:, :, seen], mask, scaling, softcap
            )
    return output, None


AttentionInterface.register(ATTENTION, flat_attention)
