"""A cause of my own: the response is far longer than what the model learned."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.plugin import Array, Cause, Signal, Study, hookimpl


class LongResponse(Cause):
    """The response is longer than nearly all that were learned."""

    name = "long_response"
    title = "The response is far longer than those that were learned"
    signals = (
        Signal("length_rank", "0-1", "+", "Share of the learned samples with a shorter response."),
        Signal("length", "text", "0", "Its response tokens.", kind="text"),
        Signal("typical_length", "text", "0", "Response tokens of the median learned sample.", kind="text"),
    )

    def collect(self, study: Study) -> pa.Table:
        """One row for each of study.unlearned."""
        tokens = _by_id(study.rendering, "response_tokens")
        unlearned = _by_id(study.evaluation, "unlearned")
        learned = sorted(tokens[key] for key in tokens if not unlearned[key])
        own = [tokens[key] for key in study.unlearned]
        # Null, never NaN, for what could not be measured: here, when nothing at all was learned.
        rank = [float(np.searchsorted(learned, n) / len(learned)) if learned else None for n in own]
        typical = f"{np.median(learned):.0f}" if learned else None
        return pa.table(
            {
                "sample_id": pa.array(study.unlearned, pa.string()),
                "length_rank": pa.array(rank, pa.float64()),
                "length": pa.array([str(n) for n in own], pa.string()),
                "typical_length": pa.array([typical] * len(own), pa.string()),
            }
        )

    def rule(self, signals: Mapping[str, Array]) -> Array:
        """A score from 0 to 1; the verdict is threshold or more. Null arrives as NaN, which compares as False."""
        return np.where(signals["length_rank"] >= 0.99, 1.0, 0.0)

    def excluded(self, signals: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """Where the evidence rules the cause out, whatever a classifier thinks."""
        return signals["length_rank"] < 0.5

    def explain(self, row: Mapping[str, Any]) -> str:
        """One sentence that quotes the evidence; any value may be None."""
        return f"Its response has {row['length']} tokens; the median learned one has {row['typical_length']}."


def _by_id(table: pa.Table, column: str) -> dict[str, Any]:
    return dict(zip(table["sample_id"].to_pylist(), table[column].to_pylist(), strict=True))


@hookimpl
def ilp_causes() -> Sequence[Cause]:
    """Called when a diagnosis starts."""
    return [LongResponse()]
