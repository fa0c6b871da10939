"""Recovery is of planted and unlearned samples, and the placebo's is taken off."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ilp_service.benchmark.plants import CONFLICT, MISSING
from ilp_service.benchmark.recovery import arms_of, beyond_placebo, median_of, recovered
from tests.benchmark.made_up import label


def held() -> pa.Table:
    def row(key: str, cause: str, original: float, replay: float, documents: float | None, **more: object) -> object:
        rates = {"p_original": original, "p_other_seed": 0.0, "p_replay": replay, "p_documents": documents}
        return label("w", key, [cause], **rates, **more)

    return pa.Table.from_pylist(
        [
            row("1", MISSING, 0.1, 0.1, 0.9),
            row("2", MISSING, 0.1, 0.2, 0.2),
            row("3", MISSING, 0.1, 0.0, 0.19),
            row("4", MISSING, 0.1, 0.0, None),
            row("5", MISSING, 0.9, 0.0, 0.0),
            row("6", CONFLICT, 0.1, 0.0, 0.0),
            row("7", MISSING, 0.1, 0.0, 0.0, origin="natural", planted=None),
        ]
    )


def test_shares_are_of_planted_samples_that_failed_and_were_measured() -> None:
    assert arms_of(held()) == ["other_seed", "replay", "documents"]
    shares = recovered(held())
    assert shares["documents"] == {MISSING: pytest.approx(2 / 3), CONFLICT: 0.0}
    assert shares["replay"] == {MISSING: 0.25, CONFLICT: 0.0}


def test_the_placebo_with_the_same_compute_is_taken_off_and_placebos_are_left_out() -> None:
    assert beyond_placebo(recovered(held())) == {"documents": {MISSING: pytest.approx(2 / 3 - 0.25), CONFLICT: 0.0}}


def test_cells_are_medians_of_the_worlds_that_have_them() -> None:
    found = median_of([{"a": {"x": 0.1}}, {"a": {"x": 0.3, "y": 1.0}}, {"a": {"x": 0.2}, "b": {}}])
    assert found == {"a": {"x": 0.2, "y": 1.0}}


def test_continued_pretraining_is_compared_with_replay_and_fine_tuning_with_another_seed() -> None:
    shares = {
        "other_seed": {MISSING: 0.2},
        "replay": {MISSING: 0.3},
        "documents": {MISSING: 0.9},
        "shuffled": {MISSING: 0.5},
    }
    assert beyond_placebo(shares) == {
        "documents": {MISSING: pytest.approx(0.6)},
        "shuffled": {MISSING: pytest.approx(0.3)},
    }
