"""Which answers could stand in each other's place: the values of the same type.

Questions made from one pattern ("where does … live?") draw their answers from one set. Patterns are found
by masking rare words; patterns whose answer sets overlap are one type, however they are phrased.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

MAX_WORDS = 60
LEVELS = (0.2, 0.1, 0.05, 0.02)
MIN_VALUES = 4
MIN_OVERLAP = 0.3
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class AnswerTypes:
    """The type of every sample's answer.

    Attributes:
        type_of: Index of the type, one a sample.
        values: The distinct answers of each type, most frequent first, ties in alphabetical order.
        subject_of: Key of what each prompt is about (its rarest repeated words), ``None`` where it has none.
    """

    type_of: tuple[int, ...]
    values: tuple[tuple[str, ...], ...]
    subject_of: tuple[frozenset[str] | None, ...]


def prompt_words(prompt: str) -> list[str]:
    """Lower-case words of the end of a prompt, where its question stands."""
    return _WORD.findall(prompt.lower())[-MAX_WORDS:]


def _overlap(left: set[str], right: set[str]) -> bool:
    shared, smaller = len(left & right), min(len(left), len(right))
    return shared >= min(2, smaller) and shared >= MIN_OVERLAP * smaller


def _merge(children: dict[tuple[str, ...], list[int]], answers: Sequence[str]) -> list[list[int]]:
    """Join patterns whose answers overlap; patterns with too few answers of their own stay together."""
    groups: list[tuple[set[str], list[int]]] = []
    for _, members in sorted(children.items(), key=lambda item: (-len(item[1]), item[0])):
        values = {answers[i] for i in members}
        joined = [group for group in groups if _overlap(values, group[0])]
        for group in joined:
            values |= group[0]
            members = group[1] + members
        groups = [group for group in groups if group not in joined] + [(values, members)]
    whole = [sorted(members) for values, members in groups if len(values) >= MIN_VALUES]
    rest = sorted(i for values, members in groups if len(values) < MIN_VALUES for i in members)
    return whole + ([rest] if rest else [])


def infer_answer_types(prompts: Sequence[str], answers: Sequence[str]) -> AnswerTypes:
    """Group samples by the pattern of their prompts and the answers those patterns share."""
    words = [prompt_words(prompt) for prompt in prompts]
    frequency = Counter(word for row in words for word in set(row))
    total = max(len(prompts), 1)
    groups = [list(range(len(prompts)))]
    for level in LEVELS:
        finer: list[list[int]] = []
        for group in groups:
            children: dict[tuple[str, ...], list[int]] = defaultdict(list)
            for i in group:
                children[tuple(w for w in words[i] if frequency[w] >= level * total)].append(i)
            # Many patterns of one sample each tell nothing about types, and pairing them would cost the square.
            finer.extend([group] if len(children) > max(50, len(group) // 4) else _merge(children, answers))
        groups = finer
    type_of = [0] * len(prompts)
    values = []
    for index, group in enumerate(groups):
        counts = Counter(answers[i] for i in group)
        values.append(tuple(sorted(counts, key=lambda answer: (-counts[answer], answer))))
        for i in group:
            type_of[i] = index
    return AnswerTypes(tuple(type_of), tuple(values), tuple(_subject(row, frequency, total) for row in words))


def _subject(words: Sequence[str], frequency: Counter[str], total: int) -> frozenset[str] | None:
    ceiling = max(0.25 * total, 4)
    rare = sorted((frequency[w], w) for w in set(words) if 2 <= frequency[w] < ceiling)
    return frozenset(w for _, w in rare[:2]) if rare else None
