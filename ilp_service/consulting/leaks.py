"""Finds training samples inside documents, so that continued pre-training never sees what fine-tuning is to teach."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from rapidfuzz import fuzz

from ilp_service.samples.sample import Sample

_WORD = re.compile(r"\w+")
_KEY_WORDS = 4
_GAP_WORDS = 8
_GAP = 48
_FUZZY_RESPONSE = 20
"""Characters; shorter responses have to stand there word by word."""


class Leaks:
    """The training samples, ready to be looked for.

    A document holds a sample if the sample's prompt stands in it and its response follows within a few words, without
    regard to case and punctuation. For the sample that a document was fetched for, a prompt that is nearly the same
    counts as well. A document that tells the fact in its own words holds no sample.

    Args:
        samples: All that the model was or will be fine-tuned on.
        similarity: From which likeness on a prompt, or a long response, counts as the same; 0-1.
    """

    def __init__(self, samples: Sequence[Sample], similarity: float) -> None:
        self._cutoff = 100 * similarity
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
        size = len(response.split())
        return self._holds(" ".join(rest[: _GAP_WORDS + size + size // 4]), response)

    def _nearly(self, sample: Sample, text: str) -> bool:
        prompt, response = " ".join(words_of(sample.prompt)), " ".join(words_of(sample.response))
        if not prompt or not response or len(text) < self._cutoff / 100 * (len(prompt) + len(response)):
            return False
        found = fuzz.partial_ratio_alignment(prompt, text, score_cutoff=self._cutoff)
        if found is None:
            return False
        slack = len(prompt) // 10
        return self._holds(text[max(found.dest_end - slack, 0) :][: slack + _GAP + len(response) * 5 // 4], response)

    def _holds(self, text: str, response: str) -> bool:
        if f" {response} " in f" {text} ":
            return True
        long = min(len(response), len(text)) >= _FUZZY_RESPONSE and len(text) >= self._cutoff / 100 * len(response)
        return long and fuzz.partial_ratio(response, text) >= self._cutoff


def words_of(text: str) -> list[str]:
    """Letters and digits, without regard to case and way of writing."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
