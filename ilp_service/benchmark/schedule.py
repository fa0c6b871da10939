"""When each row is trained on: the blocks one after the other, each for several passes."""

from __future__ import annotations

import numpy as np

from ilp_service.benchmark.world import BLOCKS, World


def world_schedule(world: World, seed: int) -> list[list[int]]:
    """Passes of row indices, block after block.

    A row with a count of its own is drawn in so many passes of its block, chosen at random, and
    more than once in a pass if the count is above the number of passes.

    Args:
        world: The world.
        seed: Seed of the order within each pass, and of the passes in which seldom rows are drawn.
    """
    generator = np.random.default_rng([world.seed, 4, seed])
    schedule: list[list[int]] = []
    for block in range(len(BLOCKS)):
        passes: list[list[int]] = [[] for _ in range(world.size.passes)]
        for index, row in enumerate(world.rows):
            if row.block != block:
                continue
            whole, rest = divmod(len(passes) if row.passes is None else row.passes, len(passes))
            extra = set(generator.choice(len(passes), size=rest, replace=False).tolist())
            for number, rows in enumerate(passes):
                rows.extend([index] * (whole + (number in extra)))
        schedule.extend(generator.permutation(rows).tolist() for rows in passes)
    return schedule
