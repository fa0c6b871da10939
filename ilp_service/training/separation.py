"""Rows that contradict one another never share an optimizer step, where the steps of a pass allow it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)


def step_sizes(rows: int, step_rows: int, accumulation: int = 1) -> list[int]:
    """Rows of each optimizer step of a pass, as :func:`ilp_service.training.schedule.micro_batches` cuts it.

    Args:
        rows: Rows of the pass.
        step_rows: Rows of a full optimizer step.
        accumulation: Forward passes a step; fewer rows than that at the end of a pass join the step before.
    """
    whole, rest = divmod(rows, step_rows)
    sizes = [step_rows] * whole
    if rest and whole and rest < accumulation:
        sizes[-1] += rest
    elif rest:
        sizes.append(rest)
    return sizes


@dataclass(frozen=True)
class Contradictions(Generic[Key]):
    """What is to be kept apart.

    Attributes:
        buckets: Bucket of each key that contradicts another; keys without one go with any.
        pairs: Those that contradict one another. Buckets are a colouring of them.
    """

    buckets: Mapping[Key, int]
    pairs: Iterable[tuple[Key, Key]]

    def mixed(self, rows: Sequence[Key]) -> bool:
        """Whether rows of one step lie in two buckets."""
        return len({self.buckets[row] for row in rows if row in self.buckets}) > 1


def keep_apart(
    rows: Sequence[Key], sizes: Sequence[int], against: Contradictions[Key], generator: np.random.Generator
) -> list[Key]:
    """Reorder the rows of a pass so that no step holds two buckets; a pass that does so already stays as it is.

    Every bucket gets as many steps as its share of the bucketed rows gives it, at random, and spreads evenly over
    them; the rows without a bucket fill what is left and keep their order. Where there are more buckets than steps
    can hold apart, at least as few contradicting pairs as a greedy placement finds share a step.

    Args:
        rows: The pass.
        sizes: Rows of each of its steps, all but the last of one size.
        against: What is to be kept apart.
        generator: Chooses which steps are whose.
    """
    if not any(against.mixed(part) for part in cut(rows, sizes)):
        return list(rows)
    members: dict[int, list[Key]] = defaultdict(list)
    free: list[Key] = []
    for row in rows:
        bucket = against.buckets.get(row)
        (free if bucket is None else members[bucket]).append(row)
    owners = _owners(sizes, {bucket: len(members[bucket]) for bucket in sorted(members)}, generator)
    if owners is None:
        steps = _least_mixed(members, sizes, against)
    else:
        steps = [[] for _ in sizes]
        for bucket, own in members.items():
            numbers = [number for number, owner in enumerate(owners) if owner == bucket]
            shares = _even_shares(len(own), [sizes[number] for number in numbers])
            for number, part in zip(numbers, cut(own, shares), strict=True):
                steps[number] = list(part)
    filling = iter(free)
    for step, size in zip(steps, sizes, strict=True):
        step.extend(next(filling) for _ in range(size - len(step)))
    return [row for step in steps for row in step]


def cut(rows: Sequence[Key], sizes: Sequence[int]) -> Iterator[Sequence[Key]]:
    """The rows in consecutive parts of the given sizes."""
    start = 0
    for size in sizes:
        yield rows[start : start + size]
        start += size


def _owners(sizes: Sequence[int], counts: Mapping[int, int], generator: np.random.Generator) -> list[int | None] | None:
    """The bucket that each step is for, ``None`` where it is for none; ``None`` if the steps are too few."""
    full, last, others = sizes[0], sizes[-1], len(sizes) - 1
    need = {bucket: -(-count // full) for bucket, count in counts.items()}
    # The last step is of another size, so whose it is can decide whether there are enough.
    saved = {bucket: need[bucket] - -(-max(0, count - last) // full) for bucket, count in counts.items()}
    owner = max(saved, key=lambda bucket: saved[bucket])
    need[owner] -= saved[owner]
    if sum(need.values()) > others:
        return None
    given = dict(need)
    for _ in range(others - sum(need.values())):
        wanting = [bucket for bucket, count in counts.items() if given[bucket] + (bucket == owner) < count]
        if not wanting:
            break
        given[max(wanting, key=lambda bucket: counts[bucket] / (given[bucket] + (bucket == owner) + 1))] += 1
    labels: list[int | None] = [bucket for bucket, steps in given.items() for _ in range(steps)]
    labels += [None] * (others - len(labels))
    return [*(labels[place] for place in generator.permutation(others)), owner]


def _even_shares(count: int, rooms: Sequence[int]) -> list[int]:
    """``count`` rows over steps with so much room each, as evenly as they fit."""
    steps = len(rooms)
    shares = [min(room, count * (place + 1) // steps - count * place // steps) for place, room in enumerate(rooms)]
    left = count - sum(shares)
    for place, room in enumerate(rooms):
        more = min(left, room - shares[place])
        shares[place] += more
        left -= more
    return shares


def _least_mixed(
    members: Mapping[int, Sequence[Key]], sizes: Sequence[int], against: Contradictions[Key]
) -> list[list[Key]]:
    """Each row in the step with the fewest rows that contradict it, among those the one with most room."""
    foes: dict[Key, set[Key]] = defaultdict(set)
    for one, other in against.pairs:
        foes[one].add(other)
        foes[other].add(one)
    steps: list[list[Key]] = [[] for _ in sizes]
    for bucket in sorted(members, key=lambda number: (-len(members[number]), number)):
        for row in members[bucket]:
            open_steps = [number for number, size in enumerate(sizes) if len(steps[number]) < size]
            best = min(
                open_steps,
                key=lambda number: (
                    sum(other in foes[row] for other in steps[number]),
                    len(steps[number]) - sizes[number],
                    number,
                ),
            )
            steps[best].append(row)
    return steps
