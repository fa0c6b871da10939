"""Solved examples for the base: learned, of the same subset, and none that gives the answer away."""

import pyarrow as pa

from ilp_service.evaluation.probing import Examples
from ilp_service.evaluation.table import EVALUATION
from ilp_service.samples.sample import Message, Sample, with_stable_ids
from ilp_service.settings import KnowledgeSettings


def sample(prompt: str, position: int, subset: str = "a") -> Sample:
    return Sample("", (Message("user", prompt),), "Oslo", False, subset, position)


SAMPLES = with_stable_ids(
    [*(sample(f"q{n} ?", n) for n in range(8)), sample("q0 ?", 8, "b"), sample("alone ?", 9, "c")]
)
LEARNED = pa.Table.from_pylist(
    [{"sample_id": s.sample_id, "p_correct": 0.1 if s.position in (3, 9) else 0.9} for s in SAMPLES], schema=EVALUATION
)


def chosen(asked: Sample, same_question: dict[str, list[str]] | None = None, count: int = 4) -> list[str]:
    examples = Examples(SAMPLES, LEARNED, KnowledgeSettings(few_shot=count), same_question or {})
    return [example.prompt for example in examples(asked)]


def test_examples_are_learned_samples_of_the_subset_and_never_the_question_itself() -> None:
    found = chosen(SAMPLES[0], count=20)
    assert sorted(found) == ["q1 ?", "q2 ?", "q4 ?", "q5 ?", "q6 ?", "q7 ?"]
    assert chosen(SAMPLES[0]) == found[:4]
    assert chosen(SAMPLES[-1]) == []


def test_what_asks_the_same_thing_in_other_words_is_no_example() -> None:
    first = next(s for s in SAMPLES if s.prompt == chosen(SAMPLES[3])[0])
    without = chosen(SAMPLES[3], {SAMPLES[3].sample_id: [first.sample_id]})
    assert first.prompt not in without
    assert len(without) == 4
