"""Subsets that are being forgotten are drawn more often in what is still to come (arXiv 2604.10079, section 5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ilp_service.changes import Resampling
from ilp_service.training.glance import glance
from ilp_service.training.rows import TrainingRow
from ilp_service.training.separation import Contradictions, keep_apart

MOST_LOOKED_AT = 64
"""Samples of a subset whose accuracy stands for it."""


class ResamplingCallback(TrainerCallback):
    """Looks at the accuracy of every subset now and then, and changes what is still to come.

    A subset's accuracy is the mean of :attr:`ilp_service.training.glance.Glance.said` over a fixed sample of it. One
    whose accuracy lies below its best so far by the given share is drawn ``factor`` times as often as planned,
    compared with the others: the number of steps and their sizes stay, so the others are drawn less. A subset that
    the plan no longer holds, in a course of one subset after the other, counts as planned with its share of the whole
    course. The next look starts from the plan again.

    Attributes:
        notes: One line a look.
    """

    def __init__(
        self,
        resampling: Resampling,
        rows: Sequence[TrainingRow],
        subsets: Sequence[str],
        *,
        accumulation: int,
        at_once: int,
        seed: int,
        ends: Sequence[int] = (),
        against: Contradictions[int] | None = None,
    ) -> None:
        """Say what is looked at, and how what is to come may change.

        Args:
            resampling: How often to look, and what follows.
            rows: The rows that the schedule's indices mean.
            subsets: The subset of each.
            accumulation: Forward passes an optimizer step.
            at_once: Rows a forward pass of a look.
            seed: Of the samples that are looked at and of what is drawn, 0 or more.
            ends: Optimizer steps done after each pass of the schedule.
            against: Rows that must not share an optimizer step.
        """
        self._resampling = resampling
        self._rows = rows
        self._subsets = subsets
        self._accumulation = accumulation
        self._at_once = at_once
        self._generator = np.random.default_rng([seed, 31])
        self._ends = ends
        self._against = against
        self._best: dict[str, float] = {}
        self._looked_at: dict[str, list[int]] = {}
        self._course: dict[str, list[int]] = {}
        self._plan: list[list[int]] = []
        self._batches: list[list[int]] = []
        self.notes: list[str] = []

    def take_batches(self, batches: list[list[int]]) -> None:
        """Keep the plan, and choose the samples that are looked at among those in it."""
        self._batches, self._plan = batches, list(batches)
        course: dict[str, list[int]] = defaultdict(list)
        for batch in batches:
            for row in batch:
                course[self._subsets[row]].append(row)
        self._course = dict(sorted(course.items()))
        for subset, shown in self._course.items():
            seen = [row for row in sorted(set(shown)) if self._rows[row].trained_tokens > 0]
            places = self._generator.permutation(len(seen))[:MOST_LOOKED_AT]
            if seen:
                self._looked_at[subset] = [seen[place] for place in sorted(places)]

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ANN401 (whatever the Trainer has)
    ) -> None:
        """Look, if it is time and anything is still to come."""
        step = state.global_step
        if step % self._resampling.every or step * self._accumulation >= len(self._batches):
            return
        accuracies = self._look(kwargs["model"])
        fallen = {
            subset
            for subset, accuracy in accuracies.items()
            if accuracy < self._best.get(subset, 0.0) * (1 - self._resampling.fall)
        }
        for subset, accuracy in accuracies.items():
            self._best[subset] = max(accuracy, self._best.get(subset, 0.0))
        self._draw(step, fallen)
        self.notes.append(f"Step {step}: {self._said(accuracies, fallen)}")

    def _said(self, accuracies: Mapping[str, float], fallen: set[str]) -> str:
        if not fallen:
            return f"none of {len(accuracies)} subsets fell."
        names = ", ".join(f"{name} ({accuracies[name]:.3f} after {self._best[name]:.3f})" for name in sorted(fallen))
        if len(fallen) == len(self._course):
            return f"all subsets fell, so none is drawn more often than another: {names}."
        return f"drawn more often, of {len(accuracies)} subsets, since their accuracy fell: {names}."

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        """Say so if there never was a look."""
        if not self.notes:
            steps = -(-len(self._plan) // self._accumulation)
            self.notes.append(
                f"No subset was ever looked at: the first look was due after {self._resampling.every} of {steps} steps."
            )

    def _look(self, model: Any) -> dict[str, float]:  # noqa: ANN401 (whatever the Trainer has)
        numbers = [row for rows in self._looked_at.values() for row in rows]
        said = iter(glance(model, [self._rows[row] for row in numbers], self._at_once))
        return {subset: sum(next(said).said for _ in rows) / len(rows) for subset, rows in self._looked_at.items()}

    def _draw(self, step: int, fallen: set[str]) -> None:
        """Put what is to come in place of the batches after ``step``."""
        start = step * self._accumulation
        rest = self._plan[start:]
        planned = [row for batch in rest for row in batch]
        if 0 < len(fallen) < len(self._course):
            planned = self._redrawn(planned, fallen)
        self._batches[start:] = _cut_like(planned, rest)
        if fallen and self._against is not None:
            self._keep_apart(step, self._against)

    def _redrawn(self, planned: list[int], fallen: set[str]) -> list[int]:
        """The planned rows, some of those drawn too often replaced by rows of the fallen subsets."""
        places: dict[str, list[int]] = defaultdict(list)
        for place, row in enumerate(planned):
            places[self._subsets[row]].append(place)
        whole = sum(map(len, self._course.values()))
        rates = {}
        for subset, shown in self._course.items():
            rates[subset] = float(len(places[subset]))
            if subset in fallen:
                usual = max(len(places[subset]), len(planned) * len(shown) / whole)
                rates[subset] = self._resampling.factor * usual
        wanted = _shared_out(len(planned), rates)
        drawn, freed = [], []
        for subset, shown in self._course.items():
            more = wanted[subset] - len(places[subset])
            if more > 0:
                drawn += [shown[place] for place in self._evenly(shown, more)]
            elif more < 0:
                own = [planned[place] for place in places[subset]]
                freed += [places[subset][place] for place in self._evenly(own, -more)]
        result = list(planned)
        for place, number in zip(freed, self._generator.permutation(len(drawn)), strict=True):
            result[place] = drawn[number]
        return result

    def _evenly(self, shown: Sequence[int], count: int) -> list[int]:
        """Places of ``count`` of the appearances, so that each row has its share of them, one more or less."""
        rank = {row: place for place, row in enumerate(self._generator.permutation(sorted(set(shown))).tolist())}
        grouped = sorted(range(len(shown)), key=lambda place: (rank[shown[place]], place))
        start = self._generator.random()
        return [grouped[int((number + start) * len(shown) / count)] for number in range(count)]

    def _keep_apart(self, step: int, against: Contradictions[int]) -> None:
        """Reorder what is to come of every pass, so that rows that were drawn anew are kept apart as well."""
        batches, width = self._batches, self._accumulation
        last = -(-len(batches) // width)
        for first, end in pairwise(sorted({step, *(end for end in self._ends if step < end < last), last})):
            part = batches[first * width : end * width]
            rows = [row for batch in part for row in batch]
            sizes = [sum(map(len, part[at : at + width])) for at in range(0, len(part), width)]
            batches[first * width : end * width] = _cut_like(keep_apart(rows, sizes, against, self._generator), part)


def _cut_like(rows: Sequence[int], batches: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows in batches of the sizes of others."""
    left = iter(rows)
    return [[next(left) for _ in batch] for batch in batches]


def _shared_out(count: int, rates: Mapping[str, float]) -> dict[str, int]:
    """``count`` places in proportion to the rates, by largest remainder, ties by name."""
    whole = sum(rates.values())
    exact = {name: count * rate / whole for name, rate in rates.items()}
    given = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda one: (given[one] - exact[one], one))[: count - sum(given.values())]:
        given[name] += 1
    return given
