from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState, TrainingArguments

from ilp_service.changes import Resampling
from ilp_service.training import resampling as module
from ilp_service.training.glance import Glance
from ilp_service.training.resampling import MOST_LOOKED_AT, ResamplingCallback
from ilp_service.training.rows import TrainingRow
from ilp_service.training.schedule import micro_batches, pass_ends
from ilp_service.training.separation import Contradictions

SUBSETS = ["a"] * 6 + ["b"] * 6 + ["c"] * 4
ROWS = [TrainingRow(str(number), (1, 2, 3, number), 3) for number in range(16)]
PASSES = st.lists(st.lists(st.integers(0, 15), min_size=4, max_size=30), min_size=1, max_size=4)


class Driver:
    """Calls a callback as the Trainer does, with accuracies that a test chooses."""

    def __init__(
        self,
        passes: Sequence[Sequence[int]],
        monkeypatch: pytest.MonkeyPatch,
        *,
        factor: float = 2.0,
        batch_size: int = 4,
        accumulation: int = 1,
        pairs: Sequence[tuple[int, int]] = (),
        seed: int = 0,
    ) -> None:
        self.accumulation = accumulation
        self.batches = micro_batches(passes, batch_size, accumulation)
        self.planned = list(self.batches)
        self.step = 0
        self.looks: list[list[int]] = []
        self.accuracies: Mapping[str, float] = {}
        buckets = {row: place for pair in pairs for place, row in enumerate(pair)}
        self.callback = ResamplingCallback(
            Resampling(1, 0.05, factor),
            ROWS,
            SUBSETS,
            accumulation=accumulation,
            at_once=4,
            seed=seed,
            ends=pass_ends(passes, batch_size, accumulation),
            against=Contradictions(buckets, pairs) if pairs else None,
        )
        self.callback.take_batches(self.batches)
        monkeypatch.setattr(module, "glance", self._glance)

    def _glance(self, _model: object, rows: Sequence[TrainingRow], _at_once: int) -> list[Glance]:
        self.looks.append([int(row.sample_id) for row in rows])
        return [Glance(0.0, 1, self.accuracies[SUBSETS[int(row.sample_id)]]) for row in rows]

    def look(self, **accuracies: float) -> list[int]:
        """One step, a look, and what is to come after it."""
        self.accuracies = accuracies
        self.step += 1
        state = TrainerState(global_step=self.step)
        self.callback.on_step_end(TrainingArguments(), state, TrainerControl(), model=torch.nn.Linear(1, 1))
        return self.rest(self.batches)

    def rest(self, batches: Sequence[Sequence[int]]) -> list[int]:
        return list(chain.from_iterable(batches[self.step * self.accumulation :]))


def shares(rows: Sequence[int]) -> Counter[str]:
    return Counter(SUBSETS[row] for row in rows)


