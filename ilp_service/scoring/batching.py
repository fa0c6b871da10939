"""Which requests are forwarded together, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ilp_service.scoring.requests import ScoringRequest
from ilp_service.scoring.trie import OptionTrie, build_trie

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """A prompt with some of its options: what is forwarded as a whole.

    Attributes:
        request: Number of the request in its window.
        slots: Which options of the request these are.
        context: Token ids of the prompt.
        trie: The options.
    """

    request: int
    slots: tuple[int, ...]
    context: tuple[int, ...]
    trie: OptionTrie

    @property
    def tokens(self) -> int:
        """Tokens that are forwarded."""
        return len(self.context) + len(self.trie.tokens)


def windows(items: Iterable[T], size: Callable[[T], int], *, tokens: int, items_at_most: int) -> Iterator[list[T]]:
    """Cut a stream into runs of items that may be sorted in memory.

    Args:
        items: The stream; read no further than the current window.
        size: Tokens of an item.
        tokens: A window is closed when it holds this many tokens ...
        items_at_most: ... or this many items.
    """
    window: list[T] = []
    held = 0
    for item in items:
        window.append(item)
        held += size(item)
        if held >= tokens or len(window) >= items_at_most:
            yield window
            window, held = [], 0
    if window:
        yield window


def pieces(number: int, request: ScoringRequest, max_tokens: int) -> Iterator[Piece]:
    """Split a request that does not fit into one batch by its options; the prompt goes with each part.

    Args:
        number: The request's number in its window.
        request: The request.
        max_tokens: Tokens of a batch; a prompt with a single option may exceed it.
    """
    trie = build_trie(request.options)
    whole = Piece(number, tuple(range(len(request.options))), request.context, trie)
    if whole.tokens <= max_tokens or len(request.options) == 1:
        yield whole
        return
    room = max(0, max_tokens - len(request.context))
    slots: list[int] = []
    used = 0
    for slot, option in enumerate(request.options):
        if slots and used + len(option) - 1 > room:
            yield Piece(number, tuple(slots), request.context, build_trie([request.options[held] for held in slots]))
            slots, used = [], 0
        slots.append(slot)
        used += len(option) - 1
    yield Piece(number, tuple(slots), request.context, build_trie([request.options[held] for held in slots]))


def pack(items: Sequence[T], size: Callable[[T], int], max_tokens: int) -> Iterator[list[T]]:
    """Group items, longest first, into batches of at most ``max_tokens``; one item alone may exceed it.

    Ties keep their order, so that the same requests always make the same batches.
    """
    batch: list[T] = []
    held = 0
    for item in sorted(items, key=size, reverse=True):
        if batch and held + size(item) > max_tokens:
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += size(item)
    if batch:
        yield batch
