"""Opening a checkpoint: the tuned model and its base, one at a time on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from ilp_service.checkpoints import files
from ilp_service.checkpoints.adapter import AdaptedModel, adapt
from ilp_service.checkpoints.reference import ModelReference
from ilp_service.checkpoints.tokenizer import largest_id, load_tokenizer
from ilp_service.checkpoints.weights import choose_device, load_weights
from ilp_service.errors import AdapterBaseError, TokenizerError
from ilp_service.settings import ScoringSettings

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["Checkpoint", "load_tokenizer"]

_Role = Literal["tuned", "base"]


class Checkpoint:
    """A fine-tuned model, its tokenizer and, where it is known, its base.

    An adapter serves both from one copy of the weights. Two full models are in memory at once only while
    one is asked for inside the block of the other.
    """

    def __init__(self, reference: ModelReference, scoring: ScoringSettings, tokenizer: PreTrainedTokenizerFast) -> None:
        self.reference = reference
        self.tokenizer = tokenizer
        self._scoring = scoring
        self._device = choose_device(scoring)
        self._full: dict[_Role, PreTrainedModel] = {}
        self._in_use: list[_Role] = []
        self._adapted: AdaptedModel | None = None

    @classmethod
    def open(cls, reference: ModelReference, scoring: ScoringSettings) -> Checkpoint:
        """Load the tokenizer and check it against the models; weights are loaded when they are asked for.

        Raises:
            TokenizerError: There is no tokenizer, or it has ids that a model has no embedding for, or the
                base's gives other ids.
            SettingsError: The device is not there.
        """
        checkpoint = cls(reference, scoring, load_tokenizer(reference.tokenizer_dir))
        weights = reference.base_dir if reference.kind == "adapter" else reference.model_dir
        if weights is not None:
            _check_fits(checkpoint.tokenizer, reference.tokenizer_dir, weights)
        if reference.base_dir is not None:
            _check_same_vocabulary(checkpoint.tokenizer, reference.base_dir)
        return checkpoint

    @property
    def has_base(self) -> bool:
        """Whether the base model is known, so that ``base`` can be used."""
        return self.reference.base_dir is not None

    @property
    def device(self) -> str:
        """Where the models run, e.g. ``cpu`` or ``cuda``."""
        return str(self._device)

    @contextlib.contextmanager
    def tuned(self) -> Iterator[PreTrainedModel]:
        """The fine-tuned model in eval mode, for the time of the block.

        Raises:
            SourceUnreadableError: The weights do not fit the config.
            AdapterKeysError: The adapter does not fit its base.
        """
        if self.reference.kind == "adapter":
            yield self._adapter().tuned
        else:
            with self._one("tuned", self.reference.model_dir) as model:
                yield model

    @contextlib.contextmanager
    def base(self) -> Iterator[PreTrainedModel]:
        """The base model in eval mode, for the time of the block.

        Its embeddings have a row for every id of the tokenizer: tokens that were added for the
        fine-tuning get the mean of all rows.

        Raises:
            AdapterBaseError: The base is not known.
            SourceUnreadableError: Its weights do not fit its config.
        """
        if self.reference.base_dir is None:
            raise AdapterBaseError(f"The base model of {self.reference.uri} is not known; name it with --base.")
        if self.reference.kind == "adapter":
            with self._adapter().base() as model:
                yield model
        else:
            with self._one("base", self.reference.base_dir) as model:
                yield model

    def close(self) -> None:
        """Give the memory of every model back."""
        for role in list(self._full):
            _release(self._full.pop(role))
        if self._adapted is not None:
            _release(self._adapted.tuned)
            self._adapted = None

    def _adapter(self) -> AdaptedModel:
        if self._adapted is None:
            if self.reference.base_dir is None:
                raise AdapterBaseError(f"The base model of {self.reference.uri} is not known; name it with --base.")
            model = load_weights(self.reference.base_dir, self._scoring, self._device)
            self._adapted = adapt(model, self.reference.model_dir, self._device)
        return self._adapted

    @contextlib.contextmanager
    def _one(self, role: _Role, folder: Path) -> Iterator[PreTrainedModel]:
        for other in [name for name in self._full if name != role and name not in self._in_use]:
            _release(self._full.pop(other))
        if role not in self._full:
            model = load_weights(folder, self._scoring, self._device)
            if role == "base":
                _widen(model, largest_id(self.tokenizer) + 1)
            self._full[role] = model
        self._in_use.append(role)
        try:
            yield self._full[role]
        finally:
            self._in_use.remove(role)


def _release(model: PreTrainedModel) -> None:
    """Free a model's memory now, whoever still holds it: it can no longer be used."""
    import torch

    # Models are full of cycles, and waiting for the garbage collector is slow.
    model.to("meta")  # type: ignore[arg-type]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check_fits(tokenizer: PreTrainedTokenizerFast, tokenizer_dir: Path, model_dir: Path) -> None:
    config = files.check_config(model_dir)
    rows = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    if isinstance(rows, int) and largest_id(tokenizer) >= rows:
        raise TokenizerError(
            f"The tokenizer in {tokenizer_dir} has ids up to {largest_id(tokenizer)}, but the model in {model_dir} has "
            f"only {rows} token embeddings; resize the embeddings before training, or save the tokenizer that was used."
        )


def _check_same_vocabulary(tokenizer: PreTrainedTokenizerFast, base_dir: Path) -> None:
    if not (base_dir / "tokenizer.json").is_file():
        return
    theirs = load_tokenizer(base_dir).get_vocab()
    ours = tokenizer.get_vocab()
    # Fine-tuning may add tokens or take over reserved ones; a few differences are no other vocabulary.
    if sum(ours.get(token) != number for token, number in theirs.items()) > 0.01 * len(theirs):
        raise TokenizerError(
            f"The base model in {base_dir} has another vocabulary than the fine-tuned one, so it cannot be its base; "
            "name the right one with --base."
        )


def _widen(model: PreTrainedModel, rows: int) -> None:
    """Give a base one embedding a token where fine-tuning added tokens."""
    import torch

    have = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    if have >= rows:
        return
    model.resize_token_embeddings(rows, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):  # type: ignore[no-untyped-call]
        weight = getattr(layer, "weight", None)
        if isinstance(weight, torch.Tensor):
            with torch.no_grad():
                weight[have:] = weight[:have].mean(dim=0)
    model.requires_grad_(False)
