"""From measurements to the frozen study that the cause plugins see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.detection.criterion import detect, most_severe
from ilp_service.diagnosis.prepare import Prepared
from ilp_service.evaluation.measurement import Evaluator, Slices
from ilp_service.evaluation.probing import probe
from ilp_service.samples.similarity import near_prompts
from ilp_service.settings import DetectionSettings, Settings
from ilp_service.study import Study


@dataclass(frozen=True, slots=True)
class Investigated:
    """The study, and what it rests on.

    Attributes:
        study: What cause plugins see.
        evaluation: Of every sample.
        twins: Ids of samples that ask the same and answer otherwise, by sample id, nearest first.
        lengths: Response tokens by sample id.
    """

    study: Study
    evaluation: pa.Table
    twins: Mapping[str, Sequence[str]]
    lengths: Mapping[str, int]


def _pairs(neighbours: pa.Table, *, contradicting: bool) -> dict[str, list[str]]:
    """Samples that ask the same thing (and, if ``contradicting``, answer otherwise), by sample id, nearest first."""
    pairs: dict[str, list[str]] = defaultdict(list)
    names = ("sample_id", "neighbour_id", "same_answer", "same_entities")
    for left, right, same, asks_same in zip(*(neighbours.column(n).to_pylist() for n in names), strict=True):
        if asks_same and not (contradicting and same):
            pairs[left].append(right)
    return pairs


def _rendering(table: pa.Table, end_logprobs: dict[str, float]) -> pa.Table:
    """The rendering with the end token's score, where the response ends with one."""
    ends = zip(table.column("sample_id").to_pylist(), table.column("ends_with_eos").to_pylist(), strict=True)
    values = [end_logprobs.get(key) if has_end else None for key, has_end in ends]
    return table.append_column("end_logprob", pa.array(values, type=pa.float64()))


def investigate(
    prepared: Prepared,
    settings: Settings,
    slices: Slices,
    say: Callable[[str], None],
    explained: DetectionSettings | None = None,
) -> Investigated:
    """Measure, detect and probe.

    Args:
        prepared: The inputs.
        settings: Of the diagnosis; ``detection`` says which samples count as unlearned.
        slices: Where finished slices are kept.
        say: Takes one line of progress for people.
        explained: Which samples the study is to explain, where these are others than the unlearned ones.
    """
    samples, checkpoint = prepared.samples, prepared.checkpoint
    neighbours = near_prompts(samples, samples, threshold=settings.knowledge.similarity)
    lengths = dict(
        zip(*(prepared.rendering.column(name).to_pylist() for name in ("sample_id", "response_tokens")), strict=True)
    )
    evaluator = Evaluator(checkpoint, prepared.renderer, settings, slices, samples)
    twins = _pairs(neighbours, contradicting=True)
    measured = evaluator.measure(twins, lengths)
    evaluation = detect(measured.evaluation, settings.detection)
    criterion = explained or settings.detection
    unlearned = most_severe(detect(measured.evaluation, criterion), criterion)
    total = pc.sum(evaluation.column("unlearned")).as_py() or 0
    say(f"{total} of {len(samples)} samples are unlearned; {len(unlearned)} go to attribution.")
    probed = probe(evaluator, measured, unlearned, _pairs(neighbours, contradicting=False))
    evaluation = detect(probed.evaluation, settings.detection)
    wanted = pa.array(unlearned, type=pa.string())
    study = Study(
        samples=samples,
        unlearned=unlearned,
        evaluation=evaluation,
        options=probed.options,
        neighbours=neighbours.filter(pc.is_in(neighbours.column("sample_id"), value_set=wanted)),
        rendering=_rendering(prepared.rendering, dict(probed.end_logprobs)),
        trajectory=prepared.trajectory,
        has_base=checkpoint.has_base,
        settings=settings.dotted(),
        file_rows=prepared.data.rows,
    )
    return Investigated(study, evaluation, twins, lengths)
