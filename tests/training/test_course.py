from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilp_service.changes import Change, Correction, EpochIncrement, Resampling, TeachingDocument, merge
from ilp_service.training.course import Course, changed, lengthened
from ilp_service.training.schedule import micro_batches

KEYS = [f"s{number:02d}" for number in range(16)]
SUBSETS = {key: "odd" if number % 2 else "even" for number, key in enumerate(KEYS)}
COURSES = st.lists(st.lists(st.sampled_from(KEYS), max_size=24), max_size=5).map(
    lambda passes: Course(tuple(tuple(ids) for ids in passes))
)
FACTORS = st.dictionaries(st.sampled_from(KEYS), st.floats(1, 9), max_size=8)
PAIRS = st.sets(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS)).filter(lambda pair: pair[0] != pair[1]), max_size=8
)
REMOVED = st.dictionaries(st.sampled_from(KEYS), st.just("Wrong."), max_size=6)
CHANGES = st.builds(Change, removed=REMOVED, exposures=FACTORS, apart=PAIRS.map(frozenset), shuffled=st.booleans())


def otherwise(course: Course, change: Change, seed: int = 0, step_rows: int = 4, accumulation: int = 1) -> Course:
    return changed(course, change, subsets=SUBSETS, step_rows=step_rows, seed=seed, accumulation=accumulation)


def steps(course: Course, batch_size: int, accumulation: int = 1) -> list[list[str]]:
    flat = list(chain.from_iterable(course.passes))
    numbers = iter(range(len(flat)))
    schedule = [[next(numbers) for _ in ids] for ids in course.passes]
    batches = micro_batches(schedule, batch_size, accumulation)
    return [
        [flat[row] for batch in batches[start : start + accumulation] for row in batch]
        for start in range(0, len(batches), accumulation)
    ]


@given(COURSES, st.integers(0, 99))
def test_what_does_not_touch_the_course_leaves_it_as_it_is(course: Course, seed: int) -> None:
    change = Change(
        documents=(TeachingDocument("Oslo lies north.", (KEYS[0],), ("missing_knowledge",)),),
        corrected={KEYS[1]: Correction("Rome", "Judged so.")},
        removed={"absent": "Not in it."},
        exposures={"elsewhere": 4.0},
        apart=frozenset({("here", "there")}),
        resampling=Resampling(5, 0.1, 2.0),
        epochs=EpochIncrement(2, 0.01),
    )
    assert otherwise(course, change, seed) == course
    assert otherwise(course, Change(), seed) == course


@given(COURSES, CHANGES, st.integers(0, 99))
def test_exposures_are_exact_and_what_is_removed_never_appears(course: Course, change: Change, seed: int) -> None:
    shown = course.exposures
    expected = {
        key: round(count * change.exposures.get(key, 1.0)) for key, count in shown.items() if key not in change.removed
    }
    assert otherwise(course, change, seed).exposures == expected


@given(COURSES, FACTORS, st.integers(0, 99))
def test_further_exposures_stay_in_the_passes_of_their_subset_and_leave_the_order(
    course: Course, factors: dict[str, float], seed: int
) -> None:
    result = otherwise(course, Change(exposures=factors), seed)
    for before, after in zip(course.passes, result.passes, strict=True):
        assert {SUBSETS[key] for key in after} == {SUBSETS[key] for key in before}
        rest = iter(after)
        assert all(key in rest for key in before), "the old rows are no subsequence any more"
        assert [key for key in after if key not in factors] == [key for key in before if key not in factors]


def test_further_exposures_are_spread_evenly_over_the_passes() -> None:
    course = Course((("s00", "s02"), ("s02",), ("s01",), ("s02", "s04")))
    result = otherwise(course, Change(exposures={"s00": 6.0}))
    assert [ids.count("s00") for ids in result.passes] == [2, 2, 0, 2]


@given(COURSES, CHANGES, st.integers(0, 99))
def test_shuffling_permutes_all_passes_together(course: Course, change: Change, seed: int) -> None:
    ordered = otherwise(course, Change(removed=change.removed, exposures=change.exposures), seed)
    mixed = otherwise(course, Change(removed=change.removed, exposures=change.exposures, shuffled=True), seed)
    assert mixed.exposures == ordered.exposures
    assert [len(ids) for ids in mixed.passes] == [len(ids) for ids in ordered.passes]


def test_shuffling_brings_subsets_together() -> None:
    course = Course((("s00",) * 50, ("s01",) * 50))
    counts = [Counter(ids)["s00"] for ids in otherwise(course, Change(shuffled=True)).passes]
    assert sum(counts) == 50
    assert 15 < counts[0] < 35


