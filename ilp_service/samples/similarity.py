"""Near pairs of prompts: duplicates, twins, and questions of one template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp
from datasketch import MinHash, MinHashLSH
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from ilp_service.samples.answers import normalise_answer
from ilp_service.samples.questions import Flags, Indices, Question, SameThing
from ilp_service.samples.sample import Sample

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

EXACT_PROMPTS = 20_000
_COMPARED_CHARACTERS = 4_000
_BLOCK_CELLS = 4_000_000
_PERMUTATIONS = 128
_JACCARD = 0.35

Scores = npt.NDArray[np.float64]


def near_prompts(left: Sequence[Sample], samples: Sequence[Sample], *, threshold: float, limit: int = 20) -> pa.Table:
    """The nearest prompts of each of some samples (schema ``NEIGHBOURS``), most telling first (paper, section 5).

    Similarity is the cosine of character 3- to 5-gram TF-IDF vectors of the conversation before the response,
    system messages apart; rare words weigh most. Up to ``EXACT_PROMPTS`` distinct prompts every pair is compared,
    beyond that the candidates of a MinHash index. Identical prompts are found either way. ``same_entities`` is the
    verdict of :class:`~ilp_service.samples.questions.SameThing`: templated questions about different persons are
    near, but not the same question. Turns of the same row are no neighbours of each other.

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
    wanted = sorted({int(pool.question_of[places[sample.sample_id]]) for sample in left})
    near = {question: (others, scores) for question, others, scores in pool.search(wanted, threshold)}
    columns: dict[str, list[object]] = {name: [] for name in NEIGHBOURS.names}
    verdicts = {question: pool.same.agrees(question, others) for question, (others, _) in near.items()}
    for sample in left:
        place = places[sample.sample_id]
        question = int(pool.question_of[place])
        others, scores = near[question]
        for found in pool.choose(place, others, scores, verdicts[question], limit):
            for name, value in zip(NEIGHBOURS.names, (sample.sample_id, *found), strict=True):
                columns[name].append(value)
    return pa.Table.from_pydict(columns, schema=NEIGHBOURS)


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
        self.vectors = _vectors([question.text for question in distinct])
        self.same = SameThing(distinct)

    def search(self, wanted: Sequence[int], threshold: float) -> Iterator[tuple[int, Indices, Scores]]:
        """For each question its near ones, itself included, in ascending order."""
        search = _search_all if self.vectors.shape[0] <= EXACT_PROMPTS else _search_hashed
        for question, others, scores in search(self.vectors, wanted, threshold):
            keep = others != question
            others, scores = np.append(others[keep], question), np.append(scores[keep], 1.0)
            order = np.argsort(others, kind="stable")
            yield question, others[order], scores[order]

    def choose(
        self, place: int, others: Indices, scores: Scores, same: Flags, limit: int
    ) -> Iterator[tuple[str, float, bool, bool]]:
        """The neighbours to keep for one sample: id, similarity, same answer, same entities."""
        members = [self._members[other] for other in others]
        counts = [len(found) for found in members]
        found = np.concatenate(members)
        score, asks_same = np.repeat(scores, counts), np.repeat(same, counts)
        keep = (found != place) & ((self._row[found] != self._row[place]) | (self._turn[found] == self._turn[place]))
        found, score, asks_same = found[keep], score[keep], asks_same[keep]
        equal = self._answer[found] == self._answer[place]
        order = np.lexsort((self._rank[found], equal, -score))
        contradicting = [at for at in order if asks_same[at] and not equal[at]]
        agreeing = [at for at in order if asks_same[at] and equal[at]]
        others_near = [at for at in order if not asks_same[at]][:limit]
        chosen = contradicting[: limit - min(len(agreeing), limit // 4)]
        chosen += agreeing[: limit - len(chosen)]
        chosen += others_near[: limit - len(chosen)]
        for at in chosen:
            yield self.ids[found[at]], float(score[at]), bool(equal[at]), bool(asks_same[at])


def _question(sample: Sample) -> Question:
    said = [message.content for message in sample.context if message.role not in ("system", "developer")]
    system = "\n".join(message.content for message in sample.context if message.role in ("system", "developer"))
    choices = None if sample.choices is None else frozenset(normalise_answer(choice) for choice in sample.choices)
    return Question(re.sub(r"\s+", " ", "\n".join(said)).strip() or sample.prompt, system, choices)


def _vectors(texts: Sequence[str]) -> sp.csr_matrix:
    """Unit-length TF-IDF rows, shape ``(prompts, n-grams)``; of a long prompt its two ends."""
    half = _COMPARED_CHARACTERS // 2
    cut = [text if len(text) <= 2 * half else text[:half] + " " + text[-half:] for text in texts]
    counter = HashingVectorizer(
        analyzer="char_wb", ngram_range=(3, 5), n_features=2**20, alternate_sign=False, norm=None, dtype=np.float64
    )
    return TfidfTransformer(sublinear_tf=True).fit_transform(counter.transform(cut)).tocsr()


def _search_all(
    vectors: sp.csr_matrix, wanted: Sequence[int], threshold: float
) -> Iterator[tuple[int, Indices, Scores]]:
    """Every pair, a block of rows at a time so that memory stays bounded."""
    columns = vectors.T.tocsr()
    height = max(1, _BLOCK_CELLS // vectors.shape[0])
    for start in range(0, len(wanted), height):
        block = wanted[start : start + height]
        product = (vectors[block] @ columns).tocsr()
        for row, question in enumerate(block):
            span = slice(product.indptr[row], product.indptr[row + 1])
            yield question, *_above(product.indices[span], product.data[span], threshold)


def _search_hashed(
    vectors: sp.csr_matrix, wanted: Sequence[int], threshold: float
) -> Iterator[tuple[int, Indices, Scores]]:
    """Candidates that share MinHash bands, then their exact similarity."""
    index = MinHashLSH(threshold=_JACCARD, num_perm=_PERMUTATIONS)
    empty = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=int)
    hashes: dict[int, MinHash] = {}
    asked = set(wanted)
    for row in range(vectors.shape[0]):
        signature = empty.copy()
        signature.update_batch(vectors.indices[vectors.indptr[row] : vectors.indptr[row + 1]].tolist())
        index.insert(row, signature)
        if row in asked:
            hashes[row] = signature
    for question in wanted:
        candidates = np.array(sorted(index.query(hashes[question])), dtype=np.int64)
        scores = np.asarray((vectors[candidates] @ vectors[question].T).toarray(), dtype=np.float64).ravel()
        yield question, *_above(candidates, scores, threshold)


def _above(others: npt.NDArray[np.signedinteger], scores: Scores, threshold: float) -> tuple[Indices, Scores]:
    # Rounded, so that the order of a sum decides neither who is in nor who comes first.
    rounded = np.minimum(np.round(scores, 9), 1.0)
    keep = rounded >= threshold
    return others[keep].astype(np.int64), rounded[keep]
