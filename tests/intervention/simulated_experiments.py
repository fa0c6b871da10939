"""Made-up experiments whose true effects are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from ilp_service.intervention.arms import MEASURED, Arm, ArmResult, Cost
from ilp_service.remedies import Change, Price

CAUSES = ("data_inconsistency", "left_side_forgetting", "missing_knowledge")


def measured(p: Mapping[str, float], **others: Mapping[str, float | None]) -> pa.Table:
    """What is measured where each sample has this pass rate."""
    rows = [
        {
            "sample_id": key,
            "p_correct": rate,
            "unlearned": rate < 0.2,
            "greedy_match": None,
            **{name: values.get(key) for name, values in others.items()},
        }
        for key, rate in p.items()
    ]
    return pa.Table.from_pylist(rows, schema=MEASURED)


def attributed(causes: Mapping[str, str]) -> pa.Table:
    """The attributions of these samples."""
    return pa.table({"sample_id": list(causes), "cause": list(causes.values())})


COST = Cost(training_tokens=2_000_000, continued_tokens=500_000, steps=100, seconds=60.0, peak_memory_bytes=10**9)


def result(
    arm: str, seed: int, p: Mapping[str, float], *, loss: float | None = None, **others: Mapping[str, float | None]
) -> ArmResult:
    return ArmResult(arm, seed, "done", "", measured(p, **others), loss, COST)


def diverged(arm: str, seed: int) -> ArmResult:
    reason = "The loss was not finite at step 7."
    return ArmResult(arm, seed, "diverged", reason, MEASURED.empty_table(), None, COST)


def remedy(name: str, treats: Mapping[str, Sequence[str]], *, change: Change | None = None) -> Arm:
    kept = {cause: tuple(keys) for cause, keys in treats.items()}
    return Arm(name, "remedy", change or Change(), kept, "again", price=Price(training_tokens=1_000_000))


def placebo(name: str = "again") -> Arm:
    return Arm(name, "placebo", Change())


def ids_of(cause: str, count: int) -> list[str]:
    return [f"{cause[:4]}{index:03d}" for index in range(count)]


def experiment(
    shares: Mapping[str, Mapping[str, float]],
    *,
    each: int = 30,
    learned: int = 50,
    lost: float = 0.0,
    seeds: Sequence[int] = (0, 1),
    seed: int = 0,
) -> tuple[pa.Table, pa.Table, list[Arm], list[ArmResult]]:
    """An experiment with one remedy a cause.

    Args:
        shares: Chance that a sample of a cause is recovered, by arm (``mend <cause>`` or ``again``) and cause.
        each: Samples of each cause.
        learned: Samples that the diagnosed model has learned.
        lost: Chance that a remedy unlearns one of them.
        seeds: Of the fine-tuning.
        seed: Of the made-up outcomes.
    """
    rng = np.random.default_rng(seed)
    groups = {cause: ids_of(cause, each) for cause in CAUSES}
    fine = [f"fine{index:03d}" for index in range(learned)]
    original = dict.fromkeys([key for keys in groups.values() for key in keys], 0.05) | dict.fromkeys(fine, 0.9)
    arms = [*(remedy(f"mend {cause}", {cause: groups[cause]}) for cause in CAUSES), placebo()]
    results = []
    for arm in arms:
        for number in seeds:
            p = {}
            for cause, keys in groups.items():
                chance = shares.get(arm.name, {}).get(cause, 0.0)
                p.update(dict(zip(keys, np.where(rng.random(each) < chance, 0.8, 0.05).tolist(), strict=True)))
            away = lost if arm.kind == "remedy" else 0.0
            p.update(dict(zip(fine, np.where(rng.random(learned) < away, 0.1, 0.9).tolist(), strict=True)))
            results.append(result(arm.name, number, p, loss=3.0 + 0.1 * (arm.kind == "remedy")))
    causes = {key: cause for cause, keys in groups.items() for key in keys}
    return measured(original), attributed(causes), arms, results
