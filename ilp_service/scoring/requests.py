"""What the scoring engine is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """A prompt and the continuations whose log-probability is wanted.

    Attributes:
        key: Name of the request; comes back with the answer.
        context: Token ids of the prompt, special tokens included; at least one.
        options: Token ids of every continuation; each at least one.
    """

    key: str
    context: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class OptionScores:
    """Log-probabilities of the continuations of one prompt.

    Attributes:
        key: The request's key.
        logprobs: Sum of token log-probabilities in nats, float64, shape ``(options,)``.
        greedy: Whether each option's tokens are all the model's first choice, shape ``(options,)``.
        last_logprobs: Log-probability of each option's last token, nats, shape ``(options,)``.
    """

    key: str
    logprobs: npt.NDArray[np.float64]
    greedy: npt.NDArray[np.bool_]
    last_logprobs: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt to be continued freely.

    Attributes:
        key: Name of the request; also seeds its random draws, so that batching cannot change them.
        context: Token ids of the prompt; at least one.
        max_new_tokens: Where generation stops if no stop token came.
    """

    key: str
    context: tuple[int, ...]
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Generations:
    """Continuations of one prompt, stop token removed.

    Attributes:
        key: The request's key.
        greedy: Token ids of the greedy continuation.
        samples: Token ids of each sampled continuation.
    """

    key: str
    greedy: tuple[int, ...]
    samples: tuple[tuple[int, ...], ...]
