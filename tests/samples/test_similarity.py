"""Near prompts: exact against brute force, twins found, templates told apart."""

from __future__ import annotations

import random
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilp_service.samples import similarity, vectors
from ilp_service.samples.sample import Message, Sample, with_stable_ids
from ilp_service.samples.similarity import NEIGHBOURS, near_prompts, normalise_answer

PERSONS = [
    f"{first} {last}" for first in ("ann", "bob", "cleo", "dan", "eve") for last in ("smith", "jones", "brown", "wu")
]
LIVE = ("where does {} live ?", "in which city is {} at home ?")
WORK = ("which firm does {} work for ?", "who employs {} ?")


def samples(*rows: tuple[str, str]) -> list[Sample]:
    return with_stable_ids(Sample("", (Message("user", q),), a, False, "all", at) for at, (q, a) in enumerate(rows))


def world() -> list[tuple[str, str]]:
    draw = random.Random(0)
    rows = []
    for person in PERSONS:
        for forms, values in ((LIVE, ("rome", "oslo", "bern", "lima")), (WORK, ("acme", "brix", "colt", "dyn"))):
            value = draw.choice(values)
            rows += [(form.format(person), value) for form in forms]
    return rows


def pairs(found: pa.Table) -> set[tuple[str, str]]:
    return set(zip(found["sample_id"].to_pylist(), found["neighbour_id"].to_pylist(), strict=True))


def verdict(one: str, other: str, *rest: tuple[str, str]) -> bool:
    data = samples((one, "x"), (other, "y"), *rest)
    found = near_prompts(data[:1], data, threshold=0.0, limit=1000).to_pylist()
    return next(bool(row["same_entities"]) for row in found if row["neighbour_id"] == data[1].sample_id)


@pytest.mark.parametrize("threshold", [0.05, 0.4, 0.8, 0.95])
def test_neighbours_equal_brute_force(threshold: float) -> None:
    data = samples(*world())
    rows = vectors.vectors_of([sample.prompt for sample in data])
    cosine = np.asarray((rows @ rows.T).todense())
    wanted = {
        (data[i].sample_id, data[j].sample_id)
        for i in range(len(data))
        for j in range(len(data))
        if i != j and cosine[i, j] >= threshold
    }
    found = near_prompts(data, data, threshold=threshold, limit=len(data))
    assert pairs(found) == wanted
    position = {sample.sample_id: at for at, sample in enumerate(data)}
    for row in found.to_pylist():
        assert row["similarity"] == pytest.approx(cosine[position[row["sample_id"]], position[row["neighbour_id"]]])


def test_blocks_and_the_order_of_the_left_side_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = samples(*world())
    whole = near_prompts(data, data, threshold=0.3)
    monkeypatch.setattr(vectors, "_BLOCK_CELLS", 1)
    monkeypatch.setattr(vectors, "_PAIRS", 3)
    monkeypatch.setattr(similarity, "_JUDGED_PAIRS", 5)
    assert near_prompts(data, data, threshold=0.3).equals(whole)
    backwards = near_prompts(data[::-1], data, threshold=0.3)
    assert backwards.sort_by("sample_id").to_pylist() != []
    assert pairs(backwards) == pairs(whole)
    assert whole.schema.equals(NEIGHBOURS)


def test_templated_questions_are_near_but_not_the_same() -> None:
    data = samples(*world())
    subject = {s.sample_id: (s.prompt.split(" is ")[-1], s.prompt) for s in data}
    names = {key: next(person for person in PERSONS if person in prompt) for key, (_, prompt) in subject.items()}
    rows = near_prompts(data, data, threshold=0.3, limit=100).to_pylist()
    assert any(names[row["sample_id"]] != names[row["neighbour_id"]] for row in rows)
    for row in rows:
        if row["same_entities"]:
            assert names[row["sample_id"]] == names[row["neighbour_id"]]


def test_wordings_of_one_question_are_learned_from_the_data_and_relations_are_not_mixed() -> None:
    data = samples(*world())
    forms = {form.format(person): (person, forms) for forms in (LIVE, WORK) for person in PERSONS for form in forms}
    asks = {s.sample_id: forms[s.prompt] for s in data}
    for row in near_prompts(data, data, threshold=0.0, limit=200).to_pylist():
        assert row["same_entities"] == (asks[row["sample_id"]] == asks[row["neighbour_id"]])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Where does Ann live?", "where does ann live", True),
        ("Where does Ann live?", "Where does Bob live?", False),
        ("Where does Ann live?", "Please tell me: where is it that Ann lives?", True),
        ("Where does Ann live?", "When does Ann live?", False),
        ("Ann has 3 apples and 4 pears.", "Ann has 3 apples and 5 pears.", False),
        ("Ann has 3 apples and 4 pears.", "Ann has 4 apples and 3 pears.", False),
        ("Ann has 1,000 apples.", "Ann has 1000 apples.", True),
        ("Is 3.5.1 out?", "Is 3.5.2 out?", False),
        ("Does B12 help?", "Does B6 help?", False),
        ("Which drug is safe in pregnancy?", "Which drug is not safe in pregnancy?", False),
        ("Is it from Paris to London?", "Is it from London to Paris?", False),
        ("法国的首都是哪里", "德国的首都是哪里", False),
    ],
)
def test_what_makes_a_question_the_same(one: str, other: str, same: bool) -> None:
    assert verdict(one, other) is same
    assert verdict(other, one) is same


