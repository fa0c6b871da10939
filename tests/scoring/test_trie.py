from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ilp_service.scoring.batching import pack, pieces, windows
from ilp_service.scoring.requests import ScoringRequest
from ilp_service.scoring.trie import build_trie

OPTIONS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=1, max_size=8)


@given(OPTIONS)
def test_a_trie_spells_its_options_and_holds_no_prefix_twice(options: list[tuple[int, ...]]) -> None:
    trie = build_trie(options)
    paths = np.split(trie.paths, np.cumsum(trie.lengths)[:-1])
    assert [tuple(trie.edge_tokens[path]) for path in paths] == options
    prefixes = {option[:end] for option in options for end in range(1, len(option) + 1)}
    assert len(trie.edge_tokens) == len(prefixes)
    assert len(trie.tokens) == len({option[:end] for option in options for end in range(1, len(option))})


@given(OPTIONS)
def test_a_node_follows_exactly_its_own_prefix(options: list[tuple[int, ...]]) -> None:
    trie = build_trie(options)
    follows = trie.ancestry()
    for node in range(len(trie.tokens)):
        above = np.flatnonzero(follows[node])
        assert trie.depths[above].tolist() == list(range(1, trie.depths[node] + 1))
        assert above[-1] == node
        assert trie.parents[node] == (above[-2] if len(above) > 1 else -1)


@given(OPTIONS, st.integers(1, 12))
def test_a_split_request_keeps_every_option_once_and_fits(options: list[tuple[int, ...]], max_tokens: int) -> None:
    parts = list(pieces(0, ScoringRequest("one", (7, 7), tuple(options)), max_tokens))
    assert [slot for piece in parts for slot in piece.slots] == list(range(len(options)))
    assert all(piece.tokens <= max_tokens or len(piece.slots) == 1 or piece.tokens == 2 for piece in parts)


@given(st.lists(st.integers(1, 9)), st.integers(1, 12))
def test_packing_loses_nothing_and_respects_the_limit(sizes: list[int], limit: int) -> None:
    batches = list(pack(list(enumerate(sizes)), lambda item: item[1], limit))
    assert sorted(item for batch in batches for item in batch) == list(enumerate(sizes))
    assert all(sum(size for _, size in batch) <= limit or len(batch) == 1 for batch in batches)


def test_windows_end_at_either_limit() -> None:
    assert list(windows([3, 3, 3, 3, 3], lambda item: item, tokens=6, items_at_most=9)) == [[3, 3], [3, 3], [3]]
    assert list(windows([1, 1, 1], lambda item: item, tokens=99, items_at_most=2)) == [[1, 1], [1]]
