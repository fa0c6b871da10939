"""Whom or what a question asks about: the rarest capitalised phrase of its prompt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ilp_service.samples.sample import Sample

_WORD = re.compile(r"[^\W_]+(?:[-.'’][^\W_]+)*")
_POSSESSIVE = re.compile(r"['’]s?$")
_LETTERS = frozenset("AI")
"""Words that are written with a capital and name nobody."""
_SENTENCE_END = frozenset('.!?:\n"“(')
_JOINED_BY = re.compile(r"[ \t]+(?:(?:of|de|da|di|del|van|von|der|den|la|le|du|al|bin|ibn)[ \t]+){0,2}")
_COMMON_SHARE = 0.1
"""A phrase in more of the distinct prompts belongs to their template, where there are enough of them to tell."""
_ENOUGH_PROMPTS = 20


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words that begin a question or an order; capitals there say nothing.
_OPENERS = _listed(
    "a an the this that these those what which who whose whom where when why how is are was were do does did can could "
    "will would shall should may might must has have had if in on at by for from to of with and or but as please tell "
    "name give list describe explain find write say state answer question i you he she it we they my your his her its "
    "our their there consider suppose given let according complete choose select"
)


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    begin: int
    end: int
    capital: bool
    opens: bool
    """Whether it stands at the head of a sentence, where everything has a capital."""


def entities_of(samples: Sequence[Sample]) -> dict[str, str]:
    """The entity of each sample whose prompt names one, by the sample's id.

    It is the capitalised phrase that stands in the fewest distinct prompts; of equally rare ones the longest, then the
    first. At the head of a sentence a word counts only where it has a capital within sentences as well, or where it
    is no rarer than the capitalised word after it (a name, not an order). A prompt without such a phrase has none,
    and neither has one whose phrases stand in every tenth prompt.
    """
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))
    words = {prompt: list(_words(prompt)) for prompt in prompts}
    frequency = Counter(word for found in words.values() for word in {one.text for one in found})
    names = {one.text for found in words.values() for one in found if one.capital and not one.opens}
    phrases = {prompt: _phrases(prompt, words[prompt], names, frequency) for prompt in prompts}
    spread = Counter(phrase for found in phrases.values() for phrase in set(found))
    most = _COMMON_SHARE * len(prompts) if len(prompts) >= _ENOUGH_PROMPTS else len(prompts)
    entities = {}
    for sample in samples:
        rare = [phrase for phrase in phrases[sample.prompt] if spread[phrase] <= most]
        if rare:
            entities[sample.sample_id] = min(rare, key=lambda phrase: (spread[phrase], -len(phrase)))
    return entities


def _words(prompt: str) -> Iterator[_Word]:
    for found in _WORD.finditer(prompt):
        text = _POSSESSIVE.sub("", found.group())
        before = prompt[: found.start()].rstrip(" ")[-1:]
        capital = text[0].isupper()
        yield _Word(text, found.start(), found.start() + len(text), capital, not before or before in _SENTENCE_END)


def _phrases(prompt: str, words: Sequence[_Word], names: set[str], frequency: Counter[str]) -> list[str]:
    """Runs of capitalised words, in order; a little word may join two of them."""
    phrases: list[str] = []
    begin = end = -1
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else None
        if not _is_name(prompt, word, following, names, frequency):
            continue
        if begin >= 0 and not word.opens and _JOINED_BY.fullmatch(prompt[end : word.begin]):
            end = word.end
            continue
        if begin >= 0:
            phrases.append(prompt[begin:end])
        begin, end = word.begin, word.end
    if begin >= 0:
        phrases.append(prompt[begin:end])
    return phrases


def _is_name(prompt: str, word: _Word, following: _Word | None, names: set[str], frequency: Counter[str]) -> bool:
    if not word.capital or word.text in _LETTERS:
        return False
    if not word.opens:
        return True
    if word.text.casefold() in _OPENERS:
        return False
    if word.text in names:
        return True
    if following is None or not following.capital or following.text in _LETTERS:
        return False
    return prompt[word.end : following.begin].isspace() and frequency[word.text] <= frequency[following.text]
