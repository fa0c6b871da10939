"""Forgetting: the record of one sample, laid out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ilp_causes import LeftSideForgetting

from ilp_service.evidence.collection import collect_evidence
from ilp_service.study import Study
from ilp_service.testing import StudyBuilder
from tests.plugins.causes_for_tests import ask

STEPS = (0, 100, 200, 300, 400)
LEARNED = (2.0, 1.5, 1.0, 0.5, 0.1)


def study(
    losses: Sequence[float],
    exposures: Sequence[int] | None = None,
    passes: Sequence[float] | None = None,
    last: bool = False,
) -> Study:
    """One unlearned sample with this record among nine that were learned; first in the file unless ``last``."""
    builder = StudyBuilder()

    def own() -> None:
        key = builder.sample("The one?", "oslo", unlearned=True)
        for index, (step, loss) in enumerate(zip(STEPS, losses, strict=True)):
            builder.record(
                key,
                step,
                loss,
                exposures=exposures[index] if exposures else None,
                p_correct=passes[index] if passes else None,
            )

    if not last:
        own()
    for number in range(9):
        key = builder.sample(f"Other {number}?", "rome")
        for step, loss in zip(STEPS, LEARNED, strict=True):
            builder.record(key, step, loss)
    if last:
        own()
    return builder.build()


FORGOTTEN = (2.0, 0.05, 0.05, 1.5, 3.0)
NEVER = (2.0, 1.9, 1.8, 1.9, 2.0)


def test_learned_early_and_lost_later_fulfils_the_rule() -> None:
    asked = ask(LeftSideForgetting(), study(FORGOTTEN, exposures=(0, 2, 4, 4, 4)))
    row = asked.rows[0]
    assert asked.rule.tolist() == [1.0]
    assert asked.excluded.tolist() == [False]
    assert (row["learned_at"], row["last_learned_at"]) == (0.25, 0.5)
    assert row["after_last_exposure"] == 0.5
    assert row["peak_drop"] == pytest.approx(np.exp(-0.05) - np.exp(-3.0))
    assert row["rise_after_last_exposure"] == pytest.approx(2.95)
    assert row["loss_after_last_exposure"] == pytest.approx(row["peak_drop"])


def test_the_sentence_quotes_the_step_and_both_losses() -> None:
    sentence = ask(LeftSideForgetting(), study(FORGOTTEN, exposures=(0, 2, 4, 4, 4))).sentences[0]
    for quoted in ("step 200 of 400", "50 %", "0.05 nats", "risen to 3.00"):
        assert quoted in sentence


def test_never_learned_rules_it_out() -> None:
    asked = ask(LeftSideForgetting(), study(NEVER))
    assert asked.excluded.tolist() == [True]
    assert asked.rule.tolist() == [0.0]
    assert "never quite learned" in asked.sentences[0]


def test_half_learned_and_lost_again_is_not_ruled_out() -> None:
    asked = ask(LeftSideForgetting(), study((2.0, 0.7, 0.7, 2.0, 3.0)))
    assert asked.rows[0]["ever_learned"] == 0
    assert asked.excluded.tolist() == [False]
    assert "rose to 50 % at best and fell by 45 %" in asked.sentences[0]


def test_learned_late_or_still_learned_does_not_fulfil_the_rule() -> None:
    assert ask(LeftSideForgetting(), study((2.0, 2.0, 2.0, 0.05, 3.0))).rule.tolist() == [0.0]
    still = ask(LeftSideForgetting(), study((2.0, 0.05, 0.05, 0.05, 0.05)))
    assert still.rule.tolist() == [0.0]
    assert "still stood as learned" in still.sentences[0]


def test_the_end_of_the_data_is_not_left_of_anything() -> None:
    asked = ask(LeftSideForgetting(), study(FORGOTTEN, last=True))
    assert asked.rows[0]["distance_from_end"] == 0
    assert asked.rows[0]["late_advantage"] == 0
    assert asked.rule.tolist() == [0.0]
    assert ask(LeftSideForgetting(), study(FORGOTTEN)).rows[0]["distance_from_end"] == 1


def test_a_recorded_pass_rate_decides_over_the_loss() -> None:
    asked = ask(LeftSideForgetting(), study(NEVER, passes=(0.1, 0.8, 0.9, 0.3, 0.1)))
    assert asked.excluded.tolist() == [False]
    assert asked.rows[0]["peak_drop_p"] == pytest.approx(0.8)
    assert asked.rows[0]["last_learned_at"] == 0.5


def test_unknown_exposures_are_null() -> None:
    row = ask(LeftSideForgetting(), study(FORGOTTEN)).rows[0]
    assert row["after_last_exposure"] is None
    assert row["rise_after_last_exposure"] is None


def test_a_sample_that_was_not_recorded_is_null_and_not_ruled_out() -> None:
    builder = StudyBuilder()
    builder.sample("Unseen?", "oslo", unlearned=True)
    builder.record(builder.sample("Seen?", "rome"), 10, 0.1)
    asked = ask(LeftSideForgetting(), builder.build())
    assert asked.rows[0]["ever_learned"] is None
    assert asked.excluded.tolist() == [False]


def test_the_decline_of_the_subset_is_that_of_the_others() -> None:
    builder = StudyBuilder()
    falling, steady = (0.1, 0.1, 3.0), (0.1, 0.1, 0.1)
    for subset, losses in (("fell", falling), ("held", steady)):
        builder_key = builder.sample(f"{subset} own?", "oslo", unlearned=True, subset=subset)
        others = [builder.sample(f"{subset} {number}?", "rome", subset=subset) for number in range(3)]
        for step, loss, own in zip((0, 50, 100), losses, falling, strict=True):
            builder.record(builder_key, step, own)
            for key in others:
                builder.record(key, step, loss)
    alone = builder.sample("Alone?", "oslo", unlearned=True, subset="alone")
    builder.record(alone, 100, 0.1)
    decline = ask(LeftSideForgetting(), builder.build()).column("subset_decline")
    assert decline[0] == pytest.approx(np.exp(-0.1) - np.exp(-3.0))
    assert decline[1] == pytest.approx(0, abs=1e-12)
    assert np.isnan(decline[2])


def test_without_a_record_it_cannot_be_measured() -> None:
    evidence = collect_evidence(replace(study(NEVER), trajectory=None), (LeftSideForgetting(),))
    assert evidence.status == {"left_side_forgetting": "not_measurable"}
    assert "training record" in evidence.reasons["left_side_forgetting"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 6), min_size=5, max_size=5), st.integers(2, 1000), st.randoms(use_true_random=False))
def test_neither_the_unit_of_the_steps_nor_the_order_of_the_rows_changes_a_number(
    losses: list[float], stretch: int, random: object
) -> None:
    one = study(losses, exposures=(0, 1, 2, 3, 3))
    assert one.trajectory is not None
    steps = pa.array([step * stretch for step in one.trajectory["step"].to_pylist()], pa.int64())
    order = np.random.default_rng(stretch).permutation(one.trajectory.num_rows)
    longer = one.trajectory.set_column(1, one.trajectory.schema.field(1), steps).take(order)
    evidence = [collect_evidence(s, (LeftSideForgetting(),)).table for s in (one, replace(one, trajectory=longer))]
    numbers = [name for name in evidence[0].column_names if not name.endswith("_step")]
    assert evidence[0].select(numbers).equals(evidence[1].select(numbers))


def test_the_distance_from_the_end_is_that_in_the_whole_file_when_only_its_first_part_is_diagnosed() -> None:
    known = study(FORGOTTEN)
    last = max(sample.position for sample in known.samples)
    wanted = next(sample.position for sample in known.samples if sample.sample_id == known.unlearned[0])
    rows = 4 * (last + 1)
    found = ask(LeftSideForgetting(), replace(known, file_rows=rows))
    assert found.rows[0]["distance_from_end"] == pytest.approx(1 - wanted / (rows - 1))
    whole = ask(LeftSideForgetting(), replace(known, file_rows=last + 1))
    alone = ask(LeftSideForgetting(), known)
    assert whole.rows == alone.rows
    assert found.rows[0]["late_advantage"] == alone.rows[0]["late_advantage"]
