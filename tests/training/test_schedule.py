from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilp_service.training.schedule import exposures, in_blocks, micro_batches, pass_ends, shuffled

SCHEDULES = st.lists(st.lists(st.integers(0, 30), max_size=40), max_size=5)


@settings(max_examples=200, deadline=None)
@given(SCHEDULES, st.integers(1, 8), st.integers(1, 4))
def test_batches_are_the_schedule_in_its_order(schedule: list[list[int]], size: int, accumulation: int) -> None:
    batches = micro_batches(schedule, size, accumulation)
    assert list(chain.from_iterable(batches)) == list(chain.from_iterable(schedule))
    assert all(batches)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=40), max_size=5), st.integers(1, 8), st.integers(1, 4)
)
def test_no_optimizer_step_reaches_over_the_end_of_a_pass(
    schedule: list[list[int]], size: int, accumulation: int
) -> None:
    marked = [[(number, row) for row in rows] for number, rows in enumerate(schedule)]
    flat = list(chain.from_iterable(marked))
    batches = micro_batches(
        [[index for index in range(len(flat)) if flat[index][0] == number] for number in range(len(marked))],
        size,
        accumulation,
    )
    assert len(batches) % accumulation == 0
    for start in range(0, len(batches), accumulation):
        step = list(chain.from_iterable(batches[start : start + accumulation]))
        assert len({flat[index][0] for index in step}) == 1
        assert len(step) < size * accumulation + accumulation


def test_plain_batches_have_the_asked_size() -> None:
    assert micro_batches([list(range(10)), [7, 7, 7]], 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [7, 7, 7]]


def test_blocks_follow_one_another_and_shuffling_stays_inside() -> None:
    subsets = ["a", "a", "b", "a", "b"]
    assert in_blocks(subsets, 2, None) == [[0, 1, 3], [0, 1, 3], [2, 4], [2, 4]]
    mixed = in_blocks(subsets * 10, 2, 5)
    assert [sorted(part) for part in mixed] == [sorted(part) for part in in_blocks(subsets * 10, 2, None)]
    assert mixed[0] != sorted(mixed[0])


def test_shuffled_passes_hold_every_row_once_and_repeat_with_the_seed() -> None:
    passes = shuffled(50, 3, 1)
    assert all(sorted(part) == list(range(50)) for part in passes)
    assert passes[0] != passes[1]
    assert passes == shuffled(50, 3, 1)
    assert passes != shuffled(50, 3, 2)


@pytest.mark.parametrize("schedule", [[], [[0, 1], [1]]])
def test_exposures_count_every_mention(schedule: list[list[int]]) -> None:
    assert exposures(schedule, 3) == ([0, 0, 0] if not schedule else [1, 2, 0])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=40), max_size=5), st.integers(1, 8), st.integers(1, 4)
)
def test_the_ends_of_passes_are_where_batches_stop(schedule: list[list[int]], size: int, accumulation: int) -> None:
    ends = pass_ends(schedule, size, accumulation)
    batches = micro_batches(schedule, size, accumulation)
    done = 0
    for rows, end in zip(schedule, ends, strict=True):
        done += len(rows)
        assert sum(map(len, batches[: end * accumulation])) == done
