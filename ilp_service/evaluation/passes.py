"""One pass of one model over some samples: what is asked of the engine, and the table that comes back.

Every function takes a slice of the data set and returns a small table, so that a caller can store slice after
slice and go on where it stopped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.errors import DataFormatError
from ilp_service.evaluation.distractors import Option
from ilp_service.evaluation.matching import matches
from ilp_service.evaluation.multiple_choice import mean_probabilities, option_probabilities
from ilp_service.evaluation.statements import statements
from ilp_service.samples.rendering import Rendered, Renderer
from ilp_service.samples.sample import Sample
from ilp_service.scoring.engine import Scorer
from ilp_service.scoring.generation import Generator
from ilp_service.scoring.requests import GenerationRequest, ScoringRequest
from ilp_service.settings import EvaluationSettings

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
COMPLETIONS = pa.schema([("sample_id", pa.string()), ("text", pa.string())])
_END_OF_ANSWER = re.compile(r"[;!?\n]|[.,:](?!\d)")
PROBES = pa.schema([("sample_id", pa.string()), ("option", pa.int64()), ("p", pa.float64())])

Options = Mapping[str, Sequence[Option]]
Shots = Callable[[Sample], Sequence[Sample]]


def _rows(schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    return pa.table([list(column) for column in columns], schema=schema)


def _request(scorer: Scorer, key: str, rendered: Sequence[Rendered | str]) -> tuple[ScoringRequest, list[int]] | None:
    """One request for the options that the model can read, and their places; ``None`` when the first has no tokens."""
    first = rendered[0]
    if isinstance(first, str):
        return None

    def readable(one: Rendered) -> bool:
        return scorer.refusal(ScoringRequest(key, one.prompt_ids, (one.response_ids,))) is None

    # The engine refuses a request as a whole, and one overlong wrong option must not take the right one with it.
    usable = [
        (place, one.response_ids)
        for place, one in enumerate(rendered)
        if not isinstance(one, str) and one.prompt_ids == first.prompt_ids and (place == 0 or readable(one))
    ]
    return ScoringRequest(key, first.prompt_ids, tuple(ids for _, ids in usable)), [place for place, _ in usable]


def _after_examples(renderer: Renderer, solved: Sequence[Sample], sample: Sample, text: str) -> Rendered | str:
    """A response after solved examples, or why it cannot be rendered."""
    try:
        return renderer.render_few_shot(solved, sample, text)
    except DataFormatError as error:
        return str(error)


def _statement_request(renderer: Renderer, key: str, statement: str, answers: Sequence[str]) -> ScoringRequest | None:
    """The answers as completions of a statement; ``None`` where one of them has no tokens."""
    try:
        pairs = [renderer.render_statement(statement, answer) for answer in answers]
    except DataFormatError:
        return None
    if any(context != pairs[0][0] for context, _ in pairs):
        return None
    return ScoringRequest(key, pairs[0][0], tuple(ids for _, ids in pairs))


def score_options(
    scorer: Scorer, renderer: Renderer, samples: Sequence[Sample], options: Options, shots: Shots | None = None
) -> pa.Table:
    """Log-probability of every option after the sample's prompt (after solved examples, with ``shots``).

    A sample without examples has no rows. An option without tokens, or too long for the model, has log-probability
    minus infinity; a sample whose own response is too long has NaN.
    """
    requests, places, counts = [], {}, {}
    for sample in samples:
        texts = [option.text for option in options[sample.sample_id]]
        if shots is None:
            made = _request(scorer, sample.sample_id, renderer.render_options(sample, texts))
        else:
            solved = shots(sample)
            few = [_after_examples(renderer, solved, sample, text) for text in texts] if solved else []
            made = _request(scorer, sample.sample_id, few) if few else None
        if made is not None:
            requests.append(made[0])
            places[sample.sample_id], counts[sample.sample_id] = made[1], len(texts)
    rows = []
    for request, answer in zip(requests, scorer.score(requests), strict=True):
        found = dict(zip(places[answer.key], range(len(request.options)), strict=True))
        for index in range(counts[answer.key]):
            if index in found:
                n = found[index]
                scores = (float(answer.logprobs[n]), float(answer.last_logprobs[n]), len(request.options[n]))
            else:
                scores = (float("-inf"), float("nan"), 1)
            rows.append((answer.key, index, *scores))
    return _rows(OPTION_SCORES, rows)


def score_statements(
    scorer: Scorer, renderer: Renderer, samples: Sequence[Sample], options: Options, *, own_probes: bool
) -> pa.Table:
    """Probability of every option as the completion of statements, averaged over the statements.

    Args:
        scorer: Over the base model.
        renderer: Makes token ids.
        samples: The samples to probe; those without a statement give no rows.
        options: Options by sample id.
        own_probes: Take the statements of the data's ``probes`` column instead of rewriting the question.
    """
    requests = []
    for sample in samples:
        texts = [option.text for option in options[sample.sample_id]]
        if len(texts) < 2:
            continue
        if own_probes:
            asked = [(probe.text, [probe.answer, *texts[1:]]) for probe in sample.probes]
        else:
            asked = [(statement, texts) for statement in statements(sample.prompt)]
        for number, (statement, answers) in enumerate(asked):
            request = _statement_request(renderer, f"{sample.sample_id}#{number}", statement, answers)
            if request is not None:
                requests.append(request)
    by_sample: dict[str, list[npt.NDArray[np.float64]]] = {}
    for answer in scorer.score(requests):
        if not np.isnan(answer.logprobs).any():
            by_sample.setdefault(answer.key.rpartition("#")[0], []).append(option_probabilities(answer.logprobs))
    return _rows(
        PROBES,
        [
            (key, index, float(p))
            for key, distributions in by_sample.items()
            for index, p in enumerate(mean_probabilities(distributions))
        ],
    )


def generate(
    generator: Generator,
    renderer: Renderer,
    samples: Sequence[Sample],
    long: Mapping[str, bool],
    settings: EvaluationSettings,
) -> pa.Table:
    """The greedy and the sampled continuations of every prompt, and how many of them match the response."""
    requests = []
    for sample in samples:
        rendered = renderer.render(sample)
        length = len(rendered.response_ids)
        budget = min(settings.max_new_tokens, length + max(8, length // 4))
        requests.append(GenerationRequest(sample.sample_id, rendered.prompt_ids, budget))
    by_id = {sample.sample_id: sample for sample in samples}
    rows = []
    for answer in generator.generate(requests):
        wanted = by_id[answer.key].response
        texts = [renderer.decode(ids) for ids in (answer.greedy, *answer.samples)]
        hits = [matches(wanted, text, long=long[answer.key], threshold=settings.rouge_l) for text in texts]
        rows.append((answer.key, texts[0], hits[0], float(np.mean(hits[1:])) if len(hits) > 1 else None))
    return _rows(GENERATIONS, rows)


def first_answer(text: str) -> str:
    """A base's continuation up to the end of its first line or clause: a base goes on where an answer would end."""
    return _END_OF_ANSWER.split(text.strip())[0].strip()


def complete_statements(
    generator: Generator, renderer: Renderer, samples: Sequence[Sample], lengths: Mapping[str, int]
) -> pa.Table:
    """How the base completes the statement made of each question, up to the first punctuation."""
    requests = []
    for sample in samples:
        for statement in statements(sample.prompt)[:1]:
            context, _ = renderer.render_statement(statement, sample.response)
            requests.append(GenerationRequest(sample.sample_id, context, lengths[sample.sample_id] + 4))
    answers = generator.generate(requests)
    texts = [(answer.key, first_answer(renderer.decode(answer.greedy))) for answer in answers]
    return _rows(COMPLETIONS, texts)
