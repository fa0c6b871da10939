"""Whether a generated response says what the sample's response says."""

from __future__ import annotations

import re

from rapidfuzz.distance import LCSseq

from ilp_service.samples.similarity import normalise_answer

_FINAL = re.compile(r"####\s*(\S.*?)\s*$|\\boxed\{([^{}]*)\}", re.MULTILINE)


def final_answer(text: str) -> str | None:
    r"""What stands after ``####`` (GSM8K) or in the last ``\boxed{}``; ``None`` without either."""
    found = _FINAL.findall(text)
    return next((part for part in found[-1] if part), "") if found else None


def rouge_l(reference: str, candidate: str) -> float:
    """ROUGE-L F1 over lower-case words, 0-1 (Lin 2004)."""
    left, right = reference.lower().split(), candidate.lower().split()
    if not left or not right:
        return 0.0
    common = LCSseq.similarity(left, right)
    return 2 * common / (len(left) + len(right))


def matches(reference: str, candidate: str, *, long: bool, threshold: float) -> bool:
    """Equal after normalisation; a long response also by its final answer, else by ROUGE-L >= ``threshold``."""
    if normalise_answer(reference) == normalise_answer(candidate):
        return True
    if not long:
        return False
    wanted = final_answer(reference)
    if wanted is not None:
        said = final_answer(candidate)
        return said is not None and normalise_answer(wanted) == normalise_answer(said)
    return rouge_l(reference, candidate) >= threshold
