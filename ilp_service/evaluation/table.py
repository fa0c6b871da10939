"""The evaluation table: one row a sample, both views, tuned model and base side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.evaluation.distractors import Option
from ilp_service.evaluation.multiple_choice import best_of_n, jsd_bits, margin, option_probabilities, option_scores
from ilp_service.samples.sample import Sample

Array = npt.NDArray[np.float64]


def _field(name: str, kind: pa.DataType, unit: str, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "meaning": meaning})


def _measured(prefix: str, model: str) -> list[pa.Field]:
    return [
        _field(f"{prefix}p_correct", pa.float64(), "0-1", f"expected pass rate of the {model}; higher is better"),
        _field(f"{prefix}bon_correct", pa.float64(), "0-1", f"expected best-of-N accuracy of the {model}"),
        _field(f"{prefix}margin", pa.float64(), "nats", "right option minus the best wrong one"),
        _field(f"{prefix}logprob", pa.float64(), "nats", "log-probability of the response"),
        _field(f"{prefix}logprob_per_token", pa.float64(), "nats per token", "the same by token"),
        _field(f"{prefix}greedy_match", pa.bool_(), "", f"whether the {model}'s greedy continuation matches"),
        _field(
            f"{prefix}sample_match_rate",
            pa.float64(),
            "0-1",
            f"share of the {model}'s sampled continuations that match",
        ),
    ]


EVALUATION = pa.schema(
    [
        _field("sample_id", pa.string(), "", "content hash and occurrence"),
        _field("subset", pa.string(), "", "part of the data set"),
        _field("position", pa.int64(), "rows", "row in the file, from 0"),
        _field("turn", pa.int64(), "turns", "assistant turn in the row, from 0"),
        _field("n_tokens", pa.int64(), "tokens", "response tokens"),
        _field("n_options", pa.int64(), "options", "options of the multiple-choice view; 1 means none could be found"),
        *_measured("", "tuned model"),
        *_measured("base_", "base model"),
        _field(
            "cloze_base_p_correct", pa.float64(), "0-1", "base model, asked by statements rewritten from the question"
        ),
        _field("few_shot_base_p_correct", pa.float64(), "0-1", "base model, after learned samples of the same subset"),
        _field("probe_base_p_correct", pa.float64(), "0-1", "base model, asked by the data's own probes"),
        _field(
            "base_forms_disagree",
            pa.bool_(),
            "",
            "whether one form says the base knows it and another that it does not",
        ),
        _field("jsd", pa.float64(), "bits", "Jensen-Shannon divergence of base and tuned model over the options, 0-1"),
        _field("unlearned", pa.bool_(), "", "whether the sample counts as unlearned"),
        _field("unlearned_by", pa.string(), "", "view that says so: mc, generation, both; null where neither does"),
    ]
)


@dataclass(frozen=True, slots=True)
class ScoredOptions:
    """The options of one sample as one model scored them.

    ``scores`` and ``p`` have shape ``(options,)``; option 0 is the sample's own response.
    """

    logprobs: Array
    last_logprob: float
    scores: Array
    p: Array
    tokens: int


def scored_options(table: pa.Table, matched: Mapping[str, bool]) -> dict[str, ScoredOptions]:
    """Read a pass over options (schema ``passes.OPTION_SCORES``) into one entry a sample."""
    found: dict[str, ScoredOptions] = {}
    ids = table.column("sample_id").to_pylist()
    if not ids:
        return found
    logprobs = table.column("logprob").to_numpy()
    last = table.column("last_logprob").to_numpy()
    tokens = table.column("tokens").to_numpy()
    starts = [0, *(i for i in range(1, len(ids)) if ids[i] != ids[i - 1]), len(ids)]
    for begin, end in pairwise(starts):
        key = ids[begin]
        own = np.asarray(logprobs[begin:end], dtype=np.float64)
        scores = option_scores(own, tokens[begin:end], matched=matched[key])
        found[key] = ScoredOptions(own, float(last[begin]), scores, option_probabilities(scores), int(tokens[begin]))
    return found


def _view(
    prefix: str, scored: ScoredOptions | None, generated: Mapping[str, object] | None, runs: int
) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(
        (f"{prefix}{n}" for n in ("p_correct", "bon_correct", "margin", "logprob", "logprob_per_token")), None
    )
    if scored is not None and not np.isnan(scored.logprobs[0]):
        row[f"{prefix}logprob"] = float(scored.logprobs[0])
        row[f"{prefix}logprob_per_token"] = float(scored.logprobs[0]) / scored.tokens
        if np.isfinite(scored.logprobs).sum() > 1:
            row[f"{prefix}p_correct"] = float(scored.p[0])
            row[f"{prefix}bon_correct"] = best_of_n(scored.p, 0, runs)
            row[f"{prefix}margin"] = margin(scored.scores, 0)
    row[f"{prefix}greedy_match"] = generated["greedy_match"] if generated else None
    row[f"{prefix}sample_match_rate"] = generated["sample_match_rate"] if generated else None
    return row


def evaluation_rows(
    samples: Sequence[Sample],
    options: Mapping[str, Sequence[Option]],
    tuned: Mapping[str, ScoredOptions],
    base: Mapping[str, ScoredOptions],
    tuned_generation: Mapping[str, Mapping[str, object]],
    base_generation: Mapping[str, Mapping[str, object]],
    runs: int,
) -> pa.Table:
    """Rows of the evaluation table before detection and probing; the columns those fill are null."""
    rows = []
    for sample in samples:
        key = sample.sample_id
        own, before = tuned[key], base.get(key)
        both = before is not None and len(own.p) > 1 and not np.isnan(own.p + before.p).any()
        jsd = jsd_bits(own.p, before.p) if before is not None and both else None
        rows.append(
            {
                "sample_id": key,
                "subset": sample.subset,
                "position": sample.position,
                "turn": sample.turn,
                "n_tokens": own.tokens,
                "n_options": len(options[key]),
                **_view("", own, tuned_generation.get(key), runs),
                **_view("base_", before, base_generation.get(key), runs),
                "jsd": jsd,
            }
        )
    return pa.Table.from_pylist(rows, schema=EVALUATION)


def fill(table: pa.Table, column: str, values: Sequence[object]) -> pa.Table:
    """The table with one column replaced, its type and description kept."""
    index = table.schema.get_field_index(column)
    return table.set_column(index, table.schema.field(index), pa.array(values, type=table.schema.field(index).type))
