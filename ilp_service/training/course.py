"""Which samples a fine-tuning trains on, in which order, and the same otherwise: a course and its changes."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ilp_service.changes import Change
from ilp_service.training.separation import Contradictions, cut, keep_apart, step_sizes

# Streams of random numbers, so that one change never moves what another draws.
_MORE, _TOGETHER, _APART, _FURTHER = range(4)


@dataclass(frozen=True, slots=True)
class Course:
    """What a fine-tuning trains on.

    Attributes:
        passes: Sample ids, pass after pass; no optimizer step reaches over the end of a pass.
    """

    passes: tuple[tuple[str, ...], ...]

    @property
    def exposures(self) -> Mapping[str, int]:
        """How often each sample is trained on."""
        return Counter(key for ids in self.passes for key in ids)


def changed(
    course: Course,
    change: Change,
    *,
    subsets: Mapping[str, str],
    step_rows: int,
    seed: int,
    accumulation: int = 1,
) -> Course:
    """The course with what a change does to it, in this order; what is not named here does not touch the course.

    - ``removed``: its rows go; a pass may become empty.
    - ``exposures``: a sample with n exposures gets ``round(n * factor)``, so one with none gets none. The further
      ones go where it is rarest among the passes in which its subset is trained, to random places.
    - ``shuffled``: all appearances in all passes are permuted together; number and sizes of the passes stay.
    - ``apart``: each pass is reordered so that no optimizer step holds two buckets, where that is possible.

    Args:
        course: As it was.
        change: What is to be otherwise.
        subsets: Subset of each sample of the course.
        step_rows: Rows of a full optimizer step.
        seed: Of what is drawn, 0 or more.
        accumulation: Forward passes an optimizer step.
    """
    passes: Sequence[Sequence[str]] = course.passes
    if change.removed:
        passes = [[key for key in ids if key not in change.removed] for ids in passes]
    if change.exposures:
        passes = _more(passes, change.exposures, subsets, np.random.default_rng([seed, _MORE]))
    if change.shuffled:
        flat = [key for ids in passes for key in ids]
        order = np.random.default_rng([seed, _TOGETHER]).permutation(len(flat))
        passes = list(cut([flat[place] for place in order], [len(ids) for ids in passes]))
    done = Course(tuple(tuple(ids) for ids in passes))
    return kept_apart(done, change, step_rows=step_rows, seed=seed, accumulation=accumulation)


def kept_apart(course: Course, change: Change, *, step_rows: int, seed: int, accumulation: int = 1) -> Course:
    """The course with ``apart`` alone done to it; see :func:`changed`."""
    if not change.apart:
        return course
    against = Contradictions(change.buckets, change.apart)
    generator = np.random.default_rng([seed, _APART])
    return Course(
        tuple(
            tuple(keep_apart(ids, step_sizes(len(ids), step_rows, accumulation), against, generator))
            for ids in course.passes
        )
    )


def lengthened(
    course: Course,
    change: Change,
    passes: int,
    *,
    subsets: Mapping[str, str],
    step_rows: int,
    seed: int,
    accumulation: int = 1,
) -> Course:
    """The changed course and further passes over all data, each in a random order of its own.

    A further pass draws each sample as often as the passes in which its subset is trained do on average after
    ``exposures``; of a sample that they draw half the time, every other further pass has one.
    """

    def otherwise(shuffled: bool) -> Course:
        loose = replace(change, apart=frozenset(), shuffled=shuffled)
        return changed(course, loose, subsets=subsets, step_rows=step_rows, seed=seed)

    counted = otherwise(shuffled=False)
    where = _trained_in(counted.passes, subsets)
    generator = np.random.default_rng([seed, _FURTHER])
    rates = {key: count / len(where[subsets[key]]) for key, count in sorted(counted.exposures.items())}
    starts = dict(zip(rates, generator.random(len(rates)), strict=True))
    further = []
    for number in range(passes):
        drawn = [
            key
            for key, rate in rates.items()
            for _ in range(_whole(starts[key] + rate * (number + 1)) - _whole(starts[key] + rate * number))
        ]
        further.append(tuple(drawn[place] for place in generator.permutation(len(drawn))))
    longer = Course((*otherwise(change.shuffled).passes, *further))
    return kept_apart(longer, change, step_rows=step_rows, seed=seed, accumulation=accumulation)


def _whole(value: float) -> int:
    # Sums of thirds and the like must not fall short of a whole number by a rounding error.
    return int(value + 1e-9)


def _trained_in(passes: Sequence[Sequence[str]], subsets: Mapping[str, str]) -> dict[str, list[int]]:
    """Numbers of the passes in which each subset is trained."""
    where: dict[str, list[int]] = defaultdict(list)
    for number, ids in enumerate(passes):
        for subset in dict.fromkeys(subsets[key] for key in ids):
            where[subset].append(number)
    return where


def _more(
    passes: Sequence[Sequence[str]],
    factors: Mapping[str, float],
    subsets: Mapping[str, str],
    generator: np.random.Generator,
) -> list[list[str]]:
    where = _trained_in(passes, subsets)
    counts = [Counter(ids) for ids in passes]
    added: list[list[str]] = [[] for _ in passes]
    for key, factor in sorted(factors.items()):
        shown = sum(count[key] for count in counts)
        if not shown:
            continue
        numbers = where[subsets[key]]
        rarest = [
            (counts[number][key], place, number)
            for place, number in zip(generator.permutation(len(numbers)).tolist(), numbers, strict=True)
        ]
        heapq.heapify(rarest)
        for _ in range(round(shown * factor) - shown):
            count, place, number = rarest[0]
            added[number].append(key)
            heapq.heapreplace(rarest, (count + 1, place, number))
    return [_woven(ids, more, generator) for ids, more in zip(passes, added, strict=True)]


def _woven(ids: Sequence[str], more: Sequence[str], generator: np.random.Generator) -> list[str]:
    """``more`` at random places among ``ids``, whose order stays."""
    if not more:
        return list(ids)
    whole = len(ids) + len(more)
    places = dict(zip(generator.choice(whole, size=len(more), replace=False).tolist(), more, strict=True))
    old = iter(ids)
    return [places[place] if place in places else next(old) for place in range(whole)]
