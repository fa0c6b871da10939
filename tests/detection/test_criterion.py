"""The criterion of 'unlearned' in every view."""

import pyarrow as pa
import pytest

from ilp_service.detection.criterion import detect, most_severe, views_disagreement
from ilp_service.evaluation.table import EVALUATION
from ilp_service.settings import DetectionSettings

ROWS = [
    {"sample_id": "a", "p_correct": 0.1, "sample_match_rate": 0.0, "logprob_per_token": -3.0},
    {"sample_id": "b", "p_correct": 0.1, "sample_match_rate": 0.8, "logprob_per_token": -2.0},
    {"sample_id": "c", "p_correct": 0.9, "sample_match_rate": 0.0, "logprob_per_token": -1.0},
    {"sample_id": "d", "p_correct": 0.9, "sample_match_rate": 1.0, "logprob_per_token": -0.1},
    {"sample_id": "e", "p_correct": None, "sample_match_rate": 0.0, "logprob_per_token": -0.1},
]
TABLE = pa.Table.from_pylist(ROWS, schema=EVALUATION)


@pytest.mark.parametrize(
    ("view", "expected"),
    [("mc", "abe"), ("generation", "ace"), ("both", "ae"), ("either", "abce")],
)
def test_the_chosen_view_decides_and_the_other_stands_in(view: str, expected: str) -> None:
    table = detect(TABLE, DetectionSettings(view=view))  # type: ignore[arg-type]
    found = [r["sample_id"] for r in table.to_pylist() if r["unlearned"]]
    assert "".join(found) == expected
    assert table.column("unlearned_by").to_pylist() == ["both", "mc", "generation", None, "generation"]
    assert table.schema == EVALUATION


def test_the_threshold_itself_counts_as_learned() -> None:
    table = detect(TABLE, DetectionSettings(threshold=0.1))
    assert table.column("unlearned").to_pylist()[:2] == [False, False]


def test_the_most_severe_come_first_and_are_bounded() -> None:
    table = detect(TABLE, DetectionSettings())
    assert most_severe(table, DetectionSettings(max_attributed=2)) == ("e", "a")


def test_the_deciding_view_says_what_is_severe() -> None:
    settings = DetectionSettings(view="generation", threshold=0.9)
    assert most_severe(detect(TABLE, settings), settings) == ("a", "c", "e", "b")


def test_the_views_are_counted_where_both_were_measured() -> None:
    assert views_disagreement(TABLE, 0.2) == {
        "measured_by_both": 4, "mc_only": 1, "generation_only": 1, "both": 1, "neither": 1,
    }  # fmt: skip
