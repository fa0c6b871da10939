"""Why samples are left as they are, with those together that have one reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

EXAMPLES = 3
"""Examples of a reason that are shown."""

# What is about one sample alone: quoted words, and numbers.
_QUOTED = re.compile(r"(?<!\w)(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")(?!\w)")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason and whom it is about.

    Attributes:
        reason: The sentence; what differs from sample to sample is an ellipsis.
        count: Samples that have it.
        examples: Of what differs, where that is in words; else ids of samples; in the order of the samples.
    """

    reason: str
    count: int
    examples: tuple[str, ...]

    @property
    def text(self) -> str:
        """For people, in a line."""
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.reason.rstrip('.')} ({', '.join(self.examples)}{more})."

    def public(self) -> dict[str, object]:
        """Ready for JSON."""
        return {"reason": self.reason, "count": self.count, "examples": list(self.examples)}


def grouped(reasons: Mapping[str, str]) -> tuple[Refusal, ...]:
    """The reasons, commonest first, then by their text.

    Args:
        reasons: One sentence a sample, by its id.
    """
    found: dict[str, dict[str, str]] = {}
    for key, reason in reasons.items():
        found.setdefault(_NUMBER.sub("…", _QUOTED.sub("…", reason)), {})[key] = reason
    told = [_refusal(pattern, said) for pattern, said in found.items()]
    return tuple(sorted(told, key=lambda one: (-one.count, one.reason)))


def _refusal(pattern: str, said: Mapping[str, str]) -> Refusal:
    texts = list(dict.fromkeys(said.values()))
    if len(texts) == 1:
        return Refusal(texts[0], len(said), tuple(said)[:EXAMPLES])
    words = dict.fromkeys(" and ".join(_QUOTED.findall(text)) for text in texts)
    examples = tuple(words) if len(words) > 1 else tuple(said)
    return Refusal(pattern, len(said), examples[:EXAMPLES])
