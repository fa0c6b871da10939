"""The loss of every sample at one moment of its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from ilp_service.samples.rendering import Rendered, Renderer
from ilp_service.samples.sample import Sample
from ilp_service.scoring.engine import Scorer
from ilp_service.scoring.requests import ScoringRequest


@dataclass(frozen=True, slots=True)
class Measured:
    """Results in the order of the samples, ``None`` where they could not be measured.

    Attributes:
        losses: Nats per response token, the terminator counted.
        p_correct: Probability of the response among the sample's options, 0-1.
    """

    losses: list[float | None]
    p_correct: list[float | None]


class SampleMeter:
    """Measures a fixed set of samples again and again with a model that changes in between.

    Samples with one prompt share its forward pass. Dropout is off while it measures; the modes of the modules and
    all random states are afterwards as they were before.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Sequence[Sample],
        rendered: Sequence[Rendered],
        renderer: Renderer,
        *,
        wrong_answers: Mapping[str, Sequence[str]],
        max_batch_tokens: int,
        max_option_tokens: int = 12,
    ) -> None:
        """Prepare the scoring requests.

        Args:
            model: The model that is trained.
            samples: What is measured.
            rendered: Their tokens.
            renderer: Renders the wrong answers in the same way.
            wrong_answers: Wrong answers by sample id; the other choices of multiple-choice samples are added.
            max_batch_tokens: Tokens forwarded at once.
            max_option_tokens: Longer responses get no ``p_correct``: sums over long options measure their lengths.
        """
        self._model = model
        with undisturbed(model):
            self._scorer = Scorer(model, max_batch_tokens=max_batch_tokens)
        options: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
        self._wanted: list[tuple[str, list[int], int]] = []
        keys: dict[tuple[int, ...], str] = {}
        for sample, own in zip(samples, rendered, strict=True):
            wrong = [*wrong_answers.get(sample.sample_id, ()), *(sample.choices or ())]
            wrong = [text for text in dict.fromkeys(wrong) if text != sample.response]
            if max_option_tokens < len(own.response_ids):
                wrong = []
            others = [found for found in renderer.render_options(sample, wrong) if isinstance(found, Rendered)]
            prompt = options.setdefault(own.prompt_ids, {})
            key = keys.setdefault(own.prompt_ids, str(len(keys)))
            responses = [own.response_ids, *(found.response_ids for found in others)]
            slots = [prompt.setdefault(response, len(prompt)) for response in responses]
            self._wanted.append((key, slots, len(own.response_ids)))
        self._requests = [
            ScoringRequest(keys[prompt], prompt, tuple(responses)) for prompt, responses in options.items()
        ]

    def measure(self) -> Measured:
        """All samples with the model as it is now."""
        with undisturbed(self._model):
            scores = {answer.key: answer.logprobs for answer in self._scorer.score(self._requests)}
        losses: list[float | None] = []
        chances: list[float | None] = []
        for key, slots, length in self._wanted:
            sums = scores[key][slots]
            losses.append(_finite(-sums[0] / length))
            chances.append(_finite(softmax(sums)[0]) if len(slots) > 1 else None)
        return Measured(losses, chances)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:  # noqa: ANN401 (accelerate adds attributes of its own)
    """Random states are put back, and mixed precision is off: it wraps the model's forward for training."""
    wrapped = model.__dict__.get("forward")
    original = model.__dict__.get("_original_forward")
    if wrapped is not None and original is not None:
        model.forward = original
    try:
        with torch.random.fork_rng():
            yield
    finally:
        if wrapped is not None and original is not None:
            model.forward = wrapped
