"""When a generated response counts as the sample's own."""

import pytest

from ilp_service.evaluation.matching import final_answer, matches, rouge_l


@pytest.mark.parametrize(
    ("reference", "candidate", "long", "expected"),
    [
        ("Paris", " paris. ", False, True),
        ("Paris", "Paris, France", False, False),
        ("6 + 12 = 18\n#### 18", "I think it is\n#### 18", True, True),
        ("6 + 12 = 18\n#### 18", "6 + 12 = 18\n#### 19", True, False),
        ("the cat sat on the mat today", "the cat sat on the mat", True, True),
        ("the cat sat on the mat today", "dogs run far", True, False),
        ("a", "", True, False),
    ],
)
def test_matching(reference: str, candidate: str, long: bool, expected: bool) -> None:
    assert matches(reference, candidate, long=long, threshold=0.7) is expected


def test_final_answers_are_the_last_ones() -> None:
    assert final_answer("#### 3\n#### 4") == "4"
    assert final_answer(r"so \boxed{12}") == "12"
    assert final_answer("none") is None


def test_rouge_is_symmetric_and_bounded() -> None:
    assert rouge_l("a b c", "a c") == rouge_l("a c", "a b c") == pytest.approx(0.8)
    assert rouge_l("a b", "a b") == 1.0
    assert rouge_l("a", "") == 0.0
