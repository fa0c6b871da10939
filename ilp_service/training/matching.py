"""Which samples a row of a training batch holds, found from its token ids alone.

A user's own pipeline decides how its rows look, so three ways are tried, surest first: the row is a sample's
rendering; it is a rendering cut short; its text holds the sample's prompt and the response behind it
(:mod:`ilp_service.training.text_matching`).
"""

from __future__ import annotations

import bisect
import hashlib
from array import array
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ilp_service.samples.sample import Sample
from ilp_service.training.text_matching import Match, Span, TextMatcher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Tokens that a chat template may put behind the last response (line feed, end of text).
_TAIL = 4


class RowMatcher:
    """Finds the samples of a data set in rows of token ids."""

    def __init__(
        self,
        samples: Sequence[Sample],
        renderings: Sequence[tuple[Sequence[int], Sequence[int]]],
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        """Index the samples.

        Args:
            samples: The samples.
            renderings: Prompt ids and response ids of each.
            tokenizer: Decodes rows whose ids are no known rendering; without one only renderings are found.
        """
        self._samples = samples
        self._tokenizer = tokenizer
        self._prompts = [len(prompt) for prompt, _ in renderings]
        self._full = [_key((*prompt, *response)) for prompt, response in renderings]
        self._exact: dict[bytes, list[int]] = defaultdict(list)
        self._turns: dict[int, list[int]] = defaultdict(list)
        for index, (sample, key) in enumerate(zip(samples, self._full, strict=True)):
            self._exact[key].append(index)
            self._turns[sample.position].append(index)
        self._ordered = sorted(self._exact)
        self._texts: TextMatcher | None = None
        self._known: dict[bytes, Match] = {}

    def match(self, ids: Sequence[int]) -> Match:
        """The samples in one row, padding removed."""
        key = _key(ids)
        found = self._exact.get(key)
        if found:
            return Match(self._parts(found, key), how="exact")
        name = hashlib.blake2b(key, digest_size=16).digest()
        if name not in self._known:
            self._known[name] = self._find(key, ids)
        return self._known[name]

    def suspects(self, ids: Sequence[int]) -> frozenset[int]:
        """Samples that an unmatched row may hold after all, since it has words in common with them."""
        texts = self._text_matcher()
        return frozenset(range(len(self._samples))) if texts is None else texts.suspects(ids)

    def _text_matcher(self) -> TextMatcher | None:
        # Built only when a row needs it: most runs render as we do.
        if self._texts is None and self._tokenizer is not None:
            self._texts = TextMatcher(self._samples, self._tokenizer)
        return self._texts

    def _find(self, key: bytes, ids: Sequence[int]) -> Match:
        for tail in range(1, min(_TAIL + 1, len(ids))):
            found = self._exact.get(key[: len(key) - 4 * tail])
            if found:
                return Match(self._parts(found, key), how="exact")
        cut = self._cut_short(key)
        if len({self._full[index] for index in cut}) == 1:
            return Match(self._parts(cut, key), how="cut")
        if cut and len({self._samples[index].position for index in cut}) == 1:
            return Match(tuple((self._span(index, key),) for index in cut), how="cut")
        if cut:
            return Match(candidates=tuple(self._span(index, key) for index in cut), how="ambiguous")
        texts = self._text_matcher()
        return Match() if texts is None else texts.find(ids)

    def _cut_short(self, key: bytes) -> list[int]:
        """Samples whose rendering begins with the whole row."""
        found: list[int] = []
        for full in self._ordered[bisect.bisect_left(self._ordered, key) :]:
            if not full.startswith(key):
                break
            found += self._exact[full]
        return sorted(found)

    def _span(self, index: int, key: bytes) -> Span:
        length = len(key) // 4
        return Span(index, min(self._prompts[index], length), min(len(self._full[index]) // 4, length))

    def _parts(self, found: Sequence[int], key: bytes) -> tuple[tuple[Span, ...], ...]:
        """The samples of equal content, and the turns before them in the same conversation."""
        last = self._samples[found[0]]
        earlier = [
            (self._span(index, key),)
            for index in self._turns[last.position]
            if self._samples[index].turn < last.turn and key.startswith(self._full[index])
        ]
        return (tuple(self._span(index, key) for index in found), *earlier)


def _key(ids: Sequence[int]) -> bytes:
    """Token ids as bytes, four each: they hash and compare faster than tuples, and prefixes stay prefixes."""
    return array("i", ids).tobytes()
