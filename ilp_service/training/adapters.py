"""Low-rank adapters around a base."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ilp_service.errors import SettingsError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_CARRIED = (
    "alpha_pattern",
    "bias",
    "ensure_weight_tying",
    "exclude_modules",
    "fan_in_fan_out",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
)
"""Options of PEFT that change what is trained, and are trained here as they are."""
_OWN = ("r", "lora_alpha", "lora_dropout", "target_modules")
_IDLE = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "megatron_core",
    "peft_type",
    "peft_version",
    "revision",
    "runtime_config",
    "task_type",
    # These act only together with another option, which is refused.
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    "qalora_group_size",
)
# Other first weights change those of the base as well, or are drawn from data that nobody has named.
_FIRST_WEIGHTS = (True, False, "gaussian", "orthogonal")


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """Shape of a LoRA adapter.

    Attributes:
        rank: Of the added matrices.
        alpha: Their product is scaled by ``alpha / rank``.
        dropout: On their input while training, 0-1.
        targets: Names of the layers that get one, or the ends of their dotted names; ``('all-linear',)`` means every
            linear layer but the output head. A single one that is no name is a regular expression of whole names.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)


@dataclass(frozen=True, slots=True)
class SavedLoraOptions(LoraOptions):
    """Shape of a saved LoRA adapter that is more than these four.

    Attributes:
        more: Further options of ``peft.LoraConfig`` by name, those that are not as PEFT has them by default.
    """

    more: Mapping[str, Any] = field(default_factory=dict)


def saved_lora(folder: Path) -> LoraOptions:
    """Shape of a saved adapter, so that one of the same shape can be trained.

    Args:
        folder: Holds ``adapter_config.json``.

    Raises:
        SettingsError: It is no LoRA adapter, or one that is not trained here.
    """
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    kind, targets = str(config.get("peft_type", "LORA")).upper(), config.get("target_modules")
    way_out = (
        "train a LoRA adapter with method: lora and lora.rank in a file given with --recipe, or all weights with --full"
    )
    if kind != "LORA":
        raise SettingsError(
            f"The checkpoint in {folder} is an adapter of type {kind}, which is not trained here; {way_out}."
        )
    more = {name: value for name, value in sorted(config.items()) if _differs(name, value)}
    refused = [name for name in more if name not in _CARRIED]
    if more.get("init_lora_weights", True) not in _FIRST_WEIGHTS:
        refused.append("init_lora_weights")
    if refused:
        raise SettingsError(
            f"The checkpoint in {folder} is an adapter with {refused[0]} = {more[refused[0]]!r}, which is not trained "
            f"here; {way_out}."
        )
    if not targets and "target_parameters" not in more:
        targets = "all-linear"
    shape: dict[str, Any] = {
        "rank": int(config.get("r", 8)),
        "alpha": float(config.get("lora_alpha", 8)),
        "dropout": float(config.get("lora_dropout") or 0.0),
        "targets": (targets,) if isinstance(targets, str) else tuple(sorted(targets or ())),
    }
    return SavedLoraOptions(**shape, more=more) if more else LoraOptions(**shape)


def _differs(name: str, value: object) -> bool:
    """Whether an option of a saved adapter is other than PEFT has it by default; nothing is the same as empty."""
    import peft

    if name in (*_OWN, *_IDLE):
        return False
    default: object = None
    for option in fields(peft.LoraConfig):
        if option.name == name and option.default is not MISSING:
            default = option.default
    # False is a choice of first weights, and elsewhere the same as nothing.
    if not value and not default:
        return False
    return value != default


def add_lora(model: PreTrainedModel, options: LoraOptions, *, base: str, seed: int) -> PeftModel:
    """Put an untrained adapter around ``model``; only the adapter is trainable, and its matrices are float32.

    Args:
        model: The base, changed in place.
        options: The adapter's shape.
        base: Where the base lies; kept in the adapter's config.
        seed: Of the adapter's first weights.

    Raises:
        SettingsError: The model has no layer of one of the names, or the options make no adapter.
    """
    import peft

    more = dict(options.more) if isinstance(options, SavedLoraOptions) else {}
    _check_targets(model, options.targets)
    if options.rank < 1 or options.alpha <= 0 or not 0 <= options.dropout < 1:
        raise SettingsError(
            f"LoRA with rank {options.rank}, alpha {options.alpha} and dropout {options.dropout} cannot be made; "
            "expected a rank of 1 or more, an alpha above 0 and a dropout from 0 to below 1."
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            config = peft.LoraConfig(
                r=options.rank,
                lora_alpha=options.alpha,
                lora_dropout=options.dropout,
                target_modules=_target_modules(options.targets),
                task_type="CAUSAL_LM",
                base_model_name_or_path=base,
                **more,
            )
            adapted: PeftModel = peft.get_peft_model(model, config)
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"No adapter on {', '.join(options.targets)} can be put around the base: {str(error).splitlines()[0]}; "
                "name other layers with --lora-targets, or lora.targets in a file given with --recipe."
            ) from error
    return adapted


def _target_modules(targets: tuple[str, ...]) -> str | list[str]:
    """As PEFT wants them: a text is a regular expression or ``all-linear``, a list has names or their ends."""
    if targets == ("all-linear",) or _is_pattern(targets):
        return targets[0]
    return list(targets)


def _is_pattern(targets: tuple[str, ...]) -> bool:
    return len(targets) == 1 and targets != ("all-linear",) and re.fullmatch(r"[\w.]*", targets[0]) is None


def _check_targets(model: PreTrainedModel, targets: tuple[str, ...]) -> None:
    layers = [name for name, _ in model.named_modules()]
    if _is_pattern(targets):
        try:
            missing = [] if any(re.fullmatch(targets[0], name) for name in layers) else [targets[0]]
        except re.error as error:
            raise SettingsError(
                f"{targets[0]!r} names no layer, and as a regular expression it cannot be read: {error}; expected "
                "names of layers in --lora-targets, or lora.targets in a file given with --recipe."
            ) from error
    else:
        missing = sorted(
            target
            for target in set(targets) - {"all-linear"}
            if not any(f".{name}".endswith(f".{target}") for name in layers)
        )
    if missing:
        linear = {name.rpartition(".")[2] for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
        raise SettingsError(
            f"The base has no linear layer named {missing[0]!r}; --lora-targets takes {', '.join(sorted(linear))}."
        )
