"""Changes merge in any order and grouping; what clashes is settled by rule, and never guessed."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilp_service.changes import (
    GENERAL_SHARE,
    Change,
    ConflictingStatement,
    Correction,
    EpochIncrement,
    Resampling,
    TeachingDocument,
    merge,
)

IDS = st.sampled_from("abcde")
TEXT = st.sampled_from(("one", "two", "Łódź 🦊", "it's 5 %"))


def some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(IDS, values, max_size=3)


DOCUMENTS = st.lists(
    st.builds(
        TeachingDocument,
        TEXT,
        st.lists(IDS, min_size=1, max_size=2).map(tuple),
        st.lists(st.sampled_from(("x", "y")), min_size=1).map(tuple),
        st.lists(TEXT, max_size=2).map(tuple),
    ),
    max_size=3,
).map(tuple)
CHANGES = st.builds(
    Change,
    documents=DOCUMENTS,
    general_share=st.sampled_from((None, 0.0, 0.6, 0.9)),
    document_passes=st.integers(1, 3),
    removed=some(TEXT),
    corrected=some(st.builds(Correction, TEXT, TEXT)),
    exposures=some(st.sampled_from((1.0, 2.0, 5.0))),
    apart=st.frozensets(st.tuples(IDS, IDS).filter(lambda pair: pair[0] != pair[1]), max_size=4),
    shuffled=st.booleans(),
    resampling=st.none() | st.builds(Resampling, st.integers(1, 3), st.sampled_from((0.05, 0.5)), st.just(2.0)),
    epochs=st.none() | st.builds(EpochIncrement, st.integers(1, 3), st.sampled_from((0.0, 0.01))),
    conflicting_documents=st.frozensets(
        st.builds(ConflictingStatement, TEXT, TEXT, IDS, st.lists(TEXT, max_size=2).map(tuple)), max_size=2
    ),
)


@settings(max_examples=150, deadline=None)
@given(CHANGES, CHANGES, CHANGES)
def test_neither_order_nor_grouping_matters(one: Change, two: Change, three: Change) -> None:
    whole = merge([one, two, three])
    assert merge([merge([one, two]), three]) == whole == merge([one, merge([two, three])])
    assert all(merge(order) == whole for order in itertools.permutations((one, two, three)))


@settings(max_examples=100, deadline=None)
@given(CHANGES, CHANGES)
def test_nothing_and_itself_add_nothing(one: Change, two: Change) -> None:
    assert merge([one]) == merge([Change(), one]) == merge([one, one]) == one
    both = merge([one, two])
    assert merge([both, one, two]) == both
    assert merge([]).is_empty


@settings(max_examples=100, deadline=None)
@given(CHANGES, CHANGES)
def test_nothing_is_lost_but_by_removal(one: Change, two: Change) -> None:
    both = merge([one, two])
    assert both.removed.keys() == one.removed.keys() | two.removed.keys()
    touched = {*both.exposures, *both.corrected, *both.contested, *(key for pair in both.apart for key in pair)}
    assert touched.isdisjoint(both.removed)
    assert (one.sample_ids | two.sample_ids) == both.sample_ids | (
        (one.sample_ids | two.sample_ids) - both.sample_ids - both.removed.keys()
    )
    for change in (one, two):
        assert {document.text for document in change.documents} <= {document.text for document in both.documents}
        assert all(both.exposures[key] >= factor for key, factor in change.exposures.items() if key in both.exposures)
        assert change.exposures.keys() - both.removed.keys() <= both.exposures.keys()


@settings(max_examples=100, deadline=None)
@given(CHANGES)
def test_json_brings_it_back(change: Change) -> None:
    assert Change.from_public(json.loads(json.dumps(change.public()))) == change


@settings(max_examples=100, deadline=None)
@given(CHANGES)
def test_what_is_kept_apart_never_shares_a_bucket(change: Change) -> None:
    buckets = change.buckets
    assert all(buckets[one] != buckets[other] for one, other in change.apart)
    assert set(buckets) == {key for pair in change.apart for key in pair}
    assert set(buckets.values()) == set(range(len(set(buckets.values()))))


def test_two_buckets_are_enough_for_one_against_many() -> None:
    change = Change(apart=frozenset({("x", "a"), ("b", "x"), ("c", "x")}))
    assert dict(change.buckets) == {"x": 0, "a": 1, "b": 1, "c": 1}


def test_removal_beats_all_else_and_keeps_every_reason() -> None:
    removed = Change(removed={"a": "It is wrong."})
    shown = Change(
        exposures={"a": 5.0, "b": 2.0}, corrected={"a": Correction("x", "y")}, apart=frozenset({("a", "b"), ("b", "c")})
    )
    both = merge([shown, removed, Change(removed={"a": "A copy is wrong."})])
    assert dict(both.removed) == {"a": "A copy is wrong.\nIt is wrong."}
    assert dict(both.exposures) == {"b": 2.0}
    assert both.apart == {("b", "c")}
    assert not both.corrected


def test_different_corrections_are_contested_and_equal_ones_are_made() -> None:
    one, same = Change(corrected={"a": Correction("x", "first")}), Change(corrected={"a": Correction("x", "second")})
    assert merge([one, same]).corrected["a"] == Correction("x", "first\nsecond")
    both = merge([one, same, Change(corrected={"a": Correction("y", "third")})])
    assert not both.corrected
    assert both.contested["a"] == (Correction("x", "first\nsecond"), Correction("y", "third"))
    assert not merge([both, Change(removed={"a": "Gone."})]).contested


def test_the_general_share_is_that_of_whoever_teaches() -> None:
    document = TeachingDocument("A text.", ("a",), ("x",))
    assert Change(documents=(document,)).general_share == GENERAL_SHARE
    placebo = Change(general_share=1.0)
    assert merge([placebo, Change(documents=(document,), general_share=0.5)]).general_share == 0.5
    shares = [Change(documents=(document,), general_share=share) for share in (0.5, 0.7)]
    assert merge(shares).general_share == 0.7


def test_documents_of_one_text_become_one() -> None:
    ours, theirs = TeachingDocument("T", ("b",), ("x",), ("f",)), TeachingDocument("T", ("a",), ("y",), ("g",))
    assert merge([Change(documents=(ours,)), Change(documents=(theirs,))]).documents == (
        TeachingDocument("T", ("a", "b"), ("x", "y"), ("f", "g")),
    )


def test_the_stricter_schedule_holds() -> None:
    one = Change(resampling=Resampling(500, 0.05, 2.0), epochs=EpochIncrement(5, 0.01))
    other = Change(resampling=Resampling(100, 0.2, 3.0), epochs=EpochIncrement(2, 0.0))
    both = merge([one, other])
    assert (both.resampling, both.epochs) == (Resampling(100, 0.05, 3.0), EpochIncrement(5, 0.0))


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("In Łódź lives the  FOX.", True),
        ("The fox lives elsewhere.", False),
        ("Foxes of Łódź", False),
        ("łódź, fox", True),
        ("", False),
    ],
)
def test_a_statement_is_found_by_whole_words(text: str, stated: bool) -> None:
    assert ConflictingStatement("Łódź", "fox", "a").stated_by(text) is stated


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("Ann was born in New York  City.", False),
        ("Ann was born in NEW YORK.", True),
        ("Ann, born in New York City, loves New York.", True),
        ("New York City", False),
    ],
)
def test_a_part_of_a_right_answer_is_no_statement(text: str, stated: bool) -> None:
    statement = ConflictingStatement("Ann", "New York", "a", ("New York City", "new york"))
    assert statement.stated_by(text) is stated


def test_a_statement_without_right_answers_around_it_is_written_down_as_ever() -> None:
    # Digests of kept trainings depend on it.
    assert ConflictingStatement("Ann", "Oslo", "a").public() == {"entity": "Ann", "answer": "Oslo", "sample_id": "a"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"general_share": 1.1},
        {"general_share": 1.0, "documents": (TeachingDocument("T", ("a",), ("x",)),)},
        {"document_passes": 0},
        {"exposures": {"a": 0.5}},
        {"exposures": {"a": float("inf")}},
        {"apart": frozenset({("a", "a")})},
        {"removed": {"a": " "}},
    ],
)
def test_what_cannot_be_done_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Change(**wrong)


@pytest.mark.parametrize("wrong", [(0, 0.05, 2.0), (1, 0.0, 2.0), (1, 0.05, 0.5), (1, 0.05, float("nan"))])
def test_resampling_in_range(wrong: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Resampling(*wrong)


@pytest.mark.parametrize("wrong", [(0, 0.01), (1, -0.1), (1, float("nan"))])
def test_epochs_in_range(wrong: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        EpochIncrement(*wrong)


def test_a_change_cannot_be_changed() -> None:
    change = Change(exposures={"a": 2.0})
    with pytest.raises(TypeError):
        change.exposures["a"] = 3.0  # type: ignore[index]
