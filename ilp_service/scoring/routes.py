"""Three ways to the same numbers, fastest first.

``flat``: prompts and option trees of a batch in one unpadded row, see :mod:`ilp_service.scoring.attention`.
``padded``: one row a prompt and option, padded on the right; for families whose layers the flat row cannot serve
(recurrent layers, attention with extra inputs, positions that depend on the batch).
``whole``: one sequence at a time through the model's own forward, for heads that are not understood.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from itertools import chain, groupby
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from ilp_service.scoring.attention import ATTENTION, FlatUnsupportedError, flat_layout, layout_of
from ilp_service.scoring.batching import Piece
from ilp_service.scoring.head import read_tokens, rows_at_once
from ilp_service.scoring.parts import ModelParts, attention_implementation

Route = Literal["flat", "padded", "whole"]
Reads = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]
Runner = Callable[[ModelParts, Sequence[Piece], int], list[Reads]]


def run_flat(parts: ModelParts, pieces: Sequence[Piece], max_tokens: int) -> list[Reads]:  # noqa: ARG001
    """Score the edges of every piece in one row; ``(logprobs, first choices)`` of each piece's edges."""
    layout = layout_of(pieces)
    tokens = np.concatenate([part for piece in pieces for part in (piece.context, piece.trie.tokens)]).astype(np.int64)
    positions = np.concatenate(
        [
            part
            for piece in pieces
            for part in (np.arange(len(piece.context)), len(piece.context) - 1 + piece.trie.depths)
        ]
    )
    # Node -1 is the prompt's last token, which lies just before the first node.
    rows = np.concatenate(
        [segment.branch + piece.trie.edge_nodes for segment, piece in zip(layout.segments, pieces, strict=True)]
    )
    targets = np.concatenate([piece.trie.edge_tokens for piece in pieces])
    device = parts.device
    with attention_implementation(parts.model, ATTENTION), flat_layout(layout):
        hidden = parts.hidden(
            torch.from_numpy(tokens)[None].to(device), torch.from_numpy(positions.astype(np.int64))[None].to(device)
        )
    layers = parts.model.config.get_text_config().num_hidden_layers
    if layout.calls != layers:
        raise FlatUnsupportedError(f"{layout.calls} of {layers} layers use the replaced attention")
    found, first = read_tokens(parts, hidden[0], rows, targets)
    ends = np.cumsum([len(piece.trie.edge_tokens) for piece in pieces])[:-1]
    return list(zip(np.split(found, ends), np.split(first, ends), strict=True))


def run_padded(parts: ModelParts, pieces: Sequence[Piece], max_tokens: int) -> list[Reads]:
    """Score the edges of every piece, one row for each option."""
    sequences = _sequences(pieces)
    reads = [
        (np.empty(len(piece.trie.edge_tokens)), np.empty(len(piece.trie.edge_tokens), np.bool_)) for piece in pieces
    ]
    longest_first = sorted(sequences, key=lambda sequence: len(sequence[2]), reverse=True)
    lengths = (
        groupby(longest_first, key=lambda sequence: len(sequence[2]))
        if parts.one_length_at_a_time
        else [(0, longest_first)]
    )
    for batch in chain.from_iterable(_rectangles(list(group), max_tokens) for _, group in lengths):
        width = len(batch[0][2])
        tokens = np.full((len(batch), width), parts.filler, dtype=np.int64)
        real = np.zeros((len(batch), width), dtype=np.int64)
        for row, (_, _, ids, _) in enumerate(batch):
            tokens[row, : len(ids)] = ids
            real[row, : len(ids)] = 1
        rows = np.concatenate(
            [
                row * width + len(ids) - len(edges) + np.arange(len(edges))
                for row, (_, _, ids, edges) in enumerate(batch)
            ]
        )
        targets = np.concatenate([pieces[number].trie.edge_tokens[edges] for number, _, _, edges in batch])
        device = parts.device
        positions = torch.arange(width, device=device)[None].expand(len(batch), -1)
        hidden = parts.hidden(torch.from_numpy(tokens).to(device), positions, torch.from_numpy(real).to(device))
        found, first = read_tokens(parts, hidden.flatten(0, 1), rows, targets)
        begin = 0
        for number, _, _, edges in batch:
            reads[number][0][edges] = found[begin : begin + len(edges)]
            reads[number][1][edges] = first[begin : begin + len(edges)]
            begin += len(edges)
    return reads


def run_whole(parts: ModelParts, pieces: Sequence[Piece], max_tokens: int) -> list[Reads]:  # noqa: ARG001
    """Score the edges of every piece, one sequence after another, with the logits that the model itself gives."""
    reads = [
        (np.empty(len(piece.trie.edge_tokens)), np.empty(len(piece.trie.edge_tokens), np.bool_)) for piece in pieces
    ]
    keeps = "logits_to_keep" in inspect.signature(parts.model.forward).parameters
    step = rows_at_once(parts.vocabulary) if keeps else sys.maxsize
    for number, _, ids, edges in _sequences(pieces):
        tokens = torch.tensor([ids], device=parts.device)
        for begin in range(0, len(edges), step):
            some = edges[begin : begin + step]
            keep = torch.arange(len(some), device=parts.device) + len(ids) - len(edges) + begin
            if keeps:
                logits = parts.whole(input_ids=tokens, use_cache=False, logits_to_keep=keep).logits[0]
            else:
                logits = parts.whole(input_ids=tokens, use_cache=False).logits[0, keep]
            logprobs = torch.log_softmax(logits.float(), dim=-1).cpu()
            targets = torch.from_numpy(pieces[number].trie.edge_tokens[some])
            reads[number][0][some] = logprobs[torch.arange(len(some)), targets].double().numpy()
            reads[number][1][some] = (logprobs.argmax(-1) == targets).numpy()
    return reads


RUNNERS: dict[Route, Runner] = {"flat": run_flat, "padded": run_padded, "whole": run_whole}

_Sequence = tuple[int, int, tuple[int, ...], npt.NDArray[np.int64]]


def _sequences(pieces: Sequence[Piece]) -> list[_Sequence]:
    """Number of the piece, slot, token ids without the last, and edges, of every option."""
    sequences: list[_Sequence] = []
    for number, piece in enumerate(pieces):
        begin = 0
        for slot, length in enumerate(piece.trie.lengths):
            edges = piece.trie.paths[begin : begin + length]
            ids = piece.context + tuple(int(token) for token in piece.trie.edge_tokens[edges[:-1]])
            sequences.append((number, slot, ids, edges))
            begin += length
    return sequences


def _rectangles(sequences: Sequence[_Sequence], max_tokens: int) -> list[list[_Sequence]]:
    """Cut sequences, longest first, so that rows times width stays within the batch."""
    if not sequences:
        return []
    batches: list[list[_Sequence]] = [[]]
    for sequence in sequences:
        width = len(batches[-1][0][2]) if batches[-1] else 0
        if batches[-1] and (len(batches[-1]) + 1) * width > max_tokens:
            batches.append([])
        batches[-1].append(sequence)
    return batches
