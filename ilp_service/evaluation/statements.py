"""Declarative statements from short questions, so that a base model is asked in the form it was trained on.

A base model that never saw questions answers them badly even where it knows the fact. "Where was Ada
born?" is therefore also asked as "Ada was born in". Rules cover the common English question forms; a
question that fits none gives no statement, and the cloze form is then not measured for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_WORDS = 40
_WH = re.compile(r"\b(what|which|who|whom|whose|where|when|how)\b", re.IGNORECASE)
_BLANK = re.compile(r"_{2,}|\[blank\]|<blank>", re.IGNORECASE)
_BE = r"(?P<be>is|are|was|were)"
_DO = r"(?P<do>do|does|did)"
_PREPOSITIONS = "in|at|for|on|to|from|with|of|by|as|about|under|into"
_PARTICIPLE = r"\w+(?:ed|en|orn|wn|nt|ld|de|ught|ung|un|pt|rit)"

_IRREGULAR_THIRD = {"have": "has", "do": "does", "go": "goes", "be": "is"}
_IRREGULAR_PAST = {
    "have": "had", "do": "did", "go": "went", "be": "was", "write": "wrote", "make": "made", "take": "took",
    "win": "won", "find": "found", "found": "founded", "live": "lived", "begin": "began", "come": "came",
    "die": "died", "meet": "met", "lead": "led", "build": "built", "grow": "grew", "sing": "sang", "teach": "taught",
    "study": "studied", "marry": "married", "become": "became", "speak": "spoke", "draw": "drew", "hold": "held",
}  # fmt: skip
_PARTICIPLES = {
    "wrote": "written", "made": "made", "took": "taken", "won": "won", "found": "found", "sang": "sung",
    "led": "led", "built": "built", "drew": "drawn", "taught": "taught", "held": "held", "sold": "sold",
}  # fmt: skip


def third_person(verb: str) -> str:
    """The verb as 'he, she, it' takes it: live -> lives, study -> studies."""
    low = verb.lower()
    if low in _IRREGULAR_THIRD:
        return _IRREGULAR_THIRD[low]
    if re.search(r"[^aeiou]y$", low):
        return verb[:-1] + "ies"
    return verb + ("es" if re.search(r"(s|x|z|ch|sh|o)$", low) else "s")


def past(verb: str) -> str:
    """The verb's simple past: live -> lived, write -> wrote."""
    low = verb.lower()
    if low in _IRREGULAR_PAST:
        return _IRREGULAR_PAST[low]
    if re.search(r"[^aeiou]y$", low):
        return verb[:-1] + "ied"
    return verb + ("d" if low.endswith("e") else "ed")


def _finite(do: str, verb: str) -> str:
    return {"does": third_person, "did": past}.get(do.lower(), str)(verb)


def _with_default(preposition: str, default: str) -> str:
    return preposition or default


def _possessive(match: re.Match[str]) -> list[str]:
    owner, mark, rest, be = match["owner"], match["mark"], match["rest"], match["be"]
    return [f"{owner}{mark} {rest} {be}", f"the {rest} of {owner} {be}"]


def _of(match: re.Match[str]) -> list[str]:
    return [f"{match['phrase']} {match['be']}"]


def _do_question(match: re.Match[str]) -> list[str]:
    words = match["rest"].split()
    preposition = ""
    if re.fullmatch(_PREPOSITIONS, words[-1], re.IGNORECASE) and len(words) > 2:
        preposition = words.pop()
    if len(words) < 2:
        return []
    where = (match["wh"] or "").lower()
    if not preposition and where in ("where", "when"):
        preposition = "in"
    *subject, verb = words
    return [" ".join((*subject, _finite(match["do"], verb), preposition)).strip()]


def _be_question(match: re.Match[str]) -> list[str]:
    """'where was Ada born' and 'which city was Ada born in' -> 'Ada was born in'."""
    words = match["rest"].split()
    where = match["wh"].lower()
    preposition = ""
    if len(words) > 1 and re.fullmatch(_PREPOSITIONS, words[-1], re.IGNORECASE):
        preposition = words.pop()
    default = "in" if where.split()[0] in ("where", "when") else ""
    if len(words) > 1 and re.fullmatch(_PARTICIPLE, words[-1], re.IGNORECASE):
        *subject, participle = words
        return [" ".join((*subject, match["be"], participle, _with_default(preposition, default))).strip()]
    if preposition or default:
        return [" ".join((*words, match["be"], _with_default(preposition, default)))]
    return []


