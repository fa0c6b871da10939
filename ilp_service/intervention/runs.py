"""The runs of an experiment beside one another: the same sample in the same place of every array."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.attribution.rules import UNATTRIBUTED
from ilp_service.intervention.arms import Arm, ArmResult
from ilp_service.samples.sample import Sample

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Texts = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Runs:
    """All runs of an experiment and the diagnosed model, samples ordered by id.

    Attributes:
        ids: Every sample that was measured in the diagnosed model, sorted.
        original: The diagnosed model's table, in that order.
        cause: The attributed cause of every sample, empty where it has none, in that order.
        arms: The arms by name, in the order given.
        done: Results by arm and seed, seeds ascending; their tables in the order of ``ids``, null where it is missing.
        diverged: The others, likewise.
    """

    ids: Texts
    original: pa.Table
    cause: Texts
    arms: Mapping[str, Arm]
    done: Mapping[str, Mapping[int, ArmResult]]
    diverged: Mapping[str, Mapping[int, ArmResult]]

    def before(self, column: str) -> Array:
        """A column of the diagnosed model; NaN where it is null; shape ``(samples,)``."""
        return _floats(self.original[column])

    def after(self, column: str, arm: str, seeds: Sequence[int]) -> Array:
        """A column under an arm; NaN where nothing was measured; shape ``(samples, seeds)``."""
        found = np.full((len(self.ids), len(seeds)), np.nan)
        for place, seed in enumerate(seeds):
            found[:, place] = _floats(self.done[arm][seed].measured[column])
        return found

    def placebo_of(self, arm: Arm) -> str | None:
        """The arm's placebo, if it is among the arms."""
        return arm.placebo if arm.placebo in self.arms else None

    def paired_seeds(self, arm: Arm) -> tuple[int, ...]:
        """Seeds under which both the arm and its placebo ended well; those of the arm where it has no placebo."""
        placebo = self.placebo_of(arm)
        own = self.done[arm.name]
        return tuple(seed for seed in own if placebo is None or seed in self.done[placebo])

    def where(self, keys: Iterable[str]) -> Mask:
        """Which samples have these ids; shape ``(samples,)``."""
        return np.isin(self.ids, np.asarray(sorted(set(keys)), dtype=np.str_))

    @property
    def causes(self) -> tuple[str, ...]:
        """Causes that some unlearned sample was attributed to, by name, *unattributed* last."""
        named = sorted(set(self.cause[self.unlearned].tolist()) - {"", UNATTRIBUTED})
        return (*named, UNATTRIBUTED) if UNATTRIBUTED in self.cause[self.unlearned] else tuple(named)

    @property
    def unlearned(self) -> Mask:
        """Which samples the diagnosed model had not learned; shape ``(samples,)``."""
        return np.asarray(self.before("unlearned") == 1, dtype=np.bool_)

    def withdrawn(self, arm: Arm) -> Mask:
        """Samples that the arm removes or gives another response: whether they are learned as they were is no aim."""
        return self.where({*arm.change.removed, *arm.change.corrected})


def align(original: pa.Table, attributions: pa.Table, arms: Sequence[Arm], results: Sequence[ArmResult]) -> Runs:
    """Lay the runs of an experiment beside one another.

    Args:
        original: What was measured of the diagnosed model (:data:`~ilp_service.intervention.arms.MEASURED`).
        attributions: Columns ``sample_id`` and ``cause``.
        arms: The arms, names unique.
        results: One for every arm and seed that was run, in any order.

    Raises:
        ValueError: A name, an arm's seed or a sample occurs twice, or a result has no arm.
    """
    _once(original, "the diagnosed model")
    ordered = original.sort_by("sample_id")
    by_name = {arm.name: arm for arm in arms}
    if len(by_name) < len(arms):
        raise ValueError("two arms of the experiment have one name; expected unique names.")
    done: dict[str, dict[int, ArmResult]] = {name: {} for name in by_name}
    diverged: dict[str, dict[int, ArmResult]] = {name: {} for name in by_name}
    for result in sorted(results, key=lambda one: (one.arm, one.seed)):
        if result.arm not in by_name:
            raise ValueError(f"a result is of the arm {result.arm!r}; expected one of {', '.join(by_name)}.")
        if result.seed in done[result.arm] or result.seed in diverged[result.arm]:
            raise ValueError(f"the arm {result.arm!r} has two results of seed {result.seed}; expected one.")
        _once(result.measured, f"the arm {result.arm!r}")
        if result.status == "diverged":
            diverged[result.arm][result.seed] = result
        else:
            places = pc.index_in(ordered["sample_id"], value_set=result.measured["sample_id"].combine_chunks())
            done[result.arm][result.seed] = replace(result, measured=result.measured.take(places))
    ids = np.asarray(ordered["sample_id"].to_pylist(), dtype=np.str_)
    named = dict(zip(attributions["sample_id"].to_pylist(), attributions["cause"].to_pylist(), strict=True))
    cause = np.asarray([named.get(key) or "" for key in ids.tolist()], dtype=np.str_)
    return Runs(ids, ordered, cause, by_name, done, diverged)


def questions_of(samples: Iterable[Sample]) -> dict[str, str]:
    """The question that each sample asks, by its id: all messages before the response, spaces and case apart.

    Copies of a row and contradicting answers to one question share it; they are learned or not together.
    """
    return {
        sample.sample_id: " ".join(
            word for message in sample.context for word in (f"{message.role}:", *message.content.casefold().split())
        )
        for sample in samples
    }


def _once(table: pa.Table, what: str) -> None:
    if pc.count_distinct(table["sample_id"]).as_py() < table.num_rows:
        raise ValueError(f"{what} was measured twice on some sample; expected one row a sample.")


def _floats(column: pa.ChunkedArray) -> Array:
    values = column.combine_chunks().cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64)
