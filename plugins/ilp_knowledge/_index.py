"""A BM25 index on disk, built and searched in shards, so that memory holds one shard and the vocabulary.

Document frequencies and the mean length are those of the whole corpus, so that the size of a shard changes no score.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import scipy.sparse

from ilp_knowledge._words import words_of

K1 = 1.5
B = 0.75
_SHARD_WORDS = 8_000_000

Ids = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to find, and where it stands."""

    text: str
    place: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found, and its BM25 score."""

    passage: Passage
    score: float


def build(passages: Iterable[Passage], folder: Path, shard_passages: int) -> int:
    """Index passages into an empty folder.

    Args:
        passages: What to index; read once.
        folder: Where the index goes.
        shard_passages: Most passages held in memory at once.

    Returns:
        How many passages there are.
    """
    words: dict[str, int] = {}
    frequency = np.zeros(0, dtype=np.int64)
    total = count = shards = 0
    with (folder / "passages.jsonl").open("wb") as file:
        offsets = array("q", [0])
        for shard in _shards(passages, words, shard_passages):
            for passage in shard.passages:
                raw = json.dumps([passage.text, passage.place], ensure_ascii=True).encode() + b"\n"
                offsets.append(offsets[-1] + file.write(raw))
            counts = shard.counts(len(words))
            frequency = np.pad(frequency, (0, len(words) - len(frequency)))
            frequency += np.diff(counts.indptr)
            total, count = total + int(shard.lengths.sum()), count + len(shard.passages)
            scipy.sparse.save_npz(folder / f"counts-{shards}.npz", counts, compressed=False)
            np.save(folder / f"lengths-{shards}.npy", shard.lengths)
            shards += 1
    np.save(folder / "offsets.npy", np.array(offsets, dtype=np.int64))
    mean = total / count if total else 1.0
    for number in range(shards):
        _score(folder, number, frequency, count, mean)
    (folder / "words.json").write_text(json.dumps(words), encoding="utf-8")
    (folder / "index.json").write_text(json.dumps({"passages": count, "shards": shards}), encoding="utf-8")
    return count


@dataclass(frozen=True, slots=True)
class _Shard:
    passages: list[Passage]
    ids: list[Ids]

    @property
    def lengths(self) -> Ids:
        """Words of each passage."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int32)

    def counts(self, vocabulary: int) -> scipy.sparse.csc_matrix:
        """How often each word is in each passage: a CSC matrix of shape ``(passages, vocabulary)``."""
        rows = np.repeat(np.arange(len(self.ids), dtype=np.int32), self.lengths)
        columns = np.concatenate([*self.ids, np.zeros(0, dtype=np.int32)])
        ones = np.ones(len(rows), dtype=np.float32)
        return scipy.sparse.coo_matrix((ones, (rows, columns)), shape=(len(self.ids), vocabulary)).tocsc()


def _shards(passages: Iterable[Passage], words: dict[str, int], shard_passages: int) -> Iterator[_Shard]:
    shard = _Shard([], [])
    held = 0
    for passage in passages:
        ids = np.array([words.setdefault(word, len(words)) for word in words_of(passage.text)], dtype=np.int32)
        shard.passages.append(passage)
        shard.ids.append(ids)
        held += len(ids)
        if len(shard.passages) >= shard_passages or held >= _SHARD_WORDS:
            yield shard
            shard, held = _Shard([], []), 0
    if shard.passages:
        yield shard


def _score(folder: Path, number: int, frequency: npt.NDArray[np.int64], count: int, mean: float) -> None:
    """Turn a shard's counts into the scores that each word gives each passage (Lucene's BM25)."""
    import bm25s

    path, of_lengths = folder / f"counts-{number}.npz", folder / f"lengths-{number}.npy"
    counts = scipy.sparse.load_npz(path)
    lengths = np.load(of_lengths, allow_pickle=False)
    # Words that later shards brought are in no passage of this one.
    indptr = np.pad(counts.indptr, (0, len(frequency) + 1 - len(counts.indptr)), mode="edge").astype(np.int64)
    idf = np.log1p((count - frequency + 0.5) / (frequency + 0.5))
    weight = np.repeat(idf, np.diff(indptr))
    length = K1 * (1 - B + B * lengths[counts.indices] / mean)
    scores = (weight * counts.data / (counts.data + length)).astype(np.float32)
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.scores = {"data": scores, "indices": counts.indices, "indptr": indptr, "num_docs": len(lengths)}
    index.vocab_dict, index.nonoccurrence_array = {}, None
    index.save(folder / f"shard-{number}", show_progress=False)
    path.unlink()
    of_lengths.unlink()


class Index:
    """An index that was built, read from disk as needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: int = json.loads((folder / "index.json").read_text(encoding="utf-8"))["shards"]
        self._words: dict[str, int] = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        self._offsets = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False)

    def search(self, queries: Sequence[str], limit: int) -> list[list[Hit]]:
        """The best passages for each query, at most ``limit``, best first; ties go to the earlier passage.

        Passages that share no word with the query, and repetitions of a text, are left out.
        """
        import bm25s

        asked = [
            np.array([self._words[word] for word in words_of(query) if word in self._words], dtype=np.int32)
            for query in queries
        ]
        best: list[tuple[npt.NDArray[np.int64], Scores]] = [
            (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)) for _ in queries
        ]
        first = 0
        # Room for repetitions of one text, which are only seen once the texts are read.
        room = 4 * limit
        for number in range(self._shards):
            shard = bm25s.BM25.load(self._folder / f"shard-{number}", mmap=True, load_vocab=False, show_progress=False)
            for at, ids in enumerate(asked):
                if len(ids):
                    best[at] = _better(best[at], shard.get_scores_from_ids(ids), first, room)
            first += shard.scores["num_docs"]
        with (self._folder / "passages.jsonl").open("rb") as file:
            return [self._distinct(file, *found, limit) for found in best]

    def _distinct(self, file: BinaryIO, places: npt.NDArray[np.int64], scores: Scores, limit: int) -> list[Hit]:
        hits: dict[str, Hit] = {}
        for place, score in zip(places.tolist(), scores.tolist(), strict=True):
            file.seek(int(self._offsets[place]))
            text, where = json.loads(file.readline())
            hits.setdefault(" ".join(words_of(text)), Hit(Passage(text, where), score))
            if len(hits) == limit:
                break
        return list(hits.values())


def _better(
    best: tuple[npt.NDArray[np.int64], Scores], scores: Scores, first: int, room: int
) -> tuple[npt.NDArray[np.int64], Scores]:
    """The best of those so far and those of a shard whose first passage is number ``first``."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > room:
        # All that tie with the last one stay, so that the order of passages decides and not the partition.
        least = np.partition(scores[rows], len(rows) - room)[len(rows) - room]
        rows = rows[scores[rows] >= least]
    places = np.concatenate([best[0], rows + first])
    values = np.concatenate([best[1], scores[rows]])
    order = np.lexsort((places, -values))[:room]
    return places[order], values[order]
