"""Which labels hold: a cause is a sample's only if its counterfactual alone makes the sample learned.

A planted sample counts as ground truth when it is (a) unlearned under two fine-tuning seeds, (b) learned in its own
counterfactual run, (c) still unlearned in both placebos and in every other cause's run. A sample that runs of other
causes recover as well has several causes, and is published as such. Failures that nobody planted get the causes whose
runs recover them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.benchmark.counterfactuals import (
    ARM_OF,
    ARMS,
    OTHER_SEED,
    REPLAY,
    Origin,
    pass_rates,
    run_arm,
    strengths_of,
)
from ilp_service.benchmark.finetuning import load_model
from ilp_service.benchmark.plants import CAUSES, PIPELINE, make_world
from ilp_service.benchmark.recipe import VERSION, BuiltWorld, read_truth
from ilp_service.benchmark.sizes import SIZES, WorldSize
from ilp_service.benchmark.world import CONTROL
from ilp_service.stages import digest_of, stage
from ilp_service.tables import write_table

LEARNED = 0.2
"""Pass rate from which a sample counts as learned (arXiv 2604.10079, section 4)."""

ORIGINAL = "original"

Array = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]


def labels_schema() -> pa.Schema:
    """Columns of the labels table."""

    def field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
        return pa.field(name, kind, metadata={"meaning": meaning})

    return pa.schema(
        [
            field("world", pa.string(), "family, size and seed of the world"),
            field("family", pa.string(), "family of its models"),
            field("sample_id", pa.string(), "the sample"),
            field("origin", pa.string(), "'planted', or 'natural': failed without a plant"),
            field("planted", pa.string(), "planted cause; null for natural failures"),
            field("kind", pa.string(), "how it was planted, or which sort of control it is"),
            field("block", pa.int64(), "index of the block it was trained in"),
            field("unlearned", pa.bool_(), "whether its pass rate stays below 0.2 under two fine-tuning seeds"),
            *(field(f"p_{arm}", pa.float64(), f"pass rate in the run '{arm}', 0-1") for arm in (ORIGINAL, *ARMS)),
            field("causes", pa.list_(pa.string()), "causes that hold, its own first; empty: no label holds"),
            field("verdict", pa.string(), "'verified' (one cause), 'two_causes' (own and others) or 'unverified'"),
            field("reason", pa.string(), "why no label holds: learned, unstable, placebo, not recovered"),
        ]
    )


def verified_labels(built: BuiltWorld, *, size: WorldSize | None = None, progress: Progress | None = None) -> pa.Table:
    """Run every counterfactual of a built world that was not run yet, and keep the labels that hold.

    Args:
        built: The world.
        size: Its size, where it is not one of those that have a name.
        progress: Told the run, and how many of how many steps are done.

    Returns:
        The labels (:func:`labels_schema`): every planted sample, and every control that failed; in the data's order.
    """
    world = make_world(built.seed, size or SIZES[built.size])
    tuned = built.model.parent
    sft_seed = int(tuned.name.rpartition("-")[2])
    run = (VERSION, (tuned / "digest").read_text())
    rates = {ORIGINAL: _kept(built, ORIGINAL, (*run, ORIGINAL), lambda _: pass_rates(load_model(built.model), world))}
    origin = Origin(world, built.base, built.data, sft_seed)

    def arm_rates(name: str, from_: Origin) -> Array:
        def compute(folder: Any) -> Array:  # noqa: ANN401
            report = None if progress is None else lambda done, planned: progress(name, done, planned)
            return run_arm(name, from_, folder, report)

        details = (*run, name, *strengths_of(name, world), sorted(from_.natural))
        return _kept(built, name, details, compute)

    rates[OTHER_SEED] = arm_rates(OTHER_SEED, origin)
    fails = (rates[ORIGINAL] < LEARNED) & (rates[OTHER_SEED] < LEARNED)
    natural = frozenset(i for i, row in enumerate(world.rows) if row.cause == CONTROL and fails[i])
    origin = Origin(world, built.base, built.data, sft_seed, natural)
    for name in ARMS[1:]:
        rates[name] = arm_rates(name, Origin(world, built.base, built.data, sft_seed) if name == REPLAY else origin)
    return labels(built, rates)


def labels(built: BuiltWorld, rates: Mapping[str, Array]) -> pa.Table:
    """The labels that follow from the pass rates of all runs.

    Args:
        built: The world.
        rates: Pass rate of every row in the original run and in every arm.
    """
    truth = read_truth(built.truth).to_pylist()
    rows = []
    for index, planted in enumerate(truth):
        own = planted["cause"] if planted["cause"] in CAUSES else None
        rate = {name: float(values[index]) for name, values in rates.items()}
        if own is None and (planted["cause"] != CONTROL or rate[ORIGINAL] >= LEARNED):
            continue
        causes, verdict, reason = judge(own, rate)
        rows.append(
            {
                "world": built.name,
                "family": built.family,
                **{name: planted[name] for name in ("sample_id", "kind", "block")},
                "origin": "natural" if own is None else "planted",
                "planted": own,
                "unlearned": max(rate[ORIGINAL], rate[OTHER_SEED]) < LEARNED,
                **{f"p_{name}": value for name, value in rate.items()},
                "causes": causes,
                "verdict": verdict,
                "reason": reason,
            }
        )
    return pa.Table.from_pylist(rows, schema=labels_schema())


def judge(own: str | None, rate: Mapping[str, float]) -> tuple[list[str], str, str | None]:
    """The causes of a sample, the verdict, and why no label holds where none does.

    Args:
        own: Planted cause, ``None`` for a failure without a plant.
        rate: Its pass rate in the original run and in every arm.
    """
    if rate[ORIGINAL] >= LEARNED:
        return [], "unverified", "learned"
    if rate[OTHER_SEED] >= LEARNED:
        return [], "unverified", "unstable"
    if rate[REPLAY] >= LEARNED:
        return [], "unverified", "placebo"
    found = [cause for cause in CAUSES if rate[ARM_OF[cause]] >= LEARNED]
    if own is None:
        # Nothing was broken about a control that could be mended.
        found = [cause for cause in found if cause != PIPELINE]
    if not found or (own is not None and own not in found):
        return [], "unverified", "not recovered"
    first = own or found[0]
    causes = [first, *(cause for cause in found if cause != first)]
    return causes, "verified" if len(causes) == 1 else "two_causes", None


def _kept(built: BuiltWorld, name: str, details: tuple[object, ...], compute: Callable[[Any], Array]) -> Array:
    """Pass rates that are computed once for one digest, and whole or not at all."""
    folder = built.folder / f"arms-{built.model.parent.name}" / name
    with stage(folder, digest_of(*details)) as partial:
        if partial is not None:
            write_table(pa.table({"p": compute(partial)}), partial / "p.parquet")
    kept: Array = pq.read_table(folder / "p.parquet")["p"].to_numpy()
    return kept
