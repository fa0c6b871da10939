"""JSON text rewritten only where its value differs, so that all the rest stays as somebody wrote it."""

from __future__ import annotations

import json
import re

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()

Span = tuple[int, int]


def respelled(text: str, old: object, new: object) -> str:
    """The text of a value with another value in its place.

    Numbers, escapes, constants and white space of whatever is equal in both stay to the character.

    Args:
        text: One JSON value, with white space around it or not.
        old: What the text says.
        new: What it shall say.
    """
    if old == new:
        return text
    start = _skip(text, 0)
    edits: list[tuple[int, int, str]] = []
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() <= new.keys():
        spans = members(text, start)
        end = max((stop for _, stop in spans.values()), default=start + 1)
        more = [f"{json_text(name)}: {json_text(value)}" for name, value in new.items() if name not in spans]
        if more:
            edits.append((end, end, (", " if spans else "") + ", ".join(more)))
        for name, (first, last) in spans.items():
            edits.append((first, last, respelled(text[first:last], old[name], new[name])))
    elif isinstance(old, list) and isinstance(new, list) and len(new) <= len(old):
        places = elements(text, start)
        for (first, last), before, after in zip(places, old, new, strict=False):
            edits.append((first, last, respelled(text[first:last], before, after)))
        if len(new) < len(old):
            edits.append((places[len(new) - 1][1] if new else places[0][0], places[-1][1], ""))
    else:
        edits.append((start, _end(text, start), json_text(new)))
    # From the back, so that the places before stay what they are.
    for first, last, said in sorted(edits, reverse=True):
        text = text[:first] + said + text[last:]
    return text


def members(text: str, start: int) -> dict[str, Span]:
    """Where the values of a JSON object stand; of a name that stands there twice, the last one, as parsing has it.

    Args:
        text: Valid JSON.
        start: Index of the opening brace.
    """
    spans: dict[str, Span] = {}
    place = _skip(text, start + 1)
    while text[place] != "}":
        name, place = _DECODER.raw_decode(text, place)
        place = _skip(text, _skip(text, place) + 1)
        end = _end(text, place)
        spans[name] = place, end
        place = _next(text, end)
    return spans


def elements(text: str, start: int) -> list[Span]:
    """Where the elements of a JSON array stand.

    Args:
        text: Valid JSON.
        start: Index of the opening bracket.
    """
    spans: list[Span] = []
    place = _skip(text, start + 1)
    while text[place] != "]":
        end = _end(text, place)
        spans.append((place, end))
        place = _next(text, end)
    return spans


def whole(text: str) -> Span:
    """Where the one value of a text stands."""
    start = _skip(text, 0)
    return start, _end(text, start)


def json_text(value: object, indent: int | None = None) -> str:
    """A value as JSON that can always be encoded: half a surrogate pair stays an escape."""
    text = json.dumps(value, ensure_ascii=False, default=str, indent=indent)
    return text if text.isascii() or _encodable(text) else json.dumps(value, default=str, indent=indent)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _skip(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()


def _end(text: str, place: int) -> int:
    return _DECODER.raw_decode(text, place)[1]


def _next(text: str, end: int) -> int:
    """Behind the comma after a value, or at the closing bracket."""
    place = _skip(text, end)
    return _skip(text, place + 1) if text[place] == "," else place