@settings(max_examples=100, deadline=None)
@given(PASSES, st.integers(1, 3), st.integers(0, 9), st.lists(st.floats(0, 1), min_size=9, max_size=9))
def test_steps_keep_their_number_and_sizes_and_the_past_stays(
    passes: list[list[int]], accumulation: int, seed: int, accuracies: list[float]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        results = []
        for _ in range(2):
            driver = Driver(passes, patch, accumulation=accumulation, seed=seed)
            for start in (0, 3, 6):
                driver.look(**dict(zip("abc", accuracies[start:], strict=False)))
            assert [len(batch) for batch in driver.batches] == [len(batch) for batch in driver.planned]
            assert driver.batches[:accumulation] == driver.planned[:accumulation]
            known = {SUBSETS[row] for row in chain.from_iterable(passes)}
            assert {SUBSETS[row] for row in chain.from_iterable(driver.batches)} <= known
            assert set(chain.from_iterable(driver.batches)) <= set(chain.from_iterable(passes))
            results.append(driver.batches)
        assert results[0] == results[1]


def test_a_subset_that_fell_is_drawn_so_many_times_as_often_compared_with_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mixed = [list(range(12))] * 30
    driver = Driver(mixed, monkeypatch)
    assert driver.look(a=0.5, b=0.5) == driver.rest(driver.planned)
    counts = shares(driver.look(a=0.47, b=0.9))
    assert counts["a"] == pytest.approx(2 * counts["b"], abs=2)
    # The next look starts from the plan again, and nothing fell far enough since the best.
    assert driver.look(a=0.476, b=0.9) == driver.rest(driver.planned)
    assert (
        "drawn more often, of 2 subsets, since their accuracy fell: a (0.470 after 0.500)" in driver.callback.notes[1]
    )
    assert len(driver.callback.notes) == 3


def test_a_subset_that_is_over_is_drawn_by_its_share_of_the_course(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [list(range(6))] * 20 + [list(range(6, 12))] * 20
    driver = Driver(blocks, monkeypatch, batch_size=6)
    driver.step = 19
    driver.look(a=0.9, b=0.1)
    counts = shares(driver.look(a=0.5, b=0.2))
    # Half of the course, twice as often, against all of the 19 passes that are left.
    assert counts["a"] == pytest.approx(19 * 6 / 2, abs=2)
    exact = Counter(row for row in driver.rest(driver.batches) if row < 6)
    assert max(exact.values()) - min(exact.values()) <= 1


def test_when_all_fall_none_is_drawn_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver([list(range(16))] * 5, monkeypatch)
    driver.look(a=0.9, b=0.9, c=0.9)
    assert driver.look(a=0.1, b=0.1, c=0.1) == driver.rest(driver.planned)
    assert "all subsets fell" in driver.callback.notes[1]


def test_rows_that_are_drawn_again_are_kept_apart_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing else of a and b is in the course, so what is drawn again of a is one of the pair.
    passes = [[0, 12, 13, 14, 15, 12, 13, 14, 15, 1, 12, 13]] * 10
    driver = Driver(passes, monkeypatch, pairs=[(0, 1)], factor=4.0)
    driver.look(a=0.9, c=0.5)
    rest = driver.look(a=0.1, c=0.5)
    assert rest.count(0) + rest.count(1) > 20
    # The last step of the first pass is all that is left of it.
    assert not any({0, 1} <= set(batch) for batch in driver.batches[3:])


def test_it_looks_at_most_at_so_many_of_a_subset_and_always_at_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [TrainingRow(str(number), (1, 2, number), 2 if number % 2 else 3) for number in range(400)]
    callback = ResamplingCallback(
        Resampling(2, 0.05, 2.0), many, ["a"] * 300 + ["b"] * 100, accumulation=1, at_once=4, seed=0
    )
    callback.take_batches([[number] for number in range(320)])
    looks: list[list[str]] = []

    def seen(_model: object, rows: Sequence[TrainingRow], _at_once: int) -> list[Glance]:
        looks.append([row.sample_id for row in rows])
        return [Glance(0.0, 1, 1.0) for _ in rows]

    monkeypatch.setattr(module, "glance", seen)
    for step in (1, 2, 3, 4, 320):
        callback.on_step_end(
            TrainingArguments(), TrainerState(global_step=step), TrainerControl(), model=torch.nn.Linear(1, 1)
        )
    assert len(looks) == 2
    assert looks[0] == looks[1]
    # Of b, only twenty are in the course; those whose response is cut off have nothing to look at.
    assert len(looks[0]) == MOST_LOOKED_AT + 10
    assert all(int(key) % 2 for key in looks[0])


def test_a_training_that_ends_before_the_first_look_says_so(tmp_path: Path) -> None:
    callback = ResamplingCallback(Resampling(500, 0.05, 2.0), ROWS, SUBSETS, accumulation=2, at_once=4, seed=0)
    callback.take_batches([[number] for number in range(16)])
    callback.on_train_end(TrainingArguments(), TrainerState(global_step=8), TrainerControl())
    assert callback.notes == ["No subset was ever looked at: the first look was due after 500 of 8 steps."]