@given(COURSES, CHANGES, st.integers(0, 99))
def test_the_same_seed_gives_the_same_course(course: Course, change: Change, seed: int) -> None:
    assert otherwise(course, change, seed) == otherwise(course, change, seed)
    assert otherwise(course, merge([change, change]), seed) == otherwise(course, change, seed)


@given(COURSES, CHANGES, CHANGES, st.integers(0, 99))
def test_merged_changes_do_what_both_do_in_either_order(course: Course, one: Change, other: Change, seed: int) -> None:
    merged = otherwise(course, merge([one, other]), seed)
    assert merged == otherwise(course, merge([other, one]), seed)
    removed = {*one.removed, *other.removed}
    factors = {key: max(one.exposures.get(key, 1.0), other.exposures.get(key, 1.0)) for key in course.exposures}
    expected = {key: round(n * factors[key]) for key, n in course.exposures.items() if key not in removed}
    assert merged.exposures == expected


def fits(counts: list[int], sizes: list[int]) -> bool:
    """Whether every bucket can have steps of its own that hold all its rows, by trying everything."""
    if not counts:
        return True
    head, rest = counts[0], counts[1:]
    for chosen in range(1 << len(sizes)):
        mine = [size for place, size in enumerate(sizes) if chosen >> place & 1]
        others = [size for place, size in enumerate(sizes) if not chosen >> place & 1]
        if sum(mine) >= head and fits(rest, others):
            return True
    return False


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(KEYS), max_size=24),
    PAIRS,
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_no_step_holds_two_buckets_where_that_is_possible_at_all(
    ids: list[str], pairs: set[tuple[str, str]], batch_size: int, accumulation: int, seed: int
) -> None:
    change = Change(apart=frozenset(pairs))
    course = Course((tuple(ids),))
    result = otherwise(course, change, seed, batch_size * accumulation, accumulation)
    assert [Counter(part) for part in result.passes] == [Counter(part) for part in course.passes]
    counts = Counter(change.buckets[key] for key in ids if key in change.buckets)
    made = steps(result, batch_size, accumulation)

    def mixed(step: list[str]) -> bool:
        return len({change.buckets[key] for key in step if key in change.buckets}) > 1

    if len(made) <= 8 and fits(sorted(counts.values(), reverse=True), [len(step) for step in made]):
        assert not any(mixed(step) for step in made)
    if not any(mixed(step) for step in steps(course, batch_size, accumulation)):
        assert result == course


def test_pairs_are_kept_apart_even_where_there_are_more_buckets_than_steps() -> None:
    # s00-s01-s02 are all against one another, s03 is against s00 alone: three buckets, two steps.
    pairs = frozenset({("s00", "s01"), ("s00", "s03")})
    result = otherwise(Course((("s00", "s01", "s03", "s05", "s00", "s07"),)), Change(apart=pairs), step_rows=3)
    for step in steps(result, 3):
        assert not ("s00" in step and {"s01", "s03"} & set(step))


def test_a_bucket_is_spread_over_its_steps() -> None:
    pairs = frozenset({("s00", "s01")})
    rows = ("s00", "s01") * 8 + ("s05",) * 48
    result = otherwise(Course((rows,)), Change(apart=pairs), step_rows=8)
    made = [Counter(step) for step in steps(result, 8)]
    assert max(count["s00"] for count in made) == 2
    assert not any(count["s00"] and count["s01"] for count in made)


@given(COURSES, FACTORS, st.booleans(), st.integers(1, 3), st.integers(0, 99))
def test_further_passes_draw_as_often_as_the_passes_before(
    course: Course, factors: dict[str, float], shuffled: bool, passes: int, seed: int
) -> None:
    change = Change(exposures=factors, shuffled=shuffled)
    result = lengthened(course, change, passes, subsets=SUBSETS, step_rows=4, seed=seed)
    assert result.passes[: len(course.passes)] == otherwise(course, change, seed).passes
    added = Counter(chain.from_iterable(result.passes[len(course.passes) :]))
    own = {
        subset: sum(any(SUBSETS[key] == subset for key in ids) for ids in course.passes) for subset in ("odd", "even")
    }
    for key, count in otherwise(course, change, seed).exposures.items():
        assert added[key] == pytest.approx(passes * count / own[SUBSETS[key]], abs=1)
    assert len(result.passes) == len(course.passes) + passes


def test_a_further_pass_after_blocks_holds_all_data_once() -> None:
    course = Course((("s00", "s02"), ("s02", "s00"), ("s01", "s03"), ("s03", "s01")))
    for shuffled in (False, True):
        result = lengthened(course, Change(shuffled=shuffled), 3, subsets=SUBSETS, step_rows=2, seed=1)
        assert [sorted(ids) for ids in result.passes[4:]] == [["s00", "s01", "s02", "s03"]] * 3
