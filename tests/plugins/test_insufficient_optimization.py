"""Too rare and trained too little."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from ilp_causes import InsufficientOptimization

from ilp_service.study import Study
from ilp_service.testing import StudyBuilder
from tests.plugins.causes_for_tests import ask

STEPS = (0, 100, 200, 300, 400)
DONE = (2.0, 1.0, 0.3, 0.1, 0.1)


def study(
    prompt: str = "What colour is the zorb number one?",
    losses: Sequence[float] | None = (3.0, 2.8, 2.5, 2.2, 1.8),
    exposures: int = 2,
    answer: str = "mauve",
) -> Study:
    """One unlearned sample among twenty learned ones that were trained on four times."""
    builder = StudyBuilder()
    for number in range(20):
        key = builder.sample(f"What colour is the {'house' if number % 2 else 'door'} number one?", "red")
        if losses is not None:
            for index, (step, loss) in enumerate(zip(STEPS, DONE, strict=True)):
                builder.record(key, step, loss, exposures=index)
    own = builder.sample(prompt, answer, unlearned=True)
    for index, (step, loss) in enumerate(zip(STEPS, losses or (), strict=bool(losses))):
        builder.record(own, step, loss, exposures=min(index, exposures))
    return builder.build()


def test_rare_and_still_improving_fulfils_the_rule() -> None:
    asked = ask(InsufficientOptimization(), study())
    row = asked.rows[0]
    assert asked.rule.tolist() == [1.0]
    assert row["exposures_ratio"] == 0.5
    assert row["late_fall"] == pytest.approx(0.4 / 2.2)
    assert row["late_gain_excess"] > 0
    assert row["loss_rank"] > 0.9
    for quoted in ("“zorb”", "1 prompts", "2 times", "median sample 4", "18 %"):
        assert quoted in asked.sentences[0]


def test_common_or_no_longer_improving_does_not() -> None:
    common = study("What colour is the house number one?", answer="red")
    assert ask(InsufficientOptimization(), common).rule.tolist() == [0.0]
    flat = study(losses=(3.0, 2.0, 1.8, 1.8, 1.795))
    assert ask(InsufficientOptimization(), flat).rule.tolist() == [0.0]


def test_a_common_question_with_a_rare_answer_is_long_tail() -> None:
    row = ask(InsufficientOptimization(), study("What colour is the house number one?")).rows[0]
    assert row["rarity"] < 0.5 < row["answer_rarity"]
    assert row["answer_share"] == pytest.approx(1 / 11)


def test_without_a_record_rarity_remains_and_the_rest_is_null() -> None:
    asked = ask(InsufficientOptimization(), study(losses=None))
    row = asked.rows[0]
    assert row["rarity"] > 0.9
    assert row["rarest_word_ratio"] == pytest.approx(1 / 10)
    assert row["loss_rank"] > 0.9
    assert all(row[name] is None for name in ("exposures_ratio", "late_fall", "shortfall", "improving", "late_gain"))
    assert asked.rule.tolist() == [0.0]
    assert "not recorded" in asked.sentences[0]


def test_shortfall_is_zero_once_the_loss_of_learned_samples_was_reached() -> None:
    assert ask(InsufficientOptimization(), study(losses=(3.0, 0.05, 1.0, 1.0, 1.0))).rows[0]["shortfall"] == 0
    assert ask(InsufficientOptimization(), study()).rows[0]["shortfall"] > 0.5


def test_ranks_do_not_depend_on_the_size_of_the_data() -> None:
    def ranked(times: int) -> float:
        builder = StudyBuilder()
        for number in range(20 * times):
            builder.sample(f"Is the house {'warm' if number % 2 else 'cold'}?", "yes")
        for _ in range(times):
            builder.sample("Is the zorb cold?", "no", unlearned=True)
        return float(ask(InsufficientOptimization(), builder.build()).rows[0]["rarity"])

    assert ranked(1) == pytest.approx(ranked(3))


def test_nothing_is_ever_ruled_out() -> None:
    assert ask(InsufficientOptimization(), study()).excluded.tolist() == [False]


def test_a_prompt_without_words_has_no_rarest_word() -> None:
    row = ask(InsufficientOptimization(), study("?!")).rows[0]
    assert row["rarest_word"] is None
    assert row["rarity"] is None


def test_what_was_never_trained_on_was_left_out_and_not_trained_too_little() -> None:
    assert ask(InsufficientOptimization(), study(exposures=0)).excluded.tolist() == [True]
    assert ask(InsufficientOptimization(), study(exposures=1)).excluded.tolist() == [False]
