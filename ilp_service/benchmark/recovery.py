"""How many samples of each planted cause every intervention makes learned, beyond what a placebo does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.benchmark.counterfactuals import PLACEBOS, placebo_of
from ilp_service.benchmark.plants import CAUSES
from ilp_service.benchmark.verification import LEARNED, ORIGINAL

Matrix = Mapping[str, Mapping[str, float]]


def arms_of(labels: pa.Table) -> list[str]:
    """Names of the arms whose pass rates the labels hold, in the order of the columns."""
    names = [name.removeprefix("p_") for name in labels.column_names if name.startswith("p_")]
    return [name for name in names if name != ORIGINAL]


def recovered(labels: pa.Table) -> Matrix:
    """Share of the samples of each planted cause that each arm makes learned, placebos among the arms, 0-1.

    Of the planted samples that the first fine-tuning left unlearned; one that an arm did not measure is left out.

    Returns:
        ``{arm: {cause: share}}``; a cause without such samples is absent.
    """
    planted = labels.filter(pc.equal(labels["origin"], "planted"))
    failed = _rates(planted, ORIGINAL) < LEARNED
    causes = np.array([str(cause) for cause in planted["planted"].to_pylist()], dtype=np.str_)
    found: dict[str, dict[str, float]] = {}
    for arm in arms_of(labels):
        p = _rates(planted, arm)
        measured = failed & ~np.isnan(p)
        rows = {cause: p[measured & (causes == cause)] for cause in CAUSES}
        found[arm] = {cause: float((values >= LEARNED).mean()) for cause, values in rows.items() if len(values)}
    return found


def beyond_placebo(shares: Matrix) -> Matrix:
    """Every intervention's shares minus those of its placebo (``placebo_of``); placebos are left out."""
    return {
        arm: {cause: share - shares.get(placebo_of(arm), {}).get(cause, 0.0) for cause, share in row.items()}
        for arm, row in shares.items()
        if arm not in PLACEBOS
    }


def median_of(matrices: Iterable[Matrix]) -> dict[str, dict[str, float]]:
    """Cell by cell, the median over worlds that have the cell."""
    cells: dict[str, dict[str, list[float]]] = {}
    for matrix in matrices:
        for arm, row in matrix.items():
            for cause, share in row.items():
                cells.setdefault(arm, {}).setdefault(cause, []).append(share)
    return {arm: {cause: float(np.median(values)) for cause, values in row.items()} for arm, row in cells.items()}


def _rates(labels: pa.Table, arm: str) -> npt.NDArray[np.float64]:
    """Pass rates in one run, NaN where it was not measured."""
    values = labels[f"p_{arm}"].combine_chunks().cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64)
