"""What is wrong with the declarations of a cause, a mitigation, a knowledge source or a judge, in sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from ilp_service.plugin import Cause, Judge, KnowledgeSource, Mitigation, Need, Parameter, Signal

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_OPTION = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
_RESERVED = frozenset({"sample_id", "unattributed"})


def faults(cause: object) -> list[str]:
    """What is wrong with the declarations of a cause, one sentence each; empty if nothing is."""
    wrong = _kind_faults(cause, Cause)
    if wrong or not isinstance(cause, Cause):
        return wrong
    called = type(cause).__name__
    missing = [name for name in ("name", "title", "signals") if not hasattr(cause, name)]
    if missing:
        return [f"{called} does not declare {', '.join(missing)}."]
    wrong = list(_label_faults(called, cause.name, cause.title))
    if not isinstance(cause.needs, frozenset | set) or not all(isinstance(need, Need) for need in cause.needs):
        wrong.append(f"{called}.needs is {cause.needs!r}; expected a frozenset of Need.")
    threshold = cause.threshold
    if not isinstance(threshold, int | float) or not math.isfinite(threshold) or not 0 < threshold <= 1:
        wrong.append(f"{called}.threshold is {threshold!r}; expected a number above 0 and up to 1.")
    return wrong + list(_signal_faults(called, cause.signals))


def _signal_faults(called: str, signals: object) -> Iterator[str]:
    if not isinstance(signals, tuple | list) or not signals or not all(isinstance(one, Signal) for one in signals):
        yield f"{called}.signals is {signals!r:.80}; expected a tuple of at least one Signal."
        return
    seen: set[str] = set()
    for signal in signals:
        if not isinstance(signal.name, str) or not _NAME.fullmatch(signal.name) or signal.name in _RESERVED:
            yield f"{called} has a signal named {signal.name!r}; expected small letters, digits and underscores."
        elif signal.name in seen:
            yield f"{called} declares the signal {signal.name!r} twice."
        seen.add(signal.name)
        if signal.direction not in ("+", "-", "0"):
            yield f"Signal {signal.name!r} of {called} has direction {signal.direction!r}; expected '+', '-' or '0'."
        if signal.kind not in ("number", "text"):
            yield f"Signal {signal.name!r} of {called} has kind {signal.kind!r}; expected 'number' or 'text'."
        if not all(isinstance(words, str) and words.strip() for words in (signal.unit, signal.meaning)):
            yield f"Signal {signal.name!r} of {called} lacks a unit or a meaning."


def mitigation_faults(mitigation: object) -> list[str]:
    """What is wrong with the declarations of a mitigation, one sentence each; empty if nothing is."""
    wrong = _named_faults(mitigation, Mitigation)
    if wrong or not isinstance(mitigation, Mitigation):
        return wrong
    called = type(mitigation).__name__
    causes = getattr(mitigation, "causes", None)
    if not isinstance(causes, frozenset) or not causes or not all(isinstance(one, str) for one in causes):
        wrong.append(f"{called}.causes is {causes!r:.80}; expected a frozenset of at least one cause's name.")
    return wrong + list(_parameter_faults(called, mitigation.parameters))


def _parameter_faults(called: str, parameters: object) -> Iterator[str]:
    if not isinstance(parameters, tuple | list) or not all(isinstance(one, Parameter) for one in parameters):
        yield f"{called}.parameters is {parameters!r:.80}; expected a tuple of Parameter."
        return
    seen: set[str] = set()
    for one in parameters:
        if not isinstance(one.name, str) or not _OPTION.fullmatch(one.name):
            yield f"{called} has a parameter named {one.name!r}; expected a dotted name, {called.lower()}.factor."
        elif one.name in seen:
            yield f"{called} declares the parameter {one.name!r} twice."
        seen.add(one.name)
        if not isinstance(one.default, bool | int | float | str):
            yield f"Parameter {one.name!r} of {called} has the default {one.default!r:.80}; expected a number or text."
        if not all(isinstance(words, str) and words.strip() for words in (one.meaning, one.source)):
            yield f"Parameter {one.name!r} of {called} lacks a meaning or a source."


def source_faults(source: object) -> list[str]:
    """What is wrong with the declarations of a knowledge source, one sentence each; empty if nothing is."""
    return _named_faults(source, KnowledgeSource)


def judge_faults(judge: object) -> list[str]:
    """What is wrong with the declarations of a judge, one sentence each; empty if nothing is."""
    return _named_faults(judge, Judge)


def _named_faults(found: object, kind: type[KnowledgeSource] | type[Judge] | type[Mitigation]) -> list[str]:
    wrong = _kind_faults(found, kind)
    if wrong or not isinstance(found, kind):
        return wrong
    called = type(found).__name__
    missing = [name for name in ("name", "title") if not hasattr(found, name)]
    if missing:
        return [f"{called} does not declare {', '.join(missing)}."]
    return list(_label_faults(called, found.name, found.title))


def _kind_faults(found: object, kind: type) -> list[str]:
    if isinstance(found, type):
        return [f"The hook returned the class {found.__name__}; return an object of it, {found.__name__}()."]
    if not isinstance(found, kind):
        return [f"The hook returned {type(found).__name__}; expected objects of ilp_service.plugin.{kind.__name__}."]
    return []


def _label_faults(called: str, name: object, title: object) -> Iterator[str]:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED:
        yield f"{called}.name is {name!r}; expected small letters, digits and underscores."
    if not isinstance(title, str) or not title.strip():
        yield f"{called}.title is {title!r}; expected one line for people."
