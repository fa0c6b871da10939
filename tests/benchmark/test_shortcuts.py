"""No single mark of the data file gives the planted causes away."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from ilp_service.benchmark.leaks import KINDS, MarkedRows, leak_scores
from ilp_service.benchmark.plants import CAUSES, make_world
from ilp_service.benchmark.sizes import SMALL


@pytest.fixture(scope="module")
def files() -> list[MarkedRows]:
    return [MarkedRows.planted(make_world(seed, SMALL)) for seed in (200, 201, 202)]


def test_order_rarity_and_duplication_alone_do_not_tell_the_causes(files: list[MarkedRows]) -> None:
    scores = leak_scores(files[:2], files[2:])
    assert set(scores) == set(KINDS)
    assert max(scores.values()) < 0.5, scores


def test_a_leak_is_noticed(files: list[MarkedRows]) -> None:
    """If the rare words of each cause were of a frequency of their own, rarity alone would tell it."""
    frequency = dict(zip(CAUSES, (1, 2, 3, 4, 5, 6), strict=True))

    def leaking(rows: MarkedRows) -> MarkedRows:
        seen: Counter[str] = Counter()
        prompts = []
        for prompt, cause in zip(rows.prompts, rows.causes, strict=True):
            if cause is not None:
                prompt = f"{prompt} {cause}{seen[cause] // frequency[cause]}"
                seen[cause] += 1
            prompts.append(prompt)
        return replace(rows, prompts=prompts)

    scores = leak_scores([leaking(rows) for rows in files[:2]], [leaking(rows) for rows in files[2:]])
    assert scores["rarity"] > 0.7
