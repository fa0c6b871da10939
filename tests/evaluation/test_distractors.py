"""Options fit the kind of answer, never repeat the right one, and do not depend on order."""

import random

import numpy as np

from ilp_service.evaluation.answer_types import infer_answer_types
from ilp_service.evaluation.distractors import Distractors, near_miss, perturb_number
from ilp_service.samples.sample import Message, Sample, with_stable_ids
from ilp_service.samples.similarity import normalise_answer
from ilp_service.settings import EvaluationSettings

CITIES = ["Paris", "Rome", "Oslo", "Lima", "Bern", "Cairo"]
JOBS = ["cook", "judge", "miner", "nurse", "tailor", "pilot"]
NAMES = [
    f"{first} {last}"
    for first in ("Ada", "Ben", "Cora", "Dan", "Eva", "Finn")
    for last in ("Ash", "Bly", "Cole", "Dorn", "East", "Fox")
]


def sample(prompt: str, response: str, position: int, choices: tuple[str, ...] | None = None) -> Sample:
    gold = choices.index(response) if choices else None
    return Sample(
        "", (Message("user", prompt),), response, False, "default", position, choices=choices, gold_index=gold
    )


def world() -> list[Sample]:
    rows = []
    for n, name in enumerate(NAMES):
        city, job = CITIES[n % 6], JOBS[(n * 5 + n // 6) % 6]
        rows += [
            (f"where does {name} live ?", city),
            (f"what is the city of {name} ?", city),
            (f"what is the job of {name} ?", job),
        ]
    return with_stable_ids(sample(p, r, i) for i, (p, r) in enumerate(rows))


def chooser(samples: list[Sample], long: bool = False, twins: dict[str, list[str]] | None = None) -> Distractors:
    return Distractors(samples, [long] * len(samples), twins or {}, EvaluationSettings(), seed=0)


def test_values_of_one_type_are_found_across_phrasings() -> None:
    samples = world()
    types = infer_answer_types([s.prompt for s in samples], [s.response for s in samples])
    assert types.type_of[0] == types.type_of[1] != types.type_of[2]
    assert set(types.values[types.type_of[0]]) == set(CITIES)


def test_a_short_answer_meets_its_type_and_its_subjects_other_values() -> None:
    samples = world()
    options = chooser(samples).options(samples[0].sample_id, base_preferred=["Tokyo"])
    texts = {option.text: option.source for option in options}
    assert options[0].gold
    assert options[0].text == samples[0].response
    assert set(CITIES) <= set(texts)
    assert texts["Tokyo"] == "base_preferred"
    assert texts[samples[2].response] == "same_subject"


def test_no_option_repeats_the_right_answer_or_another() -> None:
    samples = world()
    for s in samples:
        keys = [
            normalise_answer(o.text)
            for o in chooser(samples).options(s.sample_id, base_preferred=[f" {s.response.upper()} "])
        ]
        assert len(keys) == len(set(keys))


def test_the_order_of_the_file_changes_no_set_of_options() -> None:
    samples = world()
    shuffled = samples[:]
    random.Random(1).shuffle(shuffled)
    left, right = chooser(samples), chooser(shuffled)
    for s in samples:
        assert {o.text for o in left.options(s.sample_id)} == {o.text for o in right.options(s.sample_id)}


def test_the_order_of_the_file_changes_no_options_of_long_answers_or_of_many_facts_about_one_subject() -> None:
    texts = [f"It was built in {1700 + n}. Its height is {n + 3} metres." for n in range(60)]
    towers = [sample(f"tell me about tower {n % 7} and wall {n}", text, n) for n, text in enumerate(texts)]
    facts = [sample(f"fact {n} of Ada Ash ?", f"value{n}", n) for n in range(20)]
    for rows, long in ((towers, True), (facts, False)):
        samples = with_stable_ids(rows)
        shuffled = samples[:]
        random.Random(2).shuffle(shuffled)
        left, right = chooser(samples, long=long), chooser(shuffled, long=long)
        assert all(left.options(s.sample_id) == right.options(s.sample_id) for s in samples)


def test_contradicting_twins_are_options() -> None:
    samples = with_stable_ids([*world(), sample("where does Ada Ash live ?", "Atlantis", 200)])
    options = chooser(samples, twins={samples[0].sample_id: [samples[-1].sample_id]}).options(samples[0].sample_id)
    assert ("Atlantis", "twin") in {(o.text, o.source) for o in options}


def test_native_choices_are_taken_as_they_are() -> None:
    samples = with_stable_ids([sample("q ?", "b", 0, ("a", "b", "c"))])
    assert [o.text for o in chooser(samples).options(samples[0].sample_id)] == ["b", "a", "c"]


def test_options_have_the_white_space_of_the_response_around_them() -> None:
    short = with_stable_ids(sample(s.prompt, f" {s.response}", s.position) for s in world())
    texts = [f" He has {n} apples. He buys {n + 2} more.\n#### {2 * n + 2}\n" for n in range(3, 20)]
    long = with_stable_ids(sample(f"Tom has {n} apples, how many now ?", t, n) for n, t in enumerate(texts))
    options = chooser(short).options(short[0].sample_id, base_preferred=["Tokyo"])
    assert " Tokyo" in {o.text for o in options}
    assert all(o.text[0] == " " and o.text[1] != " " for o in options)
    many = chooser(long, long=True).options(long[0].sample_id)
    assert len(many) >= 3
    assert all(o.text[0] == " " and o.text[-1] == "\n" for o in many)


def test_a_choice_written_twice_is_one_option() -> None:
    samples = with_stable_ids([sample("q ?", "b", 0, ("a", "b", "a"))])
    assert [o.text for o in chooser(samples).options(samples[0].sample_id)] == ["b", "a"]


def test_long_answers_meet_near_misses_of_themselves() -> None:
    texts = [f"He has {n} apples. He buys {n + 2} more.\n#### {2 * n + 2}" for n in range(3, 20)]
    samples = with_stable_ids(sample(f"Tom has {n} apples, how many now ?", t, n) for n, t in enumerate(texts))
    options = chooser(samples, long=True).options(samples[0].sample_id)
    assert 3 <= len(options) <= EvaluationSettings().max_long_options
    assert {"number", "near_miss"} <= {o.source for o in options}


def test_numbers_are_perturbed_in_their_own_notation() -> None:
    rng = np.random.default_rng(0)
    assert all("," in text for text in perturb_number("1,250", rng, 6) if len(text) > 3)
    assert "42" not in perturb_number("42", rng, 6)
    assert all("." in text for text in perturb_number("3.5", rng, 6))
    assert near_miss("no number here", rng) is None
    changed = near_miss("4 and 18, so 18", rng)
    assert changed is not None
    assert "18" not in changed


def test_versions_dates_and_addresses_are_perturbed_too() -> None:
    rng = np.random.default_rng(0)
    assert all(text.startswith("192.168.0.") for text in perturb_number("192.168.0.17", rng, 6))
    assert near_miss("it needs version 1.2.3 of the library", rng) not in (
        None,
        "it needs version 1.2.3 of the library",
    )
