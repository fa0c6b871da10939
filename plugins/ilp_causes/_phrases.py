"""Words for explanations: numbers and untrusted text made safe to stand in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def known(row: Mapping[str, Any], name: str) -> bool:
    """Whether the row has a value for this signal."""
    value = row.get(name)
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def number(row: Mapping[str, Any], name: str, default: float = 0.0) -> float:
    """A number signal, or the default where it was not measured."""
    return float(row[name]) if known(row, name) else default


def percent(row: Mapping[str, Any], name: str) -> str:
    """A rate as ``31 %``, or ``an unknown share`` where it was not measured."""
    if not known(row, name):
        return "an unknown share"
    value = 100 * float(row[name])
    return f"{value:.1f} %" if 0 < value < 1 or 99 < value < 100 else f"{value:.0f} %"


def quote(row: Mapping[str, Any], name: str, limit: int = 60) -> str:
    """A text signal in quotation marks, on one line, cut; ``an unknown text`` where there is none."""
    if not known(row, name):
        return "an unknown text"
    text = " ".join(str(row[name]).split())
    return f"“{text if len(text) <= limit else text[: limit - 1] + '…'}”"


def text(row: Mapping[str, Any], name: str, default: str = "unknown") -> str:
    """A short text signal as it is (ids, step numbers)."""
    return str(row[name]) if known(row, name) else default