def _agent(match: re.Match[str]) -> list[str]:
    verb = match["verb"].lower()
    participle = _PARTICIPLES.get(verb) or (verb if verb.endswith("ed") else "")
    return [f"{match['object']} was {participle} by"] if participle else []


def _how_many(match: re.Match[str]) -> list[str]:
    words = match["rest"].split()
    if len(words) < 2:
        return []
    *subject, verb = words
    return [" ".join(("the number of", match["counted"], *subject, _finite(match["do"], verb), "is"))]


def _attribute(match: re.Match[str]) -> list[str]:
    """'what color is the sky' -> 'the color of the sky is'; 'which city is the C of X' -> 'the C of X is'."""
    attribute, be, rest = match["attribute"], match["be"], match["rest"]
    return [f"{rest} {be}"] if " of " in f" {rest} " else [f"the {attribute} of {rest} {be}"]


_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], list[str]]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), build)
    for pattern, build in (
        (rf"(?:what|who|which(?: \w+)?|where) {_BE} (?P<owner>.+?)(?P<mark> ?['’]s?) (?P<rest>.+)", _possessive),
        (rf"(?:what|who|which(?: \w+)?) {_BE} (?P<phrase>(?:the|a|an)? ?[^,]+? (?:of|for) .+)", _of),
        (rf"how many (?P<counted>[\w ]+?) {_DO} (?P<rest>.+)", _how_many),
        (rf"(?P<wh>where|when|what|who|whom)() {_DO} (?P<rest>.+)", _do_question),
        (rf"(?:what|which) (?:\w+ ){{1,3}}?(?P<wh>){_DO} (?P<rest>.+)", _do_question),
        (rf"(?P<wh>where|when) {_BE} (?P<rest>.+)", _be_question),
        (rf"(?P<wh>(?:what|which) \w+(?: \w+)?) {_BE} (?P<rest>.+ (?:{_PREPOSITIONS}|{_PARTICIPLE}))", _be_question),
        (rf"(?P<wh>what|whom?) {_BE} (?P<rest>.+ (?:{_PREPOSITIONS}))", _be_question),
        (rf"(?:what|which) (?P<attribute>\w+) {_BE} (?P<rest>.+)", _attribute),
        (rf"who (?P<verb>(?!{'is|are|was|were|does|do|did'}\b)\w+) (?P<object>.+)", _agent),
        (rf"what {_BE} (?P<phrase>(?:the|a|an) .+)", _of),
    )
)


def question_of(prompt: str) -> str | None:
    """The question that a prompt ends with, from its question word on, without '?'; ``None`` if there is none."""
    text = " ".join(prompt.split())
    if not text.endswith("?") or len(text.split()) > MAX_WORDS:
        return None
    sentence = re.split(r"(?<=[.!?:])\s+", text)[-1].rstrip("? ")
    found = _WH.search(sentence)
    if found is None:
        return None
    words_before = sentence[: found.start()].split()
    question = sentence[found.start() :].strip()
    if words_before and re.fullmatch(_PREPOSITIONS, words_before[-1], re.IGNORECASE):
        return f"{question} {words_before[-1].lower()}"
    return question


def statements(prompt: str) -> tuple[str, ...]:
    """Left contexts that the answer would complete, best rule first; empty where no rule fits.

    >>> statements("Where was Ada Lovelace born?")
    ('Ada Lovelace was born in',)
    >>> statements("Which city does Ada live in?")
    ('Ada lives in',)
    """
    text = " ".join(prompt.split())
    blank = _BLANK.search(text)
    if blank:
        before = text[: blank.start()].strip()
        return (before,) if before and len(before.split()) <= MAX_WORDS else ()
    question = question_of(text)
    if question is None:
        return ()
    for pattern, build in _RULES:
        match = pattern.fullmatch(question)
        if match and (built := build(match)):
            return tuple(dict.fromkeys(" ".join(statement.split()) for statement in built))
    return ()
