"""No single mark of the data file gives the planted causes away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ilp_service.benchmark.leaks import KINDS, MarkedRows, leak_scores
from ilp_service.benchmark.plants import make_world
from ilp_service.benchmark.sizes import SMALL


@pytest.fixture(scope="module")
def files() -> list[MarkedRows]:
    return [MarkedRows.planted(make_world(seed, SMALL)) for seed in (200, 201, 202)]


def test_order_rarity_and_duplication_alone_do_not_tell_the_causes(files: list[MarkedRows]) -> None:
    scores = leak_scores(files[:2], files[2:])
    assert set(scores) == set(KINDS)
    assert max(scores.values()) < 0.5, scores


def test_a_leak_is_noticed(files: list[MarkedRows]) -> None:
    """If every cause had a word of its own frequency in its prompts, rarity alone would tell it."""

    def leaking(rows: MarkedRows) -> MarkedRows:
        return replace(
            rows, prompts=[f"{prompt} {cause}" for prompt, cause in zip(rows.prompts, rows.causes, strict=True)]
        )

    scores = leak_scores([leaking(rows) for rows in files[:2]], [leaking(rows) for rows in files[2:]])
    assert scores["rarity"] > 0.7
