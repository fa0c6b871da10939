"""From hidden states to log-probabilities, without ever holding the scores of a whole batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ilp_service.scoring.parts import ModelParts

_ROWS = 128
_CELLS = 8_388_608


def rows_at_once(vocabulary: int) -> int:
    """Rows whose scores are held at a time, 32 to 128: few enough to stay in memory that is used again."""
    return max(32, min(_ROWS, _CELLS // vocabulary))


def read_tokens(
    parts: ModelParts, hidden: torch.Tensor, rows: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Log-probability of tokens behind given positions.

    The head runs on the positions that are read, each once, a few at a time.

    Args:
        parts: The model.
        hidden: Hidden states, shape ``(positions, hidden)``.
        rows: Position behind which each token is read, shape ``(reads,)``.
        tokens: Token ids, shape ``(reads,)``.

    Returns:
        Log-probabilities in nats and whether each token is the first choice, both of shape ``(reads,)``.
    """
    needed, read_of = np.unique(rows, return_inverse=True)
    order = np.argsort(read_of, kind="stable")
    device = hidden.device
    needed_there = torch.from_numpy(needed).to(device)
    local = torch.from_numpy(read_of[order]).to(device)
    wanted = torch.from_numpy(tokens[order]).to(device)
    found: list[torch.Tensor] = []
    first: list[torch.Tensor] = []
    step = rows_at_once(parts.vocabulary)
    for begin in range(0, len(needed), step):
        reads = slice(*np.searchsorted(read_of[order], [begin, begin + step]))
        raw = parts.head(hidden[needed_there[begin : begin + step]])
        logprobs = torch.log_softmax(parts.finish(raw), dim=-1)
        here, targets = local[reads] - begin, wanted[reads]
        values = logprobs[here, targets]
        found.append(values)
        first.append(_first_choice(logprobs, here, targets, values))
    found_there = np.empty(len(order), dtype=np.float64)
    first_there = np.empty(len(order), dtype=np.bool_)
    found_there[order] = torch.cat(found).double().cpu().numpy()
    first_there[order] = torch.cat(first).cpu().numpy()
    return found_there, first_there


def _first_choice(
    logprobs: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Whether each token is what ``argmax`` gives, ties included.

    The maximum is ten times cheaper than its position, so the position is looked up only where it decides.
    """
    largest = values >= logprobs.amax(-1)[rows]
    largest[largest.clone()] = logprobs[rows[largest]].argmax(-1) == tokens[largest]
    return largest
