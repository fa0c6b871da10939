"""Counts, while a model is trained, how often each sample was in a batch and how much of it entered the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ilp_service.training.matching import RowMatcher
from ilp_service.training.rows import IGNORED, TrainingRow
from ilp_service.training.text_matching import Span

Counts = npt.NDArray[np.int64]
#: Batches kept back before they are looked at, so that an accelerator is not made to wait after every one.
_HELD = 16


class ExposureCounter:
    """Exposures and trained tokens of every sample.

    Rows of equal content cannot be told apart; they are given in turn to the samples that they may be. Where a row
    may be one of several different samples, or shares text with a sample but could not be read, the exposures of
    those samples are unknown from then on.

    Attributes:
        rows: Training rows seen, by the way in which they were recognised.
        reason: Why nothing is known, in one sentence, or ``None``.
    """

    def __init__(self, sample_ids: Sequence[str], matcher: RowMatcher, pad_token_id: int | None = None) -> None:
        self._index = {sample_id: index for index, sample_id in enumerate(sample_ids)}
        self._matcher = matcher
        self._pad = pad_token_id
        self._exposures: Counts = np.zeros(len(sample_ids), dtype=np.int64)
        self._tokens: Counts = np.zeros(len(sample_ids), dtype=np.int64)
        self._exposures_unknown = np.zeros(len(sample_ids), dtype=np.bool_)
        self._tokens_unknown = np.zeros(len(sample_ids), dtype=np.bool_)
        self._held: list[dict[str, torch.Tensor]] = []
        self.rows = {"exact": 0, "cut": 0, "text": 0, "ambiguous": 0, "none": 0}
        self.reason: str | None = None

    def observe_rows(self, rows: Sequence[TrainingRow]) -> None:
        """Count rows whose samples are known; a row of another data set has an id that is not."""
        for row in rows:
            index = self._index.get(row.sample_id)
            self.rows["none" if index is None else "exact"] += 1
            if index is not None:
                self._exposures[index] += 1
                self._tokens[index] += row.trained_tokens

    def watch(self, model: nn.Module) -> torch.utils.hooks.RemovableHandle:
        """Look at every batch that ``model`` is given in training mode; remove the handle to stop."""
        return model.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    def counts(self) -> tuple[list[int | None], list[int | None]]:
        """Exposures and trained tokens of every sample so far, ``None`` where unknown."""
        self._look()
        seen = sum(self.rows[how] for how in self.rows)
        if self.reason is None and 0 < seen == self.rows["none"]:
            self.reason = "no row of the training batches could be recognised as a sample of the data"
        if self.reason is not None:
            unknown: list[int | None] = [None] * len(self._index)
            return unknown, list(unknown)
        return _known(self._exposures, self._exposures_unknown), _known(self._tokens, self._tokens_unknown)

    def state(self) -> dict[str, Any]:
        """All counts as plain numbers, to be kept with a checkpoint."""
        self._look()
        return {
            "exposures": self._exposures.tolist(),
            "tokens": self._tokens.tolist(),
            "exposures_unknown": np.flatnonzero(self._exposures_unknown).tolist(),
            "tokens_unknown": np.flatnonzero(self._tokens_unknown).tolist(),
            "rows": dict(self.rows),
            "reason": self.reason,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self._exposures = np.asarray(state["exposures"], dtype=np.int64)
        self._tokens = np.asarray(state["tokens"], dtype=np.int64)
        self._exposures_unknown[list(state["exposures_unknown"])] = True
        self._tokens_unknown[list(state["tokens_unknown"])] = True
        self.rows = dict(state["rows"])
        self.reason = state["reason"]

    def _before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not module.training or self.reason is not None:
            return
        batch = {name: kwargs.get(name) for name in ("input_ids", "labels", "attention_mask", "position_ids")}
        if batch["input_ids"] is None and args:
            batch["input_ids"] = args[0]
        if not isinstance(batch["input_ids"], torch.Tensor):
            self.reason = "the model was trained without input_ids"
            return
        self._held.append({name: value.detach() for name, value in batch.items() if isinstance(value, torch.Tensor)})
        if len(self._held) >= _HELD:
            self._look()

    def _look(self) -> None:
        held, self._held = self._held, []
        for batch in held:
            for ids, labels in _rows(batch, self._pad):
                self._count(ids, labels)

    def _count(self, ids: list[int], labels: list[int] | None) -> None:
        match = self._matcher.match(ids)
        self.rows[match.how] += 1
        for number, alternatives in enumerate(match.parts):
            trained = _trained(labels, alternatives[0])
            if number and trained == 0:
                continue  # an earlier turn that only gave the context
            chosen = min(alternatives, key=lambda span: (self._exposures[span.sample], span.sample)).sample
            self._exposures[chosen] += 1
            if trained is None:
                self._tokens_unknown[chosen] = True
            else:
                self._tokens[chosen] += trained
        if match.candidates:
            doubtful = [span.sample for span in match.candidates]
            self._exposures_unknown[doubtful] = True
            if any(_trained(labels, span) != 0 for span in match.candidates):
                self._tokens_unknown[doubtful] = True
        elif not match.parts:
            doubtful = sorted(self._matcher.suspects(ids))
            self._exposures_unknown[doubtful] = True
            self._tokens_unknown[doubtful] = True


def _trained(labels: list[int] | None, span: Span) -> int | None:
    """Labelled tokens of a response; the first token of a row is never predicted."""
    if labels is None:
        return None
    return sum(label != IGNORED for label in labels[max(1, span.start) : span.stop])


def _known(values: Counts, unknown: npt.NDArray[np.bool_]) -> list[int | None]:
    return [None if hidden else int(value) for value, hidden in zip(values, unknown, strict=True)]


def _rows(batch: Mapping[str, torch.Tensor], pad: int | None) -> Iterator[tuple[list[int], list[int] | None]]:
    """Token ids and labels of every sequence of a batch, without padding; packed rows are taken apart."""
    tokens = batch["input_ids"].tolist()
    labels = batch["labels"].tolist() if "labels" in batch else [None] * len(tokens)
    mask = batch.get("attention_mask")
    masks = mask.tolist() if mask is not None and mask.dim() == 2 else [None] * len(tokens)
    positions = batch.get("position_ids")
    packed = positions is not None and positions.shape == batch["input_ids"].shape
    places = positions.tolist() if positions is not None and packed else [None] * len(tokens)
    for ids, label, inside, place in zip(tokens, labels, masks, places, strict=True):
        kept = _unpadded(ids, label, pad) if inside is None else [at for at, seen in enumerate(inside) if seen]
        starts = [n for n, at in enumerate(kept) if n == 0 or (place is not None and place[at] == 0)]
        for start, stop in zip(starts, [*starts[1:], len(kept)], strict=True):
            part = kept[start:stop]
            yield [ids[at] for at in part], None if label is None else [label[at] for at in part]


def _unpadded(ids: Sequence[int], labels: Sequence[int] | None, pad: int | None) -> list[int]:
    """Indices of a row that are no padding, where no mask says so: unlabelled padding tokens at either end."""

    def padding(at: int) -> bool:
        return ids[at] == pad and (labels is None or labels[at] == IGNORED)

    low, high = 0, len(ids)
    while high > low and padding(high - 1):
        high -= 1
    while low < high and padding(low):
        low += 1
    return list(range(low, high))
