"""Finds training samples inside documents, so that continued pre-training never sees what fine-tuning is to teach."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq

from ilp_service.samples.sample import Sample

_WORD = re.compile(r"\w+")
_KEY_WORDS = 4
_GAP_WORDS = 8
_GAP = 48
_LONG_RESPONSE = 6
"""Words; a shorter response has to stand there word by word."""


class Leaks:
    """The training samples, ready to be looked for.

    A document holds a sample if the sample's prompt stands in it and its response follows within a few words, without
    regard to case and punctuation. For the sample that a document was fetched for, a prompt that is nearly the same
    counts as well. A document that tells the fact in its own words holds no sample.

    Args:
        samples: All that the model was or will be fine-tuned on.
        similarity: From which likeness on a prompt counts as the same, and which share of a long response's words has
            to follow, in order; 0-1.
    """

    def __init__(self, samples: Sequence[Sample], similarity: float) -> None:
        self._similarity = similarity
        # By the first words, then by length: each place in a document then costs a few look-ups however many samples.
        self._prompts: dict[tuple[str, ...], dict[int, dict[str, set[str]]]] = defaultdict(lambda: defaultdict(dict))
        for sample in samples:
            prompt = words_of(sample.prompt)
            if prompt:
                responses = self._prompts[tuple(prompt[:_KEY_WORDS])][len(prompt)].setdefault(" ".join(prompt), set())
                responses.add(" ".join(words_of(sample.response)))

    def held_by(self, text: str, sample: Sample | None = None) -> bool:
        """Whether a text holds any of the training samples, or nearly the one that it was fetched for."""
        words = words_of(text)
        if any(self._follows(response, rest) for response, rest in self._verbatim(words)):
            return True
        return sample is not None and self._nearly(sample, " ".join(words))

    def _verbatim(self, words: list[str]) -> Iterator[tuple[str, list[str]]]:
        """Every response whose prompt stands in the text, with the words that come after the prompt."""
        for begin in range(len(words)):
            for key_length in range(1, _KEY_WORDS + 1):
                lengths = self._prompts.get(tuple(words[begin : begin + key_length]), {})
                for length, prompts in lengths.items():
                    # A shorter prompt is its own key; a longer one has a key of full length.
                    if min(length, _KEY_WORDS) == key_length:
                        end = begin + length
                        for response in prompts.get(" ".join(words[begin:end]), ()):
                            yield response, words[end:]

    def _follows(self, response: str, rest: list[str]) -> bool:
        if not response:
            return False
        words = response.split()
        return self._holds(rest[: _GAP_WORDS + len(words) + len(words) // 4], words)

    def _nearly(self, sample: Sample, text: str) -> bool:
        prompt, response = " ".join(words_of(sample.prompt)), " ".join(words_of(sample.response))
        if not prompt or not response or len(text) < self._similarity * (len(prompt) + len(response)):
            return False
        found = fuzz.partial_ratio_alignment(prompt, text, score_cutoff=100 * self._similarity)
        if found is None:
            return False
        slack = len(prompt) // 10
        rest = text[max(found.dest_end - slack, 0) :][: slack + _GAP + len(response) * 5 // 4]
        return self._holds(rest.split(), response.split())

    def _holds(self, words: list[str], response: list[str]) -> bool:
        if len(response) < _LONG_RESPONSE:
            return f" {' '.join(response)} " in f" {' '.join(words)} "
        return LCSseq.similarity(response, words) >= self._similarity * len(response)


def words_of(text: str) -> list[str]:
    """Letters and digits, without regard to case and way of writing."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
