"""Which answers could stand in each other's place: the values of the same type.

Questions made from one pattern ("where does … live?") draw their answers from one closed set. Patterns are found by
masking rare words at several levels; patterns with much the same answers are one, however they are phrased. An answer
belongs to the smallest set that it is in, so that a catch-all pattern does not mix the types.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_WORDS = 60
LEVELS = (0.2, 0.1, 0.05, 0.02)
MIN_JACCARD = 0.5
MIN_SAMPLES_A_VALUE = 2.0
MIN_SHARE = 0.03
MAX_PATTERNS = 500
_WORD = re.compile(r"\w+")
_NAME = re.compile(r"\b[A-Z][\w-]+(?: [A-Z][\w-]+)+")


@dataclass(frozen=True, slots=True)
class AnswerTypes:
    """The type of every sample's answer.

    Attributes:
        type_of: Index of the type, one a sample.
        values: The distinct answers of each type, most frequent first, ties in alphabetical order. The last type
            holds the answers that belong to no closed set.
        subject_of: Key of what each prompt is about (a name, or its rarest words), ``None`` where it has none.
    """

    type_of: tuple[int, ...]
    values: tuple[tuple[str, ...], ...]
    subject_of: tuple[frozenset[str] | None, ...]


def prompt_words(prompt: str) -> list[str]:
    """Lower-case words of the end of a prompt, where its question stands."""
    return _WORD.findall(prompt.lower())[-MAX_WORDS:]


def _joined(found: Iterable[Counter[str]]) -> list[Counter[str]]:
    """Answer counts with much the same answers taken together, in the order given."""
    groups: list[Counter[str]] = []
    for counts in found:
        for group in groups:
            if len(group.keys() & counts.keys()) >= MIN_JACCARD * len(group.keys() | counts.keys()):
                group.update(counts)
                break
        else:
            groups.append(Counter(counts))
    return groups


def _closed_sets(patterns: Sequence[tuple[str, ...]], answers: Sequence[str]) -> list[Counter[str]]:
    """Answer counts of the patterns at one level, like patterns joined, those kept whose answers repeat enough."""
    counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for pattern, answer in zip(patterns, answers, strict=True):
        counts[pattern][answer] += 1
    largest = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))[:MAX_PATTERNS]
    # A pattern of a few samples (one person's, say) has a small set by chance.
    least = MIN_SHARE * len(answers)
    joined = _joined(found for _, found in largest)
    return [g for g in joined if len(g) > 1 and g.total() >= max(MIN_SAMPLES_A_VALUE * len(g), least)]


def infer_answer_types(prompts: Sequence[str], answers: Sequence[str]) -> AnswerTypes:
    """Find the closed sets of answers, and the one that each sample's answer belongs to."""
    words = [prompt_words(prompt) for prompt in prompts]
    frequency = Counter(word for row in words for word in set(row))
    total = max(len(prompts), 1)
    found: list[Counter[str]] = []
    for level in LEVELS:
        found += _closed_sets([tuple(w for w in row if frequency[w] >= level * total) for row in words], answers)
    sets = sorted(_joined(sorted(found, key=lambda g: (-len(g), sorted(g)))), key=lambda g: (len(g), sorted(g)))
    home: dict[str, int] = {}
    for index, group in enumerate(sets):
        for answer in group:
            home.setdefault(answer, index)
    type_of = [home.get(answer, len(sets)) for answer in answers]
    loose = Counter(answer for answer, kind in zip(answers, type_of, strict=True) if kind == len(sets))
    subjects = tuple(_subject(*pair, frequency, total) for pair in zip(prompts, words, strict=True))
    values = tuple(_by_frequency(group) for group in (*sets, loose))
    return AnswerTypes(tuple(type_of), values, subjects)


def _by_frequency(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(counts, key=lambda answer: (-counts[answer], answer)))


def _subject(prompt: str, words: Sequence[str], frequency: Counter[str], total: int) -> frozenset[str] | None:
    """What a prompt is about: its longest capitalised name, else its two rarest words that occur elsewhere too."""
    names: list[list[str]] = [_WORD.findall(name.lower()) for name in _NAME.findall(prompt)]
    known = [name for name in names if len(name) > 1 and all(frequency[word] >= 2 for word in name)]
    if known:
        longest = max(known, key=len)
        return frozenset(longest)
    ceiling = max(0.25 * total, 4)
    rare = sorted((frequency[w], w) for w in set(words) if 2 <= frequency[w] < ceiling)
    return frozenset(w for _, w in rare[:2]) if rare else None