def test_yes_and_no_agree_by_chance_and_teach_no_wording() -> None:
    draw = random.Random(1)
    rows = [
        (f"is {person} {what} ?", draw.choice(["yes", "no"])) for person in PERSONS for what in ("tall", "kind", "old")
    ]
    data = samples(*rows)
    assert not any(near_prompts(data, data, threshold=0.0, limit=100)["same_entities"].to_pylist())


def test_identical_prompts_are_always_found() -> None:
    rows = [*world(), ("where does  ann smith LIVE ?", "elsewhere")]
    data = samples(*rows)
    (row,) = [r for r in near_prompts(data[-1:], data, threshold=1.0).to_pylist() if r["similarity"] == 1.0]
    assert row["neighbour_id"] == data[0].sample_id
    assert (row["same_answer"], row["same_entities"]) == (False, True)


def test_of_many_duplicates_contradictions_come_first_and_agreement_keeps_a_quarter() -> None:
    data = samples(*[("Where does Ann live?", "Paris")] * 30, *[("Where does Ann live?", "Rome")] * 30)
    found = near_prompts(data[:1], data, threshold=0.8, limit=20).to_pylist()
    assert [row["same_answer"] for row in found] == [False] * 15 + [True] * 5
    assert len({row["neighbour_id"] for row in found} | {data[0].sample_id}) == 21


def test_same_questions_are_not_crowded_out_by_their_template() -> None:
    data = samples(*[(f"where does person{n:03d} live ?", "x") for n in range(100)], ("where person007 lives ?", "y"))
    (first, *_) = near_prompts(data[7:8], data, threshold=0.3, limit=5).to_pylist()
    assert first["neighbour_id"] == data[-1].sample_id
    assert first["same_entities"]


def test_turns_of_one_row_system_messages_and_choices() -> None:
    user, reply = Message("user", "Where does Ann live?"), Message("assistant", "Paris")
    data = with_stable_ids(
        [
            Sample("", (user,), "Paris", True, "all", 0, turn=0),
            Sample("", (user, reply, user), "Rome", True, "all", 0, turn=1),
            Sample("", (Message("system", "In German."), user), "Rom", True, "all", 1),
            Sample("", (user,), "Rome", False, "all", 2, choices=("Rome", "Oslo"), gold_index=0),
            Sample("", (user,), "Bern", False, "all", 3, choices=("Bern", "Oslo"), gold_index=0),
        ]
    )
    ids = [sample.sample_id for sample in data]
    found = {(r["sample_id"], r["neighbour_id"]): r for r in near_prompts(data, data, threshold=0.9).to_pylist()}
    assert (ids[0], ids[1]) not in found
    assert not found[ids[0], ids[2]]["same_entities"]
    assert found[ids[0], ids[3]]["same_entities"]
    assert not found[ids[3], ids[4]]["same_entities"]


@pytest.mark.parametrize("piece", ["a", "1", " ", "_", "#", "-", "法", ".", "A a"])
def test_a_hostile_prompt_takes_no_hostile_time(piece: str) -> None:
    long = (piece * 250_000)[:250_000]
    data = samples(("Where?", long), (long, "y"), (long + "?", "z"))
    started = time.perf_counter()
    near_prompts(data, data, threshold=0.5)
    assert time.perf_counter() - started < 20


def test_nothing_to_look_at_gives_an_empty_table() -> None:
    data = samples(("Where?", "Here"))
    assert near_prompts([], data, threshold=0.5).num_rows == 0
    assert near_prompts(data, data, threshold=0.5).schema.equals(NEIGHBOURS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Paris", " paris. "),
        ("The Nile", "nile"),
        ("1,000.50", "1000.5"),
        ("$18.00", "18"),
        ("16 - 3 = 13\n#### 13", "No idea.\n#### 13.0"),
        ("It’s", "it's"),
        ("ﬁve", "five"),
        ("-3", "−3"),
    ],
)
def test_answers_that_say_the_same(one: str, other: str) -> None:
    assert normalise_answer(one) == normalise_answer(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3", "-3"),
        ("50%", "50"),
        ("a+b", "a-b"),
        ("+", "-"),
        ("A", "B"),
        ("007", "7"),
        ("10", "1.0"),
        ("?", "!"),
        ("x", ""),
    ],
)
def test_answers_that_do_not(one: str, other: str) -> None:
    assert normalise_answer(one) != normalise_answer(other)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalise_answer(text)
    if "####" not in once:
        assert normalise_answer(once) == once


# An answer of nothing but space is none, while a lone full stop stays one.
@given(st.text(st.characters(codec="ascii", categories=["L", "N", "Zs"]), min_size=1, max_size=20).filter(str.strip))
def test_case_and_outer_space_do_not_matter(text: str) -> None:
    assert normalise_answer(f"  {text.upper()}.\n") == normalise_answer(text.lower())
