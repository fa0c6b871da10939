"""Low-rank adapters around a base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ilp_service.errors import SettingsError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """Shape of a LoRA adapter.

    Attributes:
        rank: Of the added matrices.
        alpha: Their product is scaled by ``alpha / rank``.
        dropout: On their input while training, 0-1.
        targets: Names of the layers that get one; ``('all-linear',)`` means every linear layer but the output head.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)


def add_lora(model: PreTrainedModel, options: LoraOptions, *, base: str, seed: int) -> PeftModel:
    """Put an untrained adapter around ``model``; only the adapter is trainable, and its weights are float32.

    Args:
        model: The base, changed in place.
        options: The adapter's shape.
        base: Where the base lies; kept in the adapter's config.
        seed: Of the adapter's first weights.

    Raises:
        SettingsError: The model has no layer of one of the names, or a number makes no adapter.
    """
    import peft

    targets: str | list[str] = "all-linear" if options.targets == ("all-linear",) else list(options.targets)
    names = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    missing = sorted(set(options.targets) - names - {"all-linear"})
    if missing:
        raise SettingsError(
            f"The base has no linear layer named {missing[0]!r}; --lora-targets takes {', '.join(sorted(names))}."
        )
    if options.rank < 1 or options.alpha <= 0 or not 0 <= options.dropout < 1:
        raise SettingsError(
            f"LoRA with rank {options.rank}, alpha {options.alpha} and dropout {options.dropout} cannot be made; "
            "expected a rank of 1 or more, an alpha above 0 and a dropout from 0 to below 1."
        )
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted: PeftModel = peft.get_peft_model(model, config)
    return adapted
