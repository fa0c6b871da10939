"""The study: all that a cause plugin may look at, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa

from ilp_service.samples.sample import Sample


@dataclass(frozen=True, slots=True)
class Study:
    """Everything measured about one checkpoint and its training data, read-only.

    Attributes:
        samples: Every sample that was diagnosed, in file order.
        unlearned: Ids of the samples to explain, most severe first; a plugin returns one row for each.
        evaluation: One row a sample (see the ``evaluation`` table in ``docs/tables.md``).
        options: One row an option of every *unlearned* sample: ``sample_id, option, text, source``
            (``gold, choice, same_type, same_subject, base_preferred, twin, number, near_miss, other_response``), and
            the probability of the option within the sample's options under ``p`` (tuned), ``base_p`` (base,
            the same prompt), ``few_shot_base_p``, ``cloze_base_p``, ``probe_base_p``; null where not measured.
        neighbours: One row a near pair of prompts: ``sample_id, neighbour_id, similarity`` (0-1, cosine),
            ``same_answer`` (bool), ``same_entities`` (bool: both ask about the same thing, and not only by the same
            template); only unlearned samples on the left side.
        rendering: One row a sample, what the tokenizer made of it: ``sample_id, prompt_tokens, response_tokens,
            truncated_tokens`` (response tokens beyond the training length), ``bos_tokens, ends_with_eos,
            unknown_tokens, round_trips, end_logprob`` (nats, tuned model's log-probability of the end token
            after the response; null where it has none).
        trajectory: The training record (schema ``ilp_service.tables.TRAJECTORY``), or ``None``.
        has_base: Whether the base model was measured.
        settings: Thresholds by dotted name, e.g. ``knowledge.exists``.
        file_rows: Rows of the whole data file, of which ``samples`` may be the first part (``--limit``); ``None`` where
            that is not known. ``Sample.position`` counts in the same rows, from 0.
    """

    samples: tuple[Sample, ...]
    unlearned: tuple[str, ...]
    evaluation: pa.Table
    options: pa.Table
    neighbours: pa.Table
    rendering: pa.Table
    trajectory: pa.Table | None
    has_base: bool
    settings: Mapping[str, float]
    file_rows: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
