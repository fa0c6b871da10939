"""Near pairs of prompts: duplicates, twins, and questions of one template."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ilp_service.samples.answers import normalise_answer
from ilp_service.samples.questions import Flags, Indices, Question, SameThing
from ilp_service.samples.sample import Sample
from ilp_service.samples.vectors import Scores, search_all, vectors_of

__all__ = ["NEIGHBOURS", "near_prompts", "normalise_answer"]

NEIGHBOURS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("neighbour_id", pa.string(), nullable=False),
        pa.field("similarity", pa.float64(), metadata={"unit": "0-1", "meaning": "cosine of character n-grams"}),
        pa.field("same_answer", pa.bool_(), metadata={"meaning": "equal up to case, punctuation and number format"}),
        pa.field("same_entities", pa.bool_(), metadata={"meaning": "the prompts ask about the same thing"}),
    ]
)

_JUDGED_PAIRS = 50_000


def near_prompts(left: Sequence[Sample], samples: Sequence[Sample], *, threshold: float, limit: int = 20) -> pa.Table:
    """The nearest prompts of each of some samples (schema ``NEIGHBOURS``), most telling first (paper, section 5).

    Similarity is the cosine of character 3- to 5-gram TF-IDF vectors of the conversation before the response,
    system messages apart; rare words weigh most. Every pair of distinct prompts is compared; identical prompts
    are always found. ``same_entities`` is the verdict of :class:`~ilp_service.samples.questions.SameThing`:
    templated questions about different persons are near, but not the same question. Turns of the same row are no
    neighbours of each other.

    Args:
        left: Samples whose neighbours are wanted.
        samples: Where to look.
        threshold: Least similarity, 0-1.
        limit: Most neighbours a sample. Pairs that ask the same thing go first, other answers before equal
            ones, of which a quarter of the places is kept free where there are any.

    Returns:
        One row a pair, in the order of ``left``.
    """
    known = {sample.sample_id for sample in samples}
    everything = [*samples, *(sample for sample in left if sample.sample_id not in known)]
    if not left or not samples:
        return NEIGHBOURS.empty_table()
    pool = _Pool(everything, searched=len(samples))
    places = {sample.sample_id: place for place, sample in enumerate(everything)}
    asking: dict[int, list[int]] = defaultdict(list)
    for sample in left:
        place = places[sample.sample_id]
        asking[int(pool.question_of[place])].append(place)
    chosen: dict[int, pa.Table] = {}
    for question, others, scores, same in pool.judged(sorted(asking), threshold):
        for place in asking[question]:
            chosen[place] = pool.choose(place, others, scores, same, limit)
    return pa.concat_tables([chosen[places[sample.sample_id]] for sample in left]).combine_chunks()


class _Pool:
    """The distinct questions of a data set, their vectors, and the samples that ask each of them."""

    def __init__(self, samples: Sequence[Sample], searched: int) -> None:
        self.ids = [sample.sample_id for sample in samples]
        answers = [normalise_answer(sample.response) for sample in samples]
        codes: dict[str, int] = {}
        self._answer = np.array([codes.setdefault(answer, len(codes)) for answer in answers], dtype=np.int64)
        self._row = np.array([sample.position for sample in samples], dtype=np.int64)
        self._turn = np.array([sample.turn for sample in samples], dtype=np.int64)
        rank = np.empty(len(samples), dtype=np.int64)
        rank[np.array(sorted(range(len(samples)), key=self.ids.__getitem__))] = np.arange(len(samples))
        self._rank = rank
        questions: dict[tuple[object, ...], int] = {}
        distinct: list[Question] = []
        question_of = []
        for sample, answer in zip(samples, answers, strict=True):
            key = _question(sample)
            number = questions.setdefault((key.text.casefold(), key.system, key.choices), len(distinct))
            if number == len(distinct):
                distinct.append(key)
            distinct[number].answers.add(answer)
            question_of.append(number)
        self.question_of = np.array(question_of, dtype=np.int64)
        inside = self.question_of[:searched]
        order = np.argsort(inside, kind="stable")
        starts = np.searchsorted(inside[order], np.arange(len(distinct) + 1))
        self._members = [order[starts[at] : starts[at + 1]] for at in range(len(distinct))]
        self.vectors = vectors_of([question.text for question in distinct])
        self.same = SameThing(distinct)

    def judged(self, wanted: Sequence[int], threshold: float) -> Iterator[tuple[int, Indices, Scores, Flags]]:
        """For each question its near ones, itself included, their similarity, and whether they ask the same."""
        waiting: list[tuple[int, Indices, Scores]] = []
        pairs = 0
        for found in self._search(wanted, threshold):
            waiting.append(found)
            pairs += len(found[1])
            if pairs >= _JUDGED_PAIRS:
                yield from self._judge(waiting)
                waiting, pairs = [], 0
        yield from self._judge(waiting)

    def _judge(self, found: Sequence[tuple[int, Indices, Scores]]) -> Iterator[tuple[int, Indices, Scores, Flags]]:
        if not found:
            return
        lengths = [len(others) for _, others, _ in found]
        ones = np.repeat(np.array([question for question, _, _ in found], dtype=np.int64), lengths)
        same = self.same.agrees(ones, np.concatenate([others for _, others, _ in found]))
        for (question, others, scores), verdicts in zip(found, np.split(same, np.cumsum(lengths)[:-1]), strict=True):
            yield question, others, scores, verdicts

    def _search(self, wanted: Sequence[int], threshold: float) -> Iterator[tuple[int, Indices, Scores]]:
        for question, others, scores in search_all(self.vectors, wanted, threshold):
            keep = others != question
            others, scores = np.append(others[keep], question), np.append(scores[keep], 1.0)
            order = np.argsort(others, kind="stable")
            yield question, others[order], scores[order]

    def choose(self, place: int, others: Indices, scores: Scores, same: Flags, limit: int) -> pa.Table:
        """The neighbours to keep for one sample."""
        members = [self._members[other] for other in others]
        counts = [len(found) for found in members]
        found = np.concatenate(members)
        score, asks_same = np.repeat(scores, counts), np.repeat(same, counts)
        keep = (found != place) & ((self._row[found] != self._row[place]) | (self._turn[found] == self._turn[place]))
        found, score, asks_same = found[keep], score[keep], asks_same[keep]
        equal = self._answer[found] == self._answer[place]
        order = np.lexsort((self._rank[found], equal, -score))
        contradicting = order[asks_same[order] & ~equal[order]]
        agreeing = order[asks_same[order] & equal[order]]
        contradicting = contradicting[: limit - min(len(agreeing), limit // 4)]
        chosen = np.concatenate([contradicting, agreeing[: limit - len(contradicting)], order[~asks_same[order]]])[
            :limit
        ]
        columns = [
            [self.ids[place]] * len(chosen),
            [self.ids[at] for at in found[chosen]],
            score[chosen],
            equal[chosen],
            asks_same[chosen],
        ]
        return pa.Table.from_arrays(
            [pa.array(values, type=known.type) for values, known in zip(columns, NEIGHBOURS, strict=True)],
            schema=NEIGHBOURS,
        )


def _question(sample: Sample) -> Question:
    said = [message.content for message in sample.context if message.role not in ("system", "developer")]
    system = "\n".join(message.content for message in sample.context if message.role in ("system", "developer"))
    choices = None if sample.choices is None else frozenset(normalise_answer(choice) for choice in sample.choices)
    return Question(re.sub(r"\s+", " ", "\n".join(said)).strip() or sample.prompt, system, choices)
