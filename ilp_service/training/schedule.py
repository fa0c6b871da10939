"""Which rows are trained on, in which order: a list of passes, each a list of row indices.

A pass may leave rows out or name them several times, so any order and any number of exposures can be written down.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

Schedule = Sequence[Sequence[int]]


def shuffled(rows: int, epochs: int, seed: int) -> list[list[int]]:
    """``epochs`` passes over all rows, each in a new random order."""
    generator = np.random.default_rng(seed)
    return [generator.permutation(rows).tolist() for _ in range(epochs)]


def in_blocks(subsets: Sequence[str], epochs: int, seed: int | None) -> list[list[int]]:
    """``epochs`` passes over each subset, one subset after the other in order of first appearance.

    This is the sequential training in which an early subset can be forgotten (paper, cause IV).

    Args:
        subsets: The subset of every row, in file order.
        epochs: Passes per subset.
        seed: Shuffles anew in every pass; ``None`` keeps the file order.
    """
    generator = np.random.default_rng(seed)
    blocks: dict[str, list[int]] = {}
    for index, subset in enumerate(subsets):
        blocks.setdefault(subset, []).append(index)
    return [
        list(block) if seed is None else generator.permutation(block).tolist()
        for block in blocks.values()
        for _ in range(epochs)
    ]


def micro_batches(schedule: Schedule, batch_size: int, accumulation: int = 1) -> list[list[int]]:
    """Cut a schedule into batches without changing its order.

    No batch reaches over the end of a pass. With gradient accumulation the last optimizer step of a pass is spread
    evenly over its ``accumulation`` batches, so that no step reaches over the end of a pass either, unless a pass
    has fewer rows left than batches in a step; those rows join the step before, or the next pass if there is none.
    """
    batches: list[list[int]] = []
    carried: list[int] = []
    size = batch_size * accumulation
    for rows in schedule:
        todo = [*carried, *rows]
        carried = []
        steps = [todo[start : start + size] for start in range(0, len(todo), size)]
        if steps and len(steps[-1]) < accumulation:
            rest = steps.pop()
            if steps:
                steps[-1] = steps[-1] + rest
            else:
                carried = rest
        for step in steps:
            batches.extend(_split(step, accumulation))
    if carried and batches:
        batches[-1] = batches[-1] + carried
    elif carried:
        batches = [[row] for row in carried]
    return batches


def pass_ends(schedule: Schedule, batch_size: int, accumulation: int = 1) -> list[int]:
    """How many optimizer steps are done after each pass of a schedule, as :func:`micro_batches` cuts it."""
    return [
        -(-len(micro_batches(schedule[: number + 1], batch_size, accumulation)) // accumulation)
        for number in range(len(schedule))
    ]


def exposures(schedule: Schedule, rows: int) -> list[int]:
    """How often each row is trained on over the whole schedule."""
    counts = np.zeros(rows, dtype=np.int64)
    for part in schedule:
        np.add.at(counts, np.asarray(part, dtype=np.int64), 1)
    return [int(count) for count in counts]


def _split(step: Sequence[int], parts: int) -> Iterable[list[int]]:
    """``step`` in ``parts`` pieces of nearly equal size; full pieces come first when it is full."""
    bounds = np.linspace(0, len(step), parts + 1).round().astype(int)
    return (list(step[low:high]) for low, high in pairwise(bounds))
