"""Prompts as vectors of character n-grams, and the search for the nearest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

Indices = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Found = tuple[int, Indices, Scores]

_COMPARED_CHARACTERS = 4_000
_BLOCK_CELLS = 4_000_000
_PAIRS = 4_096
_REST = 0.75
_ROUNDING = 1e-6


def vectors_of(texts: Sequence[str]) -> sp.csr_matrix:
    """Unit-length TF-IDF rows, shape ``(prompts, n-grams)``; of a long prompt its two ends."""
    half = _COMPARED_CHARACTERS // 2
    cut = [text if len(text) <= 2 * half else text[:half] + " " + text[-half:] for text in texts]
    counter = HashingVectorizer(
        analyzer="char_wb", ngram_range=(3, 5), n_features=2**20, alternate_sign=False, norm=None, dtype=np.float64
    )
    return TfidfTransformer(sublinear_tf=True).fit_transform(counter.transform(cut)).tocsr()


def search_all(vectors: sp.csr_matrix, wanted: Sequence[int], threshold: float) -> Iterator[Found]:
    """Every pair above the threshold, a block of rows at a time so that memory stays bounded.

    Exact, though few pairs are multiplied out: a row is split into its rarest n-grams and the rest. By
    Cauchy-Schwarz the rest adds no more than its length, so only rows whose product with the rarest n-grams
    comes within that length of the threshold can be near. (MinHash candidates were tried: on 20,000 templated
    prompts they took fifty times as long and missed a quarter of the pairs.)
    """
    columns = vectors.T.tocsr()
    frequency = np.diff(columns.indptr)
    height = max(1, _BLOCK_CELLS // vectors.shape[0])
    for start in range(0, len(wanted), height):
        block = wanted[start : start + height]
        rare, rest = _rarest(vectors[block], frequency, threshold)
        product = (rare @ columns).tocsr()
        rows = np.repeat(np.arange(len(block)), np.diff(product.indptr))
        keep = product.data >= threshold - rest[rows] - _ROUNDING
        rows, others = rows[keep], product.indices[keep].astype(np.int64)
        scores = _cosines(vectors, np.asarray(block, dtype=np.int64)[rows], others)
        ends = np.searchsorted(rows, np.arange(len(block) + 1))
        for row, question in enumerate(block):
            span = slice(ends[row], ends[row + 1])
            yield question, *_above(others[span], scores[span], threshold)


def _rarest(rows: sp.csr_matrix, frequency: Indices, threshold: float) -> tuple[sp.csr_matrix, Scores]:
    """Each row's rarest n-grams, and the length of what is left out."""
    row_of = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    order = np.lexsort((rows.indices, frequency[rows.indices], row_of))
    squares = rows.data[order] ** 2
    total = np.concatenate([[0.0], np.cumsum(squares)])
    before = total[:-1] - total[rows.indptr[:-1]][row_of]
    keep = before < 1.0 - (_REST * max(threshold, 0.0)) ** 2
    kept_order, kept_rows = order[keep], row_of[keep]
    starts = np.searchsorted(kept_rows, np.arange(rows.shape[0] + 1))
    rare = sp.csr_matrix((rows.data[kept_order], rows.indices[kept_order], starts), shape=rows.shape)
    left_out = np.bincount(row_of[~keep], weights=squares[~keep], minlength=rows.shape[0])
    return rare, np.sqrt(left_out)


def _cosines(vectors: sp.csr_matrix, ones: Indices, others: Indices) -> Scores:
    """Similarity of each pair, shape ``(pairs,)``."""
    scores = [
        np.asarray(vectors[ones[at : at + _PAIRS]].multiply(vectors[others[at : at + _PAIRS]]).sum(axis=1)).ravel()
        for at in range(0, len(ones), _PAIRS)
    ]
    return np.concatenate(scores) if scores else np.zeros(0)


def _above(others: Indices, scores: Scores, threshold: float) -> tuple[Indices, Scores]:
    # Rounded, so that the order of a sum decides neither who is in nor who comes first.
    rounded = np.minimum(np.round(scores, 9), 1.0)
    keep = rounded >= threshold
    return others[keep], rounded[keep]
