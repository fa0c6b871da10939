"""Before a model is scored a fast way, that way has to give the model's own numbers on a small example."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ilp_service.scoring.attention import FlatUnsupportedError
from ilp_service.scoring.batching import Piece, pieces
from ilp_service.scoring.parts import ModelParts
from ilp_service.scoring.requests import ScoringRequest
from ilp_service.scoring.routes import RUNNERS, Route

# Mean difference in nats per token. Half precision rounds single unlikely tokens by tenths of a nat; a wrong mask is
# off by nats on most of them.
_TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-6, torch.float16: 0.05, torch.bfloat16: 0.25}


def why_not(route: Route, parts: ModelParts) -> str | None:
    """Why a route cannot be taken with a model, as the end of a sentence; None if it can.

    Two prompts with branching options are scored both ways. A mask that is ignored, a prompt that leaks into its
    neighbour or a head that is misread shows up in that.
    """
    if route == "flat" and (reason := _static_reason(parts)) is not None:
        return reason
    example = _example(parts)
    try:
        fast = RUNNERS[route](parts, example, 64)
    except (FlatUnsupportedError, TypeError, ValueError, AttributeError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    own = RUNNERS["whole"](parts, example, 64)
    difference = float(
        np.concatenate([np.abs(left[0] - right[0]) for left, right in zip(fast, own, strict=True)]).mean()
    )
    tolerance = _TOLERANCE.get(parts.model.dtype, 0.25)
    if not difference <= tolerance:
        return f"the fast way is off by {difference:.2g} nats a token on an example, where {tolerance:.2g} is allowed"
    return None


def _static_reason(parts: ModelParts) -> str | None:
    config: Any = parts.model.config.get_text_config()
    if not type(parts.model)._supports_attention_backend:
        return "its attention cannot be replaced"
    if not parts.takes_positions:
        return "it takes no position ids"
    if parts.one_length_at_a_time:
        return "its rotary embedding depends on the length of the sequence"
    odd = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if odd:
        return f"it has layers of type {', '.join(sorted(odd))}"
    return None


def _example(parts: ModelParts) -> list[Piece]:
    ids = [int(token) for token in (np.arange(32) * 7919 + 11) % parts.vocabulary]
    requests = [
        ScoringRequest("long", tuple(ids[:11]), (tuple(ids[11:16]), (*ids[11:14], ids[20], ids[21]), (ids[22],))),
        ScoringRequest("short", tuple(ids[16:21]), (tuple(ids[23:27]), (ids[27], ids[28]))),
    ]
    return [piece for number, request in enumerate(requests) for piece in pieces(number, request, 64)]
