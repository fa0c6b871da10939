"""The scoring engine: log-probabilities of many continuations of many prompts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from ilp_service.errors import IlpWarning
from ilp_service.scoring.batching import Piece, pack, pieces, windows
from ilp_service.scoring.check import why_not
from ilp_service.scoring.parts import evaluation_mode, take_apart
from ilp_service.scoring.requests import OptionScores, ScoringRequest
from ilp_service.scoring.routes import RUNNERS, Reads, Route

_WINDOW_BATCHES = 8
_WINDOW_REQUESTS = 4096


class Scorer:
    """Scores options of prompts with a causal language model.

    Every prompt is forwarded once for all its options, common beginnings of options once, and the output head runs
    only on the positions that are read. A window of requests is held at a time, so memory does not grow with
    their number. Between two answers the model is as it was given and may be used for something else.

    How requests fall into batches changes the last bits of a number (up to about 1e-4 nats on a sum in float32), no
    more; the same requests in the same order give the same bits.

    Attributes:
        route: How the model is run: ``flat``, or ``padded`` or ``whole`` for families that need it.
    """

    def __init__(self, model: nn.Module, *, max_batch_tokens: int, pad_token_id: int = 0) -> None:
        """Take the model apart and find the fastest way of running it that gives its own numbers.

        Args:
            model: A causal language model of transformers, plain or wrapped by PEFT.
            max_batch_tokens: Tokens forwarded at once; a single prompt with one option may exceed it.
            pad_token_id: Fills up rows where the model needs padded ones; its value changes no number.

        Raises:
            AdapterKeysError: The adapter is a learned prompt.

        Warns:
            IlpWarning: The fast way does not give the model's own numbers or cannot be used, so a slower one is taken.
        """
        self._parts = take_apart(model, pad_token_id)
        self._max_tokens = max_batch_tokens
        self.route: Route = self._choose()

    def refusal(self, request: ScoringRequest) -> str | None:
        """Why a request cannot be scored, in one sentence; None if it can.

        :meth:`score` answers such a request with NaN for every option. Reasons: no prompt, an empty option, more
        tokens than the model can read, a token id that the model does not have.
        """
        if not request.context:
            return "The prompt has no token; expected at least one, such as the beginning-of-sequence token."
        if not all(request.options):
            return "An option has no token; expected at least one."
        longest = max((len(option) for option in request.options), default=0)
        return self._parts.refusal(request.context, len(request.context) + longest) or next(
            (reason for option in request.options if (reason := self._parts.refusal(option, 0))), None
        )

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[OptionScores]:
        """Log-probabilities of every option of every request, in the order of the requests.

        Args:
            requests: Read as far as the current window only.

        Yields:
            One answer a request. All its numbers are NaN and no option is greedy where :meth:`refusal` has a reason.
        """
        limit = _WINDOW_BATCHES * self._max_tokens
        for window in windows(requests, _tokens, tokens=limit, items_at_most=_WINDOW_REQUESTS):
            yield from self._score_window(window)

    def _score_window(self, window: Sequence[ScoringRequest]) -> list[OptionScores]:
        answers = [_unknown(request) for request in window]
        parts_of = [
            piece
            for number, request in enumerate(window)
            if request.options and self.refusal(request) is None
            for piece in pieces(number, request, self._max_tokens)
        ]
        with evaluation_mode(self._parts.whole):
            for batch in pack(parts_of, lambda piece: piece.tokens, self._max_tokens):
                for piece, reads in zip(batch, self._run(batch), strict=True):
                    _enter(answers[piece.request], piece, reads)
        return answers

    def _run(self, batch: Sequence[Piece]) -> list[Reads]:
        try:
            return RUNNERS[self.route](self._parts, batch, self._max_tokens)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            half = len(batch) // 2
        # Outside the handler, so that the failed pass's tensors are free.
        torch.cuda.empty_cache()
        return self._run(batch[:half]) + self._run(batch[half:])

    def _choose(self) -> Route:
        with evaluation_mode(self._parts.whole):
            flat = why_not("flat", self._parts)
            if flat is None:
                return "flat"
            route: Route = "padded" if why_not("padded", self._parts) is None else "whole"
        name = type(self._parts.model).__name__
        warnings.warn(f"{name} is scored the slow way ({route}): {flat}.", IlpWarning, stacklevel=3)
        return route


def _tokens(request: ScoringRequest) -> int:
    return len(request.context) + sum(map(len, request.options))


def _unknown(request: ScoringRequest) -> OptionScores:
    """An answer without numbers yet."""
    options = len(request.options)
    return OptionScores(
        key=request.key,
        logprobs=np.full(options, np.nan),
        greedy=np.zeros(options, dtype=np.bool_),
        last_logprobs=np.full(options, np.nan),
    )


def _enter(answer: OptionScores, piece: Piece, reads: Reads) -> None:
    """Sum a piece's edges along its options, in float64."""
    found, first = reads
    starts = np.concatenate([[0], np.cumsum(piece.trie.lengths)[:-1]])
    slots = list(piece.slots)
    answer.logprobs[slots] = np.add.reduceat(found[piece.trie.paths], starts)
    answer.greedy[slots] = np.logical_and.reduceat(first[piece.trie.paths], starts)
    answer.last_logprobs[slots] = found[piece.trie.paths[starts + piece.trie.lengths - 1]]
