"""Options of one prompt, with their common beginnings merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class OptionTrie:
    """The options of a prompt as a tree whose root is the prompt's last token.

    Every distinct option prefix is one edge of the tree, and is scored once. Only inner nodes are forwarded: nothing
    is read behind the last token of an option.

    Attributes:
        tokens: Token id of every inner node, parents before children, shape ``(nodes,)``.
        parents: Index of every node's parent, -1 for the root, shape ``(nodes,)``.
        depths: Distance from the root, from 1, shape ``(nodes,)``.
        edge_nodes: Node behind which each edge is read, -1 for the root, shape ``(edges,)``.
        edge_tokens: Token id of each edge, shape ``(edges,)``.
        paths: Edges of all options one after another, shape ``(sum of option lengths,)``.
        lengths: Tokens of each option, shape ``(options,)``.
    """

    tokens: npt.NDArray[np.int64]
    parents: npt.NDArray[np.int64]
    depths: npt.NDArray[np.int64]
    edge_nodes: npt.NDArray[np.int64]
    edge_tokens: npt.NDArray[np.int64]
    paths: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    def ancestry(self) -> npt.NDArray[np.bool_]:
        """Which nodes each node follows, itself included; shape ``(nodes, nodes)``."""
        nodes = len(self.tokens)
        follows = np.zeros((nodes, nodes), dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                follows[node] = follows[parent]
            follows[node, node] = True
        return follows


def build_trie(options: Sequence[Sequence[int]]) -> OptionTrie:
    """Merge the common beginnings of options.

    Args:
        options: Token ids of every option, each at least one.
    """
    edges: dict[tuple[int, int], int] = {}
    paths: list[int] = []
    for option in options:
        edge = -1
        for token in option:
            edge = edges.setdefault((edge, token), len(edges))
            paths.append(edge)
    above = np.array([parent for parent, _ in edges], dtype=np.int64)
    tokens = np.array([token for _, token in edges], dtype=np.int64)
    inner = np.unique(above[above >= 0])
    node_of_edge = np.full(len(tokens) + 1, -1, dtype=np.int64)  # the last cell serves edge -1, the root
    node_of_edge[inner] = np.arange(len(inner))
    parents = node_of_edge[above[inner]]
    depths = np.ones(len(inner), dtype=np.int64)
    for node, parent in enumerate(parents):
        if parent >= 0:
            depths[node] = depths[parent] + 1
    return OptionTrie(
        tokens=tokens[inner],
        parents=parents,
        depths=depths,
        edge_nodes=node_of_edge[above],
        edge_tokens=tokens,
        paths=np.array(paths, dtype=np.int64),
        lengths=np.array([len(option) for option in options], dtype=np.int64),
    )
