"""Free continuations of prompts: the greedy one, and samples."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache

from ilp_service.errors import IlpWarning
from ilp_service.scoring.batching import windows
from ilp_service.scoring.parts import ModelParts, evaluation_mode, take_apart
from ilp_service.scoring.requests import GenerationRequest, Generations
from ilp_service.scoring.sampling import draw_tokens, uniforms

_WINDOW_REQUESTS = 1024


@dataclass(slots=True)
class _Row:
    """One continuation in the making; ``noise`` is None for the greedy one."""

    request: int
    context: tuple[int, ...]
    budget: int
    noise: np.ndarray[tuple[int], np.dtype[np.float64]] | None
    tokens: list[int] = field(default_factory=list)


class Generator:
    """Continues prompts with a causal language model.

    Prompts of equal length run together, without padding; each is read once, and its cache is copied for its samples.
    A sample's random numbers come from the seed, the request's key and the number of the draw, so batch and order
    change a continuation only where two tokens are within rounding of each other.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        max_batch_tokens: int,
        stop_ids: frozenset[int],
        temperature: float,
        samples: int,
        seed: int,
    ) -> None:
        """Prepare a model.

        Args:
            model: A causal language model of transformers, plain or wrapped by PEFT.
            max_batch_tokens: Tokens whose cache is held at once; a single prompt's continuations may exceed it.
            stop_ids: Tokens that end a continuation.
            temperature: Of the samples.
            samples: Sampled continuations a prompt.
            seed: Of the samples.

        Raises:
            AdapterKeysError: The adapter is a learned prompt.

        Warns:
            IlpWarning: The model has no cache that is known here, so every token costs a full pass.
        """
        self._parts = take_apart(model)
        self._max_tokens = max_batch_tokens
        self._stop_ids = stop_ids
        self._temperature = temperature
        self._samples = samples
        self._seed = seed
        parameters = inspect.signature(self._parts.model.forward).parameters
        self._cached = "past_key_values" in parameters
        if not self._cached:
            name = type(self._parts.model).__name__
            warnings.warn(f"{name} generates the slow way: it has no key-value cache.", IlpWarning, stacklevel=2)

    def refusal(self, request: GenerationRequest) -> str | None:
        """Why a request cannot be continued, in one sentence; None if it can.

        :meth:`generate` answers such a request with empty continuations and no samples.
        """
        if not request.context:
            return "The prompt has no token; expected at least one, such as the beginning-of-sequence token."
        return self._parts.refusal(request.context, len(request.context) + 1)

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[Generations]:
        """Continue every request, in the order of the requests; a window of them is held at a time.

        A continuation ends before a stop token, after ``max_new_tokens``, or where the model's positions end.
        """
        limit = _WINDOW_REQUESTS * self._max_tokens
        for window in windows(requests, lambda one: len(one.context), tokens=limit, items_at_most=_WINDOW_REQUESTS):
            rows = [row for number, request in enumerate(window) for row in self._rows(number, request)]
            with evaluation_mode(self._parts.whole):
                for batch in self._batches(rows):
                    self._continue(batch)
            finished: list[list[tuple[int, ...]]] = [[] for _ in window]
            for row in rows:
                finished[row.request].append(tuple(row.tokens))
            for request, found in zip(window, finished, strict=True):
                yield Generations(request.key, found[0] if found else (), tuple(found[1:]))

    def _rows(self, number: int, request: GenerationRequest) -> list[_Row]:
        if self.refusal(request) is not None:
            return []
        budget = request.max_new_tokens
        if self._parts.max_positions is not None:
            budget = min(budget, self._parts.max_positions - len(request.context))
        noises = [uniforms(self._seed, request.key, draw, budget) for draw in range(self._samples)]
        return [_Row(number, request.context, budget, noise) for noise in (None, *noises)]

    def _batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows of equal prompt length, a prompt's own rows together, within the tokens of a batch."""
        for length, equal in groupby(
            sorted(rows, key=lambda row: len(row.context), reverse=True), lambda row: len(row.context)
        ):
            batch: list[_Row] = []
            for _, own in groupby(equal, lambda row: row.request):
                more = list(own)
                budget = max(row.budget for row in (*batch, *more))
                if batch and (len(batch) + len(more)) * (length + budget) > self._max_tokens:
                    yield batch
                    batch = []
                batch += more
            yield batch

    def _continue(self, rows: list[_Row]) -> None:
        """Fill in the tokens of rows whose prompts are equally long."""
        prompts = [next(own) for _, own in groupby(rows, lambda row: row.request)]
        copies = np.repeat(
            np.arange(len(prompts)), [sum(row.request == one.request for row in rows) for one in prompts]
        )
        run = _Pass(self._parts, cached=self._cached)
        logits = run.step(torch.tensor([row.context for row in prompts]))
        logits = logits[run.keep(copies)]
        active = [row for row in rows if row.budget > 0]
        while active:
            chosen = self._choose(active, logits)
            alive: list[int] = []
            for place, (row, token) in enumerate(zip(active, chosen, strict=True)):
                if token in self._stop_ids:
                    continue
                row.tokens.append(token)
                if len(row.tokens) < row.budget:
                    alive.append(place)
            if not alive:
                return
            if len(alive) < len(active):
                run.keep(np.array(alive))
                active = [active[place] for place in alive]
            logits = run.step(torch.tensor([[row.tokens[-1]] for row in active]))

    def _choose(self, rows: Sequence[_Row], logits: torch.Tensor) -> list[int]:
        """The next token of every row, from logits ``(rows, vocab)``."""
        chosen = logits.argmax(-1)
        sampled = [place for place, row in enumerate(rows) if row.noise is not None]
        if sampled:
            noise = np.array([row.noise[len(row.tokens)] for row in rows if row.noise is not None])
            chosen[sampled] = draw_tokens(logits[sampled], noise, self._temperature)
        return [int(token) for token in chosen.tolist()]


class _Pass:
    """A model in the middle of its sequences: the cache, or the tokens themselves where it has none."""

    def __init__(self, parts: ModelParts, *, cached: bool) -> None:
        self._parts = parts
        self._cache = DynamicCache(config=parts.model.config.get_text_config()) if cached else None
        self._tokens = torch.empty(0, 0, dtype=torch.long)
        self._last_only = "logits_to_keep" in inspect.signature(parts.model.forward).parameters

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read more tokens, shape ``(rows, time)``; logits behind the last of them, shape ``(rows, vocab)``."""
        extra: dict[str, object] = {"logits_to_keep": 1} if self._last_only else {}
        if self._cache is not None:
            extra |= {"past_key_values": self._cache}
        else:
            tokens = self._tokens = torch.cat([self._tokens, tokens], dim=1) if len(self._tokens) else tokens
        output = self._parts.whole(input_ids=tokens.to(self._parts.device), use_cache=self._cache is not None, **extra)
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> torch.Tensor:
        """Keep or copy rows, by number; gives the numbers as a tensor on the device."""
        index: Any = torch.from_numpy(rows).to(self._parts.device)
        if self._cache is not None:
            self._cache.reorder_cache(index)
        else:
            self._tokens = self._tokens[torch.from_numpy(rows)]
        kept: torch.Tensor = index
        return kept
