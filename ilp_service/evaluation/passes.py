"""One pass of one model over some samples: what is asked of the engine, and the table that comes back.

Every function takes a slice of the data set and returns a small table, so that a caller can store slice after
slice and go on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ilp_service.evaluation.distractors import Option
from ilp_service.evaluation.matching import matches
from ilp_service.evaluation.multiple_choice import mean_probabilities, option_probabilities
from ilp_service.evaluation.statements import statements
from ilp_service.samples.rendering import Renderer
from ilp_service.samples.sample import Sample
from ilp_service.scoring.requests import GenerationRequest, ScoringRequest
from ilp_service.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPTION_SCORES = pa.schema(
    [
        ("sample_id", pa.string()),
        ("option", pa.int64()),
        ("logprob", pa.float64()),
        ("last_logprob", pa.float64()),
        ("tokens", pa.int64()),
    ]
)
GENERATIONS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("greedy_text", pa.string()),
        ("greedy_match", pa.bool_()),
        ("sample_match_rate", pa.float64()),
    ]
)
PROBES = pa.schema([("sample_id", pa.string()), ("option", pa.int64()), ("p", pa.float64())])

Options = Mapping[str, Sequence[Option]]
Shots = Callable[[Sample], Sequence[Sample]]


def _scored(
    model: PreTrainedModel, renderer: Renderer, requests: Iterable[ScoringRequest], settings: Settings
) -> Iterable[tuple[str, np.ndarray, np.ndarray]]:  # type: ignore[type-arg]
    from ilp_service.scoring.engine import Scorer

    scorer = Scorer(model, max_batch_tokens=settings.scoring.max_batch_tokens)
    for answer in scorer.score(requests):
        yield answer.key, answer.logprobs, answer.last_logprobs


def score_options(
    model: PreTrainedModel,
    renderer: Renderer,
    samples: Sequence[Sample],
    options: Options,
    settings: Settings,
    shots: Shots | None = None,
) -> pa.Table:
    """Log-probability of every option after the sample's prompt (after solved examples, with ``shots``)."""
    requests = []
    for sample in samples:
        solved = shots(sample) if shots else ()
        if shots and not solved:
            continue
        rendered = [
            renderer.render_few_shot(solved, sample, option.text) if shots else renderer.render(sample, option.text)
            for option in options[sample.sample_id]
        ]
        requests.append(
            ScoringRequest(sample.sample_id, rendered[0].prompt_ids, tuple(r.response_ids for r in rendered))
        )
    lengths = {request.key: [len(option) for option in request.options] for request in requests}
    rows: dict[str, list[object]] = {name: [] for name in OPTION_SCORES.names}
    for key, logprobs, last in _scored(model, renderer, requests, settings):
        for index, (logprob, last_logprob) in enumerate(zip(logprobs, last, strict=True)):
            for name, value in zip(
                OPTION_SCORES.names, (key, index, float(logprob), float(last_logprob), lengths[key][index]), strict=True
            ):
                rows[name].append(value)
    return pa.table(rows, schema=OPTION_SCORES)


def score_statements(
    model: PreTrainedModel,
    renderer: Renderer,
    samples: Sequence[Sample],
    options: Options,
    settings: Settings,
    *,
    own_probes: bool,
) -> pa.Table:
    """Probability of every option as the completion of statements, averaged over the statements.

    Args:
        model: The base model.
        renderer: Makes token ids.
        samples: The samples to probe; those without a statement give no rows.
        options: Options by sample id.
        settings: Batch size.
        own_probes: Take the statements of the data's ``probes`` column instead of rewriting the question.
    """
    requests = []
    for sample in samples:
        texts = [option.text for option in options[sample.sample_id]]
        if own_probes:
            asked = [(probe.text, [probe.answer, *texts[1:]]) for probe in sample.probes]
        else:
            asked = [(statement, texts) for statement in statements(sample.prompt)]
        for number, (statement, answers) in enumerate(asked):
            pairs = [renderer.render_statement(statement, answer) for answer in answers]
            if len(pairs) > 1 and all(ids for _, ids in pairs):
                requests.append(
                    ScoringRequest(f"{sample.sample_id}#{number}", pairs[0][0], tuple(ids for _, ids in pairs))
                )
    by_sample: dict[str, list[np.ndarray]] = {}  # type: ignore[type-arg]
    for key, logprobs, _ in _scored(model, renderer, requests, settings):
        by_sample.setdefault(key.rpartition("#")[0], []).append(option_probabilities(logprobs))
    rows: dict[str, list[object]] = {name: [] for name in PROBES.names}
    for key, distributions in by_sample.items():
        for index, p in enumerate(mean_probabilities(distributions)):
            for name, value in zip(PROBES.names, (key, index, float(p)), strict=True):
                rows[name].append(value)
    return pa.table(rows, schema=PROBES)


def generate(
    model: PreTrainedModel,
    renderer: Renderer,
    samples: Sequence[Sample],
    long: Mapping[str, bool],
    stop_ids: frozenset[int],
    settings: Settings,
) -> pa.Table:
    """The greedy and the sampled continuations of every prompt, and how many of them match the response."""
    from ilp_service.scoring.generation import Generator

    part = settings.evaluation
    requests = []
    for sample in samples:
        rendered = renderer.render(sample)
        length = len(rendered.response_ids)
        budget = min(part.max_new_tokens, length + max(8, length // 4))
        requests.append(GenerationRequest(sample.sample_id, rendered.prompt_ids, budget))
    generator = Generator(
        model,
        max_batch_tokens=settings.scoring.max_batch_tokens,
        stop_ids=stop_ids,
        temperature=part.temperature,
        samples=part.samples,
        seed=settings.seed,
    )
    by_id = {sample.sample_id: sample for sample in samples}
    rows: dict[str, list[object]] = {name: [] for name in GENERATIONS.names}
    for answer in generator.generate(requests):
        sample = by_id[answer.key]
        texts = [renderer.decode(ids) for ids in (answer.greedy, *answer.samples)]
        is_long = long[answer.key]
        hits = [matches(sample.response, text, long=is_long, threshold=part.rouge_l) for text in texts]
        rate = float(np.mean(hits[1:])) if len(hits) > 1 else None
        for name, value in zip(GENERATIONS.names, (answer.key, texts[0], hits[0], rate), strict=True):
            rows[name].append(value)
    return pa.table(rows, schema=GENERATIONS)
