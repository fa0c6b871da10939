"""Every row of a world asked otherwise: by the other questions of its relation, and as a statement to complete.

Memorised is not known: what was learned from its own prompt alone is not there when it is asked about in other words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ilp_service.benchmark.tokenizer import world_tokenizer
from ilp_service.benchmark.vocabulary import DATES, NOUN_QUESTIONS, NOUN_STATEMENTS, RARE_NOUNS, RELATIONS, fill
from ilp_service.benchmark.world import Row, World, corpus_pass

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Array = npt.NDArray[np.float64]

LOSS_DOCUMENTS = 400
"""Documents on which general loss is taken; some ten thousand tokens."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Pass rates of every row, 0-1, in the order of the world's rows; NaN where it cannot be asked so.

    Attributes:
        prompt: Asked as it was trained.
        paraphrase: Mean over the other questions.
        cloze: Mean over the statements.
    """

    prompt: Array
    paraphrase: Array
    cloze: Array


def paraphrases(row: Row) -> tuple[str, ...]:
    """The other questions that ask what a row asks, with what stands before its question kept."""
    forms = _questions(row)
    own = next((form for form in forms if row.prompt.endswith(form)), None)
    if own is None:
        return ()
    head = row.prompt.removesuffix(own)
    return tuple(head + form for form in forms if form != own)


def openings(row: Row) -> tuple[str, ...]:
    """Statements that end where the answer of a row is to come.

    None for a noun whose meaning depends on the date before its question, which no statement has.
    """
    if row.group not in RARE_NOUNS:
        forms, noun = RELATIONS[row.relation].statements, ""
    elif row.prompt.startswith(tuple(f"{date}:" for date in DATES)):
        return ()
    else:
        forms, noun = NOUN_STATEMENTS, row.group
    return tuple(fill(form, S=row.person, N=noun).partition(" V.")[0] for form in forms)


def asked_otherwise(model: PreTrainedModel | PeftModel, world: World) -> Asked:
    """Ask a model every row in every form, among the type's values and the person's others."""
    from ilp_service.scoring.engine import Scorer
    from ilp_service.scoring.requests import ScoringRequest

    tokenizer = world_tokenizer()
    answers = {value: tuple(tokenizer(value)["input_ids"]) for relation in RELATIONS for value in relation.values}
    rates = np.full((3, len(world.rows)), np.nan)
    # Rows that ask the same share one request.
    places: dict[tuple[str, tuple[str, ...]], int] = {}
    wanted: list[tuple[int, int, int, int]] = []
    for index, row in enumerate(world.rows):
        others = [value for place, value in enumerate(world.facts[row.person]) if place != row.relation]
        options = tuple(dict.fromkeys((*RELATIONS[row.relation].values, *others)))
        for form, text in _asked(row):
            request = places.setdefault((text, options), len(places))
            wanted.append((form, index, request, options.index(row.response)))
    requests = [
        ScoringRequest(str(number), tuple(tokenizer(text)["input_ids"]), tuple(answers[value] for value in options))
        for (text, options), number in places.items()
    ]
    chances = []
    for scores in Scorer(model, max_batch_tokens=8192).score(requests):
        weights = np.exp(scores.logprobs - scores.logprobs.max())
        chances.append(weights / weights.sum())
    sums, counts = np.zeros_like(rates), np.zeros_like(rates)
    for form, index, request, place in wanted:
        sums[form, index] += chances[request][place]
        counts[form, index] += 1
    np.divide(sums, counts, out=rates, where=counts > 0)
    return Asked(*rates)


def general_loss(model: PreTrainedModel | PeftModel, world: World, number: int) -> float:
    """Loss on a pass over the corpus that no training read, nats a token."""
    import torch
    from torch.nn.functional import cross_entropy

    tokenizer = world_tokenizer()
    texts = corpus_pass(world, number)
    chosen = np.random.default_rng([world.seed, 22]).permutation(len(texts))[:LOSS_DOCUMENTS]
    rows = [tokenizer(texts[index])["input_ids"] for index in chosen]
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for begin in range(0, len(rows), 64):
            batch = rows[begin : begin + 64]
            width = max(map(len, batch))
            ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch])
            inside = torch.arange(1, width)[None, :] < torch.tensor([len(row) for row in batch])[:, None]
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]  # (batch, time - 1, vocabulary)
            total += float(cross_entropy(logits[inside].float(), ids[:, 1:][inside], reduction="sum"))
            tokens += int(inside.sum())
    return total / tokens


def _questions(row: Row) -> tuple[str, ...]:
    if row.group in RARE_NOUNS:
        return tuple(fill(form, S=row.person, N=row.group) for form in NOUN_QUESTIONS)
    return tuple(fill(form, S=row.person) for form in RELATIONS[row.relation].questions)


def _asked(row: Row) -> Iterator[tuple[int, str]]:
    """Every form of asking with its place in :class:`Asked`, and the text that the answer follows."""
    yield 0, row.prompt + "\n"
    for text in paraphrases(row):
        yield 1, text + "\n"
    for text in openings(row):
        yield 2, text
