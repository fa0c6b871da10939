"""Models that are named by their Hugging Face hub id."""

from __future__ import annotations

import re
from pathlib import Path

from ilp_service.errors import ModelNotFoundError, UnsafeWeightsError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Weights in safetensors, texts, and the tokenizer; nothing that could run.
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model", "spiece.model"]


def looks_like_id(name: str) -> bool:
    """Whether a text can be a hub id: ``name`` or ``owner/name``."""
    return _ID.fullmatch(name) is not None


def snapshot(name: str) -> Path:
    """Folder of a hub model in the local cache; it is downloaded when it is not there and the hub may be asked.

    ``HF_HUB_OFFLINE`` forbids asking.

    Raises:
        ModelNotFoundError: It is neither in the cache nor to be had.
        UnsafeWeightsError: The model on the hub has no safetensors.
    """
    if not looks_like_id(name):
        raise ModelNotFoundError(f"There is no folder {name!r}, and it is not a hub id.")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if any(folder.glob("*.safetensors")):
            return folder
        reason = "its copy in the local Hugging Face cache has no safetensors"
    except LocalEntryNotFoundError:
        reason = "it is not in the local Hugging Face cache"
    except (HFValidationError, OSError) as error:
        raise ModelNotFoundError(f"There is no folder {name!r}, and it is not a hub id: {error}") from error
    if constants.is_offline_mode():
        raise ModelNotFoundError(
            f"There is no folder {name!r}; as a hub id, {reason}, and HF_HUB_OFFLINE forbids asking."
        )
    try:
        folder = Path(snapshot_download(name, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFoundError(
            f"There is no folder {name!r}; as a hub id, {reason}, and the hub did not give it: {first}"
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise UnsafeWeightsError(f"The hub model {name!r} has no safetensors; convert it and save it to a folder.")
    return folder
