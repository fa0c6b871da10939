"""When two answers say the same."""

from __future__ import annotations

import re
import unicodedata

_FINAL = re.compile(r"####[ \t]*([^\n]+)")
_NUMBER = r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w])"
# Dates and versions as well, which are compared as they stand.
_DIGITS = re.compile(r"(?<!\w)-?\d+(?:[.,]\d+)*")
_TOKEN = re.compile(rf"({_NUMBER})|[^\W_]+|[^\w\s]|_")
# Sentence punctuation and currency say nothing about the answer; +, -, *, /, <, >, =, % and their like do.
_SILENT = frozenset(".,;:!?\"'`´‘’“”«»()[]{}…$€£¥_")
_SAME_SIGNS = str.maketrans({"−": "-", "–": "-", "—": "-", "×": "*", "÷": "/"})


def normalise_answer(text: str) -> str:
    """The answer without what does not change it: case, white space, punctuation and the format of numbers.

    ``1,000.50`` is ``1000.5`` and ``$18.00`` is ``18``; a leading "the" goes. Where the text ends in a final
    answer as GSM8K writes it (``#### 18``), only that counts. An answer of nothing but punctuation stays as it is.
    """
    text = text.translate(_SAME_SIGNS)
    finals = _FINAL.findall(text)
    if finals and finals[-1].strip():
        text = finals[-1]
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_SAME_SIGNS)
    tokens = [
        _plain_number(found.group()) if found.group(1) else found.group()
        for found in _TOKEN.finditer(folded)
        if found.group() not in _SILENT
    ]
    if len(tokens) > 1 and tokens[0] == "the":
        del tokens[0]
    return " ".join(tokens) or " ".join(folded.split())


def numbers_of(text: str) -> tuple[str, ...]:
    """The numbers of a text in order, written one way."""
    found = _DIGITS.findall(text.translate(_SAME_SIGNS))
    return tuple(_plain_number(digits) if re.fullmatch(_NUMBER, digits) else digits for digits in found)


def _plain_number(text: str) -> str:
    """Without thousands separators and trailing zeros; a leading zero (a code, a telephone) is kept."""
    text = text.replace(",", "")
    return text.rstrip("0").rstrip(".") if "." in text else text
