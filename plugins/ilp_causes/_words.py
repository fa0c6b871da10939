"""Words of the prompts: how rare they are, which prompts share a template, which ask the same question."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from ilp_causes._columns import Indices
from ilp_service.plugin import Array, Study

_TEMPLATE_SHARE = 0.03
"""A word in at least this share of the prompts belongs to their template, a rarer one to their subject."""


@dataclass(frozen=True, slots=True)
class Words:
    """Which words stand in which prompt: one row a distinct (prompt, word) pair, sorted by prompt.

    Attributes:
        vocabulary: The distinct words, in alphabetical order.
        prompt: Index into ``study.samples``, shape ``(pairs,)``.
        word: Index into ``vocabulary``, shape ``(pairs,)``.
        frequency: Number of prompts with each word, shape ``(vocabulary,)``.
        prompts: Number of prompts.
    """

    vocabulary: list[str]
    prompt: Indices
    word: Indices
    frequency: Array
    prompts: int

    @classmethod
    def of(cls, study: Study) -> Words:
        """Count the words of every prompt; case and punctuation do not matter, ideographs stand alone."""
        text = pc.utf8_lower(pa.array([sample.prompt for sample in study.samples], pa.string()))
        text = pc.replace_substring_regex(text, r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}])", r" \1 ")
        text = pc.replace_substring_regex(text, r"[^\p{L}\p{M}\p{N}]+", " ")
        lists = pc.split_pattern(pc.utf8_trim_whitespace(text), " ")
        flat = pc.list_flatten(lists)
        parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        spoken = pc.greater(pc.utf8_length(flat), 0)
        parents, flat = parents[spoken.to_numpy(zero_copy_only=False)], flat.filter(spoken)
        encoded = flat.dictionary_encode()
        words: list[str] = encoded.dictionary.to_pylist()
        alphabetical = np.empty(len(words), dtype=np.int64)
        alphabetical[sorted(range(len(words)), key=words.__getitem__)] = np.arange(len(words))
        codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        size = max(len(words), 1)
        # Sorting and dropping repeats is several times faster here than numpy's hashing unique.
        pairs = np.sort(parents * size + (alphabetical[codes] if len(words) else codes))
        pairs = pairs[np.diff(pairs, prepend=-1) != 0]
        prompt, word = np.divmod(pairs, size)
        frequency = np.bincount(word, minlength=len(words)).astype(np.float64)
        return cls(sorted(words), prompt, word, frequency, len(study.samples))

    def rarest(self) -> Indices:
        """Rarest word of each prompt, the alphabetically first of equals, -1 without words; shape ``(prompts,)``."""
        result = np.full(self.prompts, -1, dtype=np.int64)
        if len(self.word):
            by_rarity = np.argsort(self.frequency, kind="stable")
            rank = np.empty_like(by_rarity)
            rank[by_rarity] = np.arange(len(by_rarity))
            starts = np.flatnonzero(np.diff(self.prompt, prepend=-1))
            result[self.prompt[starts]] = by_rarity[np.minimum.reduceat(rank[self.word], starts)]
        return result

    def templates(self) -> Indices:
        """A number for each prompt, equal for prompts made of the same common words; shape ``(prompts,)``."""
        # Random weights turn a set of words into one number; a collision needs two equal 53-bit sums.
        weights = np.random.default_rng(0).random(len(self.vocabulary))
        common = self.frequency[self.word] >= max(_TEMPLATE_SHARE * self.prompts, 2)
        keys = np.bincount(self.prompt[common], weights=weights[self.word[common]], minlength=self.prompts)
        return np.unique(keys.round(9), return_inverse=True)[1].astype(np.int64)

    def likeness(self, left: Indices, right: Indices) -> Array:
        """Shared words over all words of two prompts, each word weighted by its rarity; 0-1, shape ``(left,)``.

        Two questions that differ in a rare word (a name) are about different things, however much of a
        template they share.
        """
        if not len(left) or not self.vocabulary:
            return np.zeros(len(left))
        weights = np.log1p(self.prompts / self.frequency)
        shape = (self.prompts, len(self.vocabulary))
        present = sparse.csr_array((np.ones(len(self.word)), (self.prompt, self.word)), shape=shape)
        weighted = sparse.csr_array((weights[self.word], (self.prompt, self.word)), shape=shape)
        mass = np.asarray(weighted.sum(axis=1)).ravel()
        shared = np.asarray(weighted[left].multiply(present[right]).sum(axis=1)).ravel()
        union = mass[left] + mass[right] - shared
        # Prompts without a single word (only signs) have nothing to differ in.
        return np.where(union > 0, shared / np.where(union > 0, union, 1.0), 1.0).clip(0, 1)
