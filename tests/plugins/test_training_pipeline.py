"""The zeroth cause: what was lost on the way into the loss."""

from __future__ import annotations

from typing import Any

import pytest
from ilp_causes import TrainingPipeline

from ilp_service.study import Study
from ilp_service.testing import StudyBuilder
from tests.plugins.causes_for_tests import ask


def study(
    rendering: dict[str, Any] | None = None,
    record: dict[str, float | None] | None = None,
    *,
    learned_rendering: dict[str, Any] | None = None,
    learned_record: dict[str, float | None] | None = None,
    evaluation: dict[str, Any] | None = None,
    recorded: bool = True,
) -> Study:
    """One unlearned sample and four learned ones; ten response tokens, trained on three times."""
    builder = StudyBuilder()
    size = {"response_tokens": 10, "prompt_tokens": 10}
    whole: dict[str, float | None] = {"exposures": 3, "trained_tokens": 30}
    for number in range(4):
        key = builder.sample(f"Other {number}?", "rome", rendering=size | (learned_rendering or {}))
        if recorded:
            builder.record(key, 100, 0.1, **(whole | (learned_record or {})))
    own = builder.sample("The one?", "oslo", unlearned=True, rendering=size | (rendering or {}), evaluation=evaluation)
    if recorded:
        values = whole | (record or {})
        builder.record(own, 100, float(values.pop("loss", 3.0) or 0.0), **values)
    return builder.build()


def test_a_clean_sample_is_ruled_out() -> None:
    asked = ask(TrainingPipeline(), study())
    assert asked.excluded.tolist() == [True]
    assert asked.rule.tolist() == [0.0]
    assert asked.rows[0]["fault"] == 0


@pytest.mark.parametrize(
    ("rendering", "record", "signal", "value", "quoted"),
    [
        ({"truncated_tokens": 8}, {}, "truncated", 0.8, "8 of its 10 response tokens"),
        ({}, {"exposures": 0, "trained_tokens": 0}, "never_exposed", 1, "without it in any batch"),
        ({}, {"trained_tokens": 6}, "untrained", 0.8, "80 % of its response tokens never entered"),
        ({}, {"exposures": None, "trained_tokens": None}, "unrecognised", 1, "texts like it"),
        ({"unknown_tokens": 12}, {}, "unknown_tokens", 0.6, "60 %"),
        ({"bos_tokens": 2}, {}, "extra_bos", 1, "2 beginning-of-sequence tokens"),
        ({"round_trips": False}, {}, "broken_text", 1, "does not give its text back"),
    ],
)
def test_every_fault_is_seen_scored_and_told(
    rendering: dict[str, Any], record: dict[str, float | None], signal: str, value: float, quoted: str
) -> None:
    asked = ask(TrainingPipeline(), study(rendering, record))
    assert asked.rows[0][signal] == pytest.approx(value)
    assert asked.rows[0]["fault"] == pytest.approx(min(value, 1))
    assert asked.rule[0] >= TrainingPipeline.threshold
    assert not asked.excluded[0]
    assert quoted in asked.sentences[0]


@pytest.mark.parametrize(
    "fault", [{"bos_tokens": 2}, {"round_trips": False}, {"truncated_tokens": 6}, {"unknown_tokens": 9}]
)
def test_what_learned_samples_live_with_explains_nothing(fault: dict[str, Any]) -> None:
    asked = ask(TrainingPipeline(), study(fault, learned_rendering=fault))
    assert asked.rule.tolist() == [0.0]
    assert asked.excluded.tolist() == [True]


def test_a_loss_without_the_end_token_is_no_fault_of_one_sample() -> None:
    masked_end: dict[str, float | None] = {"trained_tokens": 27}
    asked = ask(TrainingPipeline(), study(record=masked_end, learned_record=masked_end))
    assert asked.rows[0]["untrained"] == pytest.approx(0.1)
    assert asked.excluded.tolist() == [True]


def test_weights_that_were_not_loaded_show_as_a_loss_that_training_did_not_have() -> None:
    asked = ask(TrainingPipeline(), study(record={"loss": 0.05}, evaluation={"logprob_per_token": -4.0}))
    assert asked.rows[0]["lost_in_scoring"] == 1
    assert asked.rows[0]["loss_mismatch"] == pytest.approx(3.95)
    assert "0.05" in asked.sentences[0]
    assert "4.00" in asked.sentences[0]
    consistent = ask(TrainingPipeline(), study(record={"loss": 4.0}, evaluation={"logprob_per_token": -4.0}))
    assert consistent.rows[0]["lost_in_scoring"] == 0


def test_without_a_record_only_rendering_is_judged() -> None:
    asked = ask(TrainingPipeline(), study({"truncated_tokens": 10}, recorded=False))
    row = asked.rows[0]
    assert row["truncated"] == row["fault"] == 1
    assert all(row[name] is None for name in ("never_exposed", "untrained", "unrecognised", "loss_mismatch"))


def test_the_gravest_fault_counts() -> None:
    row = ask(TrainingPipeline(), study({"truncated_tokens": 3, "unknown_tokens": 10})).rows[0]
    assert row["fault"] == pytest.approx(0.5)
