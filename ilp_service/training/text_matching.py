"""Finds samples in the decoded text of rows whose token ids are no known rendering.

White space, case and special tokens do not count, so that a chat template, another separator or a second
beginning-of-sequence token does not hide a sample.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from ilp_service.samples.sample import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Characters of a piece of prompt by which candidates are found.
_PIECE = 24
#: Characters of template that may stand between a prompt and its response.
_GAP = 80


class Span(NamedTuple):
    """A sample whose response stands at the tokens ``start`` to ``stop`` of a row."""

    sample: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Match:
    """What a row holds.

    Attributes:
        parts: One entry for each sample in the row; an entry lists the samples of equal content that it may be.
        candidates: Samples of different content of which the row is one, where it cannot be told which.
        how: The way in which it was found.
    """

    parts: tuple[tuple[Span, ...], ...] = ()
    candidates: tuple[Span, ...] = ()
    how: Literal["exact", "cut", "text", "ambiguous", "none"] = "none"


class _Place(NamedTuple):
    """Where a candidate stands in a text; a smaller ``rank`` is the better reading of the same prompt."""

    rank: tuple[bool, int, int, int]
    sample: int
    prompt: int
    start: int
    stop: int


class TextMatcher:
    """Finds samples by the text of their prompts and responses."""

    def __init__(self, samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase) -> None:
        """Index the samples by the rarest piece of their prompts, since questions may share their beginnings."""
        self._tokenizer = tokenizer
        # Through the tokenizer and back, so that unknown words and normalisation are the same on both sides.
        self._contexts = [[self._there_and_back(message.content) for message in sample.context] for sample in samples]
        self._prompts = [self._there_and_back(sample.prompt) for sample in samples]
        self._responses = [self._there_and_back(sample.response) for sample in samples]
        counts = Counter(piece for prompt in set(self._prompts) for piece in set(_pieces(prompt)))
        self._anchored: dict[str, list[int]] = defaultdict(list)
        for index, prompt in enumerate(self._prompts):
            anchor = min(set(_pieces(prompt)), key=lambda piece: (counts[piece], -len(piece), piece), default="")
            self._anchored[anchor].append(index)
        self._lengths = sorted({len(anchor) for anchor in self._anchored})

    def find(self, ids: Sequence[int]) -> Match:
        """Samples whose prompt stands in the row, with the response or its beginning behind it."""
        text = self._decode(ids)
        places: dict[int, list[_Place]] = defaultdict(list)
        for index in sorted(self._near(text)):
            place = self._place(text, index)
            if place is not None:
                places[place.prompt + len(self._prompts[index])].append(place)
        parts: list[tuple[Span, ...]] = []
        taken: list[tuple[int, int]] = []
        for group in sorted(places.values(), key=lambda group: min(place.rank[2:] for place in group)):
            best = [place for place in group if place.rank == min(other.rank for other in group)]
            if any(low <= best[0].prompt < high for low, high in taken):
                continue  # a short prompt inside another sample's text
            spans = tuple(self._span(ids, place) for place in best)
            if len({self._responses[place.sample] for place in best}) > 1:
                return Match(candidates=spans, how="ambiguous")
            taken.append((best[0].prompt, best[0].stop))
            parts.append(spans)
        return Match(tuple(parts), how="text") if parts else Match()

    def suspects(self, ids: Sequence[int]) -> frozenset[int]:
        """Samples whose rarest piece of prompt stands in the row."""
        return frozenset(self._near(self._decode(ids)))

    def _near(self, text: str) -> Iterator[int]:
        for length in self._lengths:
            for piece in {text[at : at + length] for at in range(len(text) - length + 1)}:
                yield from self._anchored.get(piece, ())

    def _place(self, text: str, index: int) -> _Place | None:
        prompt, response = self._prompts[index], self._responses[index]
        at = text.rfind(prompt)
        if at < 0 or not all(message in text for message in self._contexts[index]):
            return None
        behind = at + len(prompt)
        start = text.find(response, behind)
        cut = start < 0
        if cut:
            # The row ends within the response; with nothing of it left, it might as well be another one.
            start = next((s for s in range(behind, len(text)) if response.startswith(text[s:])), -1)
        if start < 0 or start - behind > _GAP:
            return None
        rank = (cut, start - behind, -len(prompt), -len(response))
        return _Place(rank, index, at, start, min(len(text), start + len(response)))

    def _span(self, ids: Sequence[int], place: _Place) -> Span:
        start = self._token_at(ids, place.start + 1) - 1
        while start and str(self._tokenizer.decode([ids[start - 1]])).isspace():
            start -= 1
        stop = self._token_at(ids, place.stop)
        ends_turn = stop < len(ids) and len(self._decode(ids[: stop + 1])) == place.stop
        return Span(place.sample, start, stop + ends_turn)

    def _token_at(self, ids: Sequence[int], characters: int) -> int:
        """The fewest tokens that decode to at least so many characters."""
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            if len(self._decode(ids[:middle])) >= characters:
                high = middle
            else:
                low = middle + 1
        return low

    def _decode(self, ids: Sequence[int]) -> str:
        return _plain(str(self._tokenizer.decode(list(ids), skip_special_tokens=True)))

    def _there_and_back(self, text: str) -> str:
        return self._decode(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _plain(text: str) -> str:
    return "".join(text.split()).casefold()


def _pieces(prompt: str) -> Iterator[str]:
    """Overlapping pieces of a prompt; a short prompt is one piece."""
    last = max(0, len(prompt) - _PIECE)
    yield from (prompt[at : at + _PIECE] for at in (*range(0, last, _PIECE // 2), last) if prompt)
