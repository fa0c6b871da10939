"""Which samples are unlearned, by which view, and which of them are the most severe (paper, section 3)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ilp_service.evaluation.table import fill
from ilp_service.settings import DetectionSettings


def _below(table: pa.Table, column: str, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    values = table.column(column).to_numpy(zero_copy_only=False).astype(np.float64)
    measured = ~np.isnan(values)
    return measured, measured & (np.nan_to_num(values, nan=1.0) < threshold)


def detect(evaluation: pa.Table, settings: DetectionSettings) -> pa.Table:
    """Fill ``unlearned`` and ``unlearned_by``: a view calls a sample unlearned when its pass rate is below T.

    The pass rate is ``p_correct`` in the multiple-choice view and ``sample_match_rate`` in the generation view.
    Where the deciding view could not be measured, the other one decides.
    """
    has_mc, mc = _below(evaluation, "p_correct", settings.threshold)
    has_generation, generation = _below(evaluation, "sample_match_rate", settings.threshold)
    decided = {
        "mc": np.where(has_mc, mc, generation),
        "generation": np.where(has_generation, generation, mc),
        "both": np.where(has_mc & has_generation, mc & generation, mc | generation),
        "either": mc | generation,
    }[settings.view]
    by = [
        "both" if a and b else "mc" if a else "generation" if b else None for a, b in zip(mc, generation, strict=True)
    ]
    table = fill(evaluation, "unlearned", [bool(value) for value in decided])
    return fill(table, "unlearned_by", by)


def most_severe(evaluation: pa.Table, settings: DetectionSettings) -> tuple[str, ...]:
    """Ids of the unlearned samples, most severe first, at most K; ties by id.

    Severity is the pass rate of the deciding view, then the log-probability of the response by token.
    """
    first, second = ("p_correct", "sample_match_rate")
    if settings.view == "generation":
        first, second = second, first
    rows = evaluation.select(
        ["sample_id", "unlearned", "p_correct", "sample_match_rate", "logprob_per_token"]
    ).to_pylist()

    def severity(row: dict[str, float | str | None]) -> tuple[float, float, str]:
        rate = row[first] if row[first] is not None else row[second]
        per_token = row["logprob_per_token"]
        return (float(rate or 0.0), float(per_token or 0.0), str(row["sample_id"]))

    unlearned = sorted((row for row in rows if row["unlearned"]), key=severity)
    return tuple(row["sample_id"] for row in unlearned[: settings.max_attributed])


def views_disagreement(evaluation: pa.Table, threshold: float) -> dict[str, int]:
    """How many samples each view alone, both and neither call unlearned."""
    has_mc, mc = _below(evaluation, "p_correct", threshold)
    has_generation, generation = _below(evaluation, "sample_match_rate", threshold)
    both = has_mc & has_generation
    return {
        "measured_by_both": int(both.sum()),
        "mc_only": int((both & mc & ~generation).sum()),
        "generation_only": int((both & generation & ~mc).sum()),
        "both": int((both & mc & generation).sum()),
        "neither": int((both & ~mc & ~generation).sum()),
    }
