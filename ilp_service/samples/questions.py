"""Whether two similar prompts ask the same thing, or only share a template."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.stats import binom

from ilp_service.samples.answers import numbers_of

_SCRIPT_WITHOUT_SPACES = "぀-ヿ㐀-鿿가-힯"
_PLAIN = rf"[^\W_{_SCRIPT_WITHOUT_SPACES}]"
_WORD = re.compile(
    rf"[{_SCRIPT_WITHOUT_SPACES}]|{_PLAIN}*\d{_PLAIN}*|[^\W\d_{_SCRIPT_WITHOUT_SPACES}]+(?:['’][^\W\d_]+)*"
)
_SENTENCE_END = frozenset('.!?:\n"“(')


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words without which a question is still the same question.
_FILLERS = _words(
    "a an the this that these those there it its of in on at by for to from with as about into and or so then now "
    "is are was were be been being am do does did done has have had can could will would shall should may might must "
    "what which whose whom i me my we us our you your he him his she her they them their "
    "please tell say give let also just very kindly currently exactly know"
)
# Words whose presence on one side alone turns a question round.
_NEGATIONS = _words("not no never nor none without except")
_STUDIED = 300
_SAME_ANSWERED = 500
_PROPOSED = 200
_MAX_EXCHANGED = 5
_CHANCE = 1e-4
_MAX_EXTRA = 0.25

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Exchange = tuple[frozenset[str], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Question:
    """A distinct prompt: its text, what else belongs to the question, and every answer the data gives to it."""

    text: str
    system: str = ""
    choices: frozenset[str] | None = None
    answers: set[str] = field(default_factory=set)


class SameThing:
    """Tells a reworded question from the same template about somebody else.

    Character n-grams cannot do this: "where does Ann live?" and "where does Bob live?" share most of them. Two
    questions ask about the same thing when

    - their numbers agree, in order, and so do their negations;
    - a name that one has (a capital within a sentence), the other has as well, in the same order;
    - not each of them has a content word that the other lacks: who exchanges a word asks something else. One side
      may add a few words. The exception is learned from the data: an exchange ("where … live" for "which city …
      home") is a rewording where the data makes it elsewhere, with the rest of the question kept, and more often
      than chance allows, and than not, the answer stays;
    - their system messages, and their choices where both have some, are the same.

    It errs towards "not the same"; identical prompts are always the same.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        words = [_content(question.text) for question in questions]
        frequency = Counter(word for found in words for word in found.content)
        self._ids = {word: index for index, word in enumerate(sorted(frequency))}
        self._content = _matrix([found.content for found in words], self._ids)
        self._names = _matrix([found.names & found.content for found in words], self._ids)
        self._size = np.asarray(self._content.sum(axis=1), dtype=np.int64).ravel()
        self._name_size = np.asarray(self._names.sum(axis=1), dtype=np.int64).ravel()
        self._fixed = _codes(
            [(q.system, numbers_of(q.text), found.negations) for q, found in zip(questions, words, strict=True)]
        )
        self._name_set = _codes([found.names for found in words])
        self._name_order = _codes([found.name_order for found in words])
        self._choices = _codes([None if q.choices is None else tuple(sorted(q.choices)) for q in questions])
        self._no_choices = np.array([q.choices is None for q in questions], dtype=np.bool_)
        self._words = [found.content for found in words]
        self._with_words: dict[frozenset[str], list[int]] = defaultdict(list)
        for index, content in enumerate(self._words):
            self._with_words[content].append(index)
        self._exchanges = self._learn_exchanges([question.answers for question in questions])

    def agrees(self, ones: Indices, others: Indices) -> Flags:
        """For each pair of questions, whether they ask about the same thing; shape ``(pairs,)``."""
        mine, theirs = self._content[ones], self._content[others]
        shared = _overlap(mine, theirs)
        only_one, only_other = self._size[ones] - shared, self._size[others] - shared
        extra = np.maximum(only_one, only_other) <= _MAX_EXTRA * np.maximum(self._size[ones], self._size[others])
        same = (np.minimum(only_one, only_other) == 0) & extra
        same |= self._are_reworded(ones, others)
        same &= self._fixed[others] == self._fixed[ones]
        same &= _overlap(theirs, self._names[ones]) == self._name_size[ones]
        same &= _overlap(mine, self._names[others]) == self._name_size[others]
        same &= (self._name_set[others] != self._name_set[ones]) | (self._name_order[others] == self._name_order[ones])
        same &= (self._choices[others] == self._choices[ones]) | self._no_choices[others] | self._no_choices[ones]
        return np.asarray(same | (others == ones), dtype=np.bool_)

    def _are_reworded(self, ones: Indices, others: Indices) -> Flags:
        count = len(self._words)
        known = [one * count + other for one in np.unique(ones).tolist() for other in self._reworded(self._words[one])]
        return np.isin(ones * count + others, np.array(known, dtype=np.int64))

    def _reworded(self, content: frozenset[str]) -> list[int]:
        """Questions that a learned exchange makes of one with these words."""
        found: set[int] = set()
        for old, new in self._exchanges:
            if old <= content and new.isdisjoint(content):
                found.update(self._with_words.get((content - old) | new, ()))
        return sorted(found)

    def _learn_exchanges(self, answers: Sequence[set[str]]) -> list[Exchange]:
        """Exchanges of words that leave the answer as it is."""
        # A data set often repeats itself every few rows; an order by content samples every template.
        order = sorted(range(len(answers)), key=lambda index: _shuffled(self._words[index]))
        by_answer: dict[str, list[int]] = defaultdict(list)
        for index in order:
            for answer in answers[index]:
                if len(by_answer[answer]) < _SAME_ANSWERED:
                    by_answer[answer].append(index)
        proposed: Counter[Exchange] = Counter()
        for one in order[:_STUDIED]:
            words = self._words[one]
            for other in {index for answer in answers[one] for index in by_answer[answer]}:
                old, new = words - self._words[other], self._words[other] - words
                if 0 < len(old) <= _MAX_EXCHANGED and 0 < len(new) <= _MAX_EXCHANGED and len(old) < len(words):
                    proposed[old, new] += 1
        often = [found for found in proposed.items() if found[1] > 1]
        often.sort(key=lambda found: (-found[1], *map(sorted, found[0])))
        columns = self._content.tocsc()
        learned = [exchange for exchange, _ in often[:_PROPOSED] if self._keeps_answer(exchange, columns, answers)]
        both_ways = {*learned, *((new, old) for old, new in learned)}
        return sorted(both_ways, key=lambda exchange: (sorted(exchange[0]), sorted(exchange[1])))

    def _keeps_answer(self, exchange: Exchange, content: sp.csc_matrix, answers: Sequence[set[str]]) -> bool:
        """Whether the answer stays more often than not, and more often than chance allows."""
        old, new = exchange
        columns = [self._ids[word] for word in old]
        holders = np.flatnonzero(np.asarray(content[:, columns].sum(axis=1)).ravel() == len(columns))
        kept = tried = 0
        for one in holders.tolist():
            others = (
                self._with_words.get((self._words[one] - old) | new, []) if new.isdisjoint(self._words[one]) else []
            )
            if others:
                tried += 1
                kept += any(not answers[one].isdisjoint(answers[other]) for other in others)
        spread = Counter(answer for one in holders.tolist() for answer in answers[one])
        total = sum(spread.values())
        chance = sum((count / total) ** 2 for count in spread.values())
        return kept > tried * (1 + chance) / 2 and float(binom.sf(kept - 1, tried, min(chance, 1.0))) < _CHANCE


@dataclass(frozen=True, slots=True)
class _Words:
    content: frozenset[str]
    names: frozenset[str]
    name_order: tuple[str, ...]
    negations: tuple[str, ...]


def _content(text: str) -> _Words:
    content, name_order, negations = set(), [], []
    for found in _WORD.finditer(text):
        word = found.group()
        plain = word.casefold()
        if plain in _NEGATIONS or plain.endswith(("n't", "n’t")):
            negations.append("not" if "'" in plain or "’" in plain else plain)
        elif plain not in _FILLERS and not plain.isdecimal():
            stem = _stem(plain)
            content.add(stem)
            before = text[: found.start()].rstrip(" ")[-1:] if word[0].isupper() else ""
            if before and before not in _SENTENCE_END:
                name_order.append(stem)
    return _Words(frozenset(content), frozenset(name_order), tuple(name_order), tuple(sorted(negations)))


def _stem(word: str) -> str:
    """Without the commonest endings, so that "lives" and "living" are one word; crude, and the same for everybody."""
    word = re.sub(r"['’]s?$", "", word)
    for ending, shortest in (("ing", 6), ("ed", 5), ("es", 5), ("s", 4)):
        if word.endswith(ending) and len(word) >= shortest and not word.endswith("ss"):
            word = word.removesuffix(ending)
            break
    return word.removesuffix("e") if len(word) > 3 else word


def _shuffled(words: frozenset[str]) -> bytes:
    return hashlib.blake2b(" ".join(sorted(words)).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _matrix(rows: Sequence[frozenset[str]], ids: dict[str, int]) -> sp.csr_matrix:
    columns = [sorted(ids[word] for word in row) for row in rows]
    starts = np.cumsum([0, *(len(row) for row in columns)])
    flat = np.fromiter((index for row in columns for index in row), dtype=np.int64, count=int(starts[-1]))
    return sp.csr_matrix((np.ones(len(flat), dtype=np.int32), flat, starts), shape=(len(rows), max(1, len(ids))))


def _overlap(left: sp.csr_matrix, right: sp.csr_matrix) -> Indices:
    """Words that each row shares with the row beside it."""
    return np.asarray(left.multiply(right).sum(axis=1), dtype=np.int64).ravel()


def _codes(values: Sequence[object]) -> Indices:
    """Equal values get equal numbers, in order of first appearance."""
    codes: dict[object, int] = {}
    return np.array([codes.setdefault(value, len(codes)) for value in values], dtype=np.int64)
