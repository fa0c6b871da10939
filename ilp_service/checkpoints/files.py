"""The files of a checkpoint: which of them are read, and what is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ilp_service.errors import RemoteCodeError, SourceUnreadableError, UnsafeWeightsError

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CONFIG = "config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
)

_UNSAFE_SUFFIXES = {
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".gguf",
    ".ggml",
    ".h5",
    ".msgpack",
    ".npz",
    ".onnx",
}
# What a trainer leaves beside the weights, which is never read.
_TRAINER_FILES = {"training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"}
_MAX_JSON_BYTES = 64 * 1024 * 1024
_MAX_TEXT_BYTES = 256 * 1024 * 1024


def read_json(path: Path, within: Path | None = None) -> dict[str, Any]:
    """A JSON object from a checkpoint's file.

    Args:
        path: The file.
        within: The folder that it must not leave; its own folder when not given.

    Raises:
        SourceUnreadableError: It is missing, no JSON object, too large, or a link out of its folder.
    """
    inside(path, within or path.parent)
    try:
        if path.exists() and not path.is_file():
            raise SourceUnreadableError(f"{path} is no file; register the checkpoint again.")
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise SourceUnreadableError(f"{path} is larger than {_MAX_JSON_BYTES // 2**20} MB, which no such file is.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceUnreadableError(
            f"{path} cannot be read as JSON ({error}); register the checkpoint again."
        ) from error
    if not isinstance(value, dict):
        raise SourceUnreadableError(f"{path} holds a {type(value).__name__}, not a JSON object.")
    return value


def inside(path: Path, folder: Path) -> Path:
    """``path``, once it is sure that it neither leaves ``folder`` by its name nor by a symbolic link.

    The snapshots of the Hugging Face cache, which are links into its own ``blobs``, are fine.

    Raises:
        SourceUnreadableError: It leaves the folder.
    """
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        allowed.append(root.parent.parent / "blobs")
    real = path.resolve()
    if not any(real.is_relative_to(place) for place in allowed):
        raise SourceUnreadableError(
            f"{path} leads out of the checkpoint's folder to {real}; copy the file into the folder."
        )
    return path


def bounded(path: Path, most: int = _MAX_TEXT_BYTES) -> Path:
    """``path``, once it is sure that it is no larger than any such file is.

    Raises:
        SourceUnreadableError: It is larger.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SourceUnreadableError(f"{path} cannot be read: {error.strerror}.") from error
    if size > most:
        raise SourceUnreadableError(f"{path} is larger than {most // 2**20} MB, which no such file is.")
    return path


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a full model, each with a header that fits its length.

    Raises:
        UnsafeWeightsError: There are weights, but none in safetensors.
        SourceUnreadableError: There are no weights, a shard is missing, truncated, or outside the folder.
    """
    if (folder / WEIGHTS).is_file():
        files = [folder / WEIGHTS]
    elif (folder / WEIGHTS_INDEX).is_file():
        files = _shards(folder)
    else:
        raise _no_weights(folder, WEIGHTS)
    for file in files:
        tensor_shapes(inside(file, folder))
    return files


def adapter_file(folder: Path) -> Path:
    """The safetensors file of an adapter.

    Raises:
        UnsafeWeightsError: The adapter's weights are not safetensors.
        SourceUnreadableError: There are none, or they are truncated.
    """
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        raise _no_weights(folder, ADAPTER_WEIGHTS)
    tensor_shapes(inside(file, folder))
    return file


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in a safetensors file, from its header alone.

    Raises:
        SourceUnreadableError: The file is truncated or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise SourceUnreadableError(
            f"{file} is truncated or damaged ({error}); copy or register the checkpoint again."
        ) from error


def _shards(folder: Path) -> list[Path]:
    index = folder / WEIGHTS_INDEX
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise SourceUnreadableError(f"{index} has no 'weight_map' from tensors to files; save the model again.")
    files = []
    for name in sorted(set(names.values())):
        file = inside(folder / name, folder)
        if file.suffix != ".safetensors":
            raise _unsafe(file)
        if not file.is_file():
            raise SourceUnreadableError(f"{index} names {name!r}, which is not there; copy the missing shard.")
        files.append(file)
    return files


def _no_weights(folder: Path, expected: str) -> Exception:
    found = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in _UNSAFE_SUFFIXES and file.name not in _TRAINER_FILES and "rng_state" not in file.name
    )
    if found:
        return _unsafe(found[0])
    return SourceUnreadableError(f"{folder} has no {expected}; save the model with save_pretrained.")


def _unsafe(file: Path) -> UnsafeWeightsError:
    return UnsafeWeightsError(
        f"{file.name} in {file.parent} is not safetensors, and reading it could run code; load the model where you "
        "trust it and save it with model.save_pretrained(folder), which writes safetensors."
    )


def check_config(folder: Path) -> dict[str, Any]:
    """The model's ``config.json``, once it is sure that transformers itself knows the architecture.

    Raises:
        RemoteCodeError: The model brings code of its own or its type is not known.
        SourceUnreadableError: The config is missing or broken, or the model is no causal language model.
    """
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = read_json(folder / CONFIG)
    kind = config.get("model_type")
    if config.get("auto_map"):
        raise RemoteCodeError(
            f"{folder / CONFIG} has an 'auto_map': the model brings code of its own, which is never run; "
            "save it with an architecture that transformers has."
        )
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise RemoteCodeError(
            f"{folder / CONFIG} has model_type {kind!r}, which this transformers does not know; "
            "upgrade transformers or save the model with an architecture that it has."
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise SourceUnreadableError(f"{folder} holds a {kind!r} model, which is not a causal language model.")
    return config
