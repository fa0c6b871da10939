"""Loading full weights: every key in its place, or an error."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilp_service.checkpoints import files
from ilp_service.errors import SettingsError, SourceUnreadableError
from ilp_service.settings import ScoringSettings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def choose_device(scoring: ScoringSettings) -> torch.device:
    """The device that the settings mean; ``'auto'`` is the first GPU if there is one.

    Raises:
        SettingsError: The device is not known or not there.
    """
    import torch

    if scoring.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(scoring.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise SettingsError(
            f"Setting 'scoring.device' is {scoring.device!r}, which cannot be used here ({first}); try 'auto' or 'cpu'."
        ) from error
    return device


def load_weights(folder: Path, scoring: ScoringSettings, device: torch.device) -> PreTrainedModel:
    """A causal language model in eval mode on ``device``.

    Raises:
        UnsafeWeightsError: Its weights are not safetensors.
        RemoteCodeError: It brings code of its own.
        SourceUnreadableError: Keys are missing, left over, of another shape, or files are damaged.
    """
    import torch
    from transformers import AutoModelForCausalLM

    files.check_config(folder)
    files.weight_files(folder)
    dtype = scoring.dtype if scoring.dtype != "auto" or device.type != "cpu" else "float32"
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                # Reported below with their names; transformers' own error has none.
                ignore_mismatched_sizes=True,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # untrusted files make transformers raise nearly anything
        raise SourceUnreadableError(f"The weights in {folder} do not load: {_short(error)}") from error
    model, report = loaded
    problems: dict[str, set[str]] = {
        "lacks": report["missing_keys"],
        "has too many": report["unexpected_keys"],
        "has in another shape": {entry[0] for entry in report["mismatched_keys"]},
    }
    for what, keys in problems.items():
        if keys:
            shown = ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise SourceUnreadableError(
                f"The checkpoint in {folder} {what}: {shown}; its weights do not fit its config.json, "
                "save the model again."
            )
    return to_device(model, device)


def to_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The model on ``device``, in eval mode, without gradients."""
    model.to(device)  # type: ignore[arg-type]
    model.train(False)
    model.requires_grad_(False)
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' and peft's progress bars and reports away; what matters is raised."""
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger("transformers")
    level, bars = logger.level, transformers_logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
