"""Putting an adapter on its base, so that one copy of the weights serves both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ilp_service.checkpoints import files
from ilp_service.checkpoints.weights import quiet, to_device
from ilp_service.errors import AdapterKeysError

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight")
# Ways to start an adapter that change the base's own weights, so that switching it off does not give the base.
_HARMLESS_STARTS = {"gaussian", "eva", "orthogonal"}


class AdaptedModel:
    """A base model with an adapter that can be switched off."""

    def __init__(self, model: PeftModel, replaced: dict[torch.nn.Parameter, torch.Tensor]) -> None:
        self._model = model
        # Base weights that the adapter's file overwrites (embeddings saved whole), as they were.
        self._replaced = replaced
        self._off = False

    @property
    def tuned(self) -> PreTrainedModel:
        """The model with the adapter on."""
        if self._off:
            raise RuntimeError("the adapter is switched off: leave the block of base() before asking for tuned()")
        return self._inner()

    def _inner(self) -> PreTrainedModel:
        model: PreTrainedModel = self._model.get_base_model()
        return model

    @contextlib.contextmanager
    def base(self) -> Iterator[PreTrainedModel]:
        """The model with the adapter off."""
        with self._model.disable_adapter():
            self._swap()
            self._off = True
            try:
                yield self._inner()
            finally:
                self._off = False
                self._swap()

    def _swap(self) -> None:
        for parameter, other in self._replaced.items():
            parameter.data, self._replaced[parameter] = other, parameter.data


def adapt(base: PreTrainedModel, folder: Path, device: torch.device) -> AdaptedModel:
    """Load the adapter in ``folder`` onto ``base``, which is changed in place.

    Raises:
        AdapterKeysError: Its keys or shapes do not fit the base, or it is of a kind that has no clean base.
        UnsafeWeightsError: Its weights are not safetensors.
    """
    import peft
    import torch

    shapes = files.tensor_shapes(files.adapter_file(folder))
    config = _config(folder)
    _check_vocabulary(base, folder, shapes)
    try:
        with quiet():
            # In full precision also on a 16-bit base, as it was trained.
            adapted = peft.PeftModel(base, config, "default")
            overwritten = {
                parameter: parameter.detach().clone()
                for name, parameter in adapted.named_parameters()
                if name in shapes
            }
            report = adapted.load_adapter(str(folder), "default", is_trainable=False, torch_device=str(device))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # untrusted files make peft raise nearly anything
        text = " ".join(str(error).split())[:300]
        raise AdapterKeysError(
            f"The adapter in {folder} does not fit its base ({text}); was it trained on another model?"
        ) from error
    for what, keys in (
        ("lacks", report.missing_keys),
        ("has keys that the base has no place for", report.unexpected_keys),
    ):
        if keys:
            shown = ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise AdapterKeysError(f"The adapter in {folder} {what}: {shown}; was it trained on another model?")
    to_device(adapted, device)
    replaced = {
        parameter: before.to(device)
        for parameter, before in overwritten.items()
        if not parameter.detach().cpu().equal(before.cpu())
    }
    return AdaptedModel(adapted, replaced)


def _config(folder: Path) -> PeftConfig:
    import peft

    values = files.read_json(folder / files.ADAPTER_CONFIG)
    kind = str(values.get("peft_type"))
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in _HARMLESS_STARTS:
        raise AdapterKeysError(
            f"The adapter in {folder} was started with init_lora_weights={start!r}, which changes the base's weights; "
            "save it with path_initial_model_for_weight_conversion, or merge it and register the full model."
        )
    if values.get("layer_replication") or kind in {"XLORA", "POLY"}:
        raise AdapterKeysError(
            f"The adapter in {folder} rebuilds its base ({kind}); merge it and register the full model."
        )
    try:
        with quiet():
            config = peft.PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # the same for its config
        text = " ".join(str(error).split())[:300]
        raise AdapterKeysError(f"{folder / files.ADAPTER_CONFIG} is not understood by this peft ({text}).") from error
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise AdapterKeysError(
            f"The adapter in {folder} is a learned prompt ({kind}), not weights, which is not supported; use LoRA."
        )
    config.inference_mode = True
    return config


def _check_vocabulary(base: PreTrainedModel, folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    rows = int(base.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    for name, shape in shapes.items():
        if name.endswith(_EMBEDDINGS) and len(shape) == 2 and shape[0] != rows:
            raise AdapterKeysError(
                f"The adapter in {folder} was trained on a base with {shape[0]} embeddings, this base has {rows}; "
                "save the resized base and name it with --base, or merge the adapter and register the full model."
            )
