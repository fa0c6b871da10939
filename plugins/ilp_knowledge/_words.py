"""Words of a text as look-ups compare them."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"\w+")
_LONGEST = 64


def words_of(text: str) -> list[str]:
    """Its words in order: letters and digits, without regard to case and way of writing; very long ones cut."""
    return [word[:_LONGEST] for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold())]
