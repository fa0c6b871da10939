"""Rows of the evaluation table where something could not be scored."""

import numpy as np

from ilp_service.evaluation.distractors import Option
from ilp_service.evaluation.table import ScoredOptions, evaluation_rows
from ilp_service.samples.sample import Message, Sample

OPTIONS = {"s": (Option("a", "gold", gold=True), Option("b", "same_type", gold=False))}
SAMPLE = Sample("s", (Message("user", "q ?"),), "a", False, "default", 0)


def scored(*logprobs: float) -> dict[str, ScoredOptions]:
    own = np.array(logprobs)
    p = np.exp(own) / np.exp(own).sum()
    return {"s": ScoredOptions(own, -0.1, own, p, 1)}


def row(tuned: dict[str, ScoredOptions], base: dict[str, ScoredOptions]) -> dict[str, object]:
    found: dict[str, object] = evaluation_rows([SAMPLE], OPTIONS, tuned, base, {}, {}, 5).to_pylist()[0]
    return found


def test_a_base_that_cannot_read_a_sample_diverges_by_nothing_known() -> None:
    found = row(scored(-1.0, -2.0), scored(np.nan, np.nan))
    assert found["jsd"] is None
    assert found["base_p_correct"] is None
    assert found["p_correct"] is not None


def test_one_readable_option_is_no_choice() -> None:
    found = row(scored(-1.0, -np.inf), {})
    assert found["p_correct"] is None
    assert found["margin"] is None
    assert found["logprob"] == -1.0
