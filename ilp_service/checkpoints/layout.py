"""The three forms in which checkpoints are saved, told apart by their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ilp_service.checkpoints import files
from ilp_service.errors import SourceUnreadableError

Kind = Literal["full", "adapter"]
_MAX_MLMODEL_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a checkpoint lie.

    Attributes:
        kind: Full weights, or an adapter.
        model_dir: Folder with the weights and their config.
        tokenizer_dir: Folder with the tokenizer; ``None`` when the checkpoint has none.
        base_names: Base models that the checkpoint's own files name: ``(name, 'adapter' or 'MLmodel')``, best first.
        reference: Hub id whose weights are meant, when MLflow saved a name in place of weights.
    """

    kind: Kind
    model_dir: Path
    tokenizer_dir: Path | None
    base_names: tuple[tuple[str, str], ...] = ()
    reference: str | None = None


def detect(folder: Path) -> Layout:
    """The form of the checkpoint in ``folder``.

    Raises:
        SourceUnreadableError: It is none of the three forms, or its describing file is broken.
    """
    if (folder / "MLmodel").is_file():
        return _transformers_flavour(folder)
    if (folder / files.ADAPTER_CONFIG).is_file():
        return _adapter(folder, folder)
    if (folder / files.CONFIG).is_file():
        return Layout("full", folder, _tokenizer(folder))
    inner = sorted(
        path.parent.name for name in (files.CONFIG, files.ADAPTER_CONFIG) for path in folder.glob(f"*/{name}")
    )
    hint = f"; it has folders that are: {', '.join(inner[:5])}" if inner else ""
    raise SourceUnreadableError(
        f"{folder} is no checkpoint: it has neither an MLmodel with the transformers flavour, nor "
        f"{files.ADAPTER_CONFIG}, nor {files.CONFIG}{hint}."
    )


def _tokenizer(*folders: Path) -> Path | None:
    signs = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    return next((folder for folder in folders if any((folder / sign).is_file() for sign in signs)), None)


def _adapter(model_dir: Path, root: Path, more: tuple[tuple[str, str], ...] = ()) -> Layout:
    named = files.read_json(model_dir / files.ADAPTER_CONFIG, root).get("base_model_name_or_path")
    own = ((named, "adapter"),) if isinstance(named, str) and named else ()
    return Layout("adapter", model_dir, _tokenizer(root / "components" / "tokenizer", model_dir), own + more)


def _transformers_flavour(folder: Path) -> Layout:
    path = files.bounded(files.inside(folder / "MLmodel", folder), _MAX_MLMODEL_BYTES)
    try:
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
        flavours: dict[str, Any] = dict(described["flavors"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SourceUnreadableError(f"{path} cannot be read ({reason}); log the model again.") from error
    flavour = flavours.get("transformers")
    if not isinstance(flavour, dict):
        raise SourceUnreadableError(
            f"{path} has the flavours {', '.join(sorted(flavours)) or 'none'}; a language model needs 'transformers', "
            "or register its folder as it is."
        )
    names = tuple(
        (value, "MLmodel")
        for key in ("local_base_model_path", "source_model_name")
        if isinstance(value := flavour.get(key), str) and value
    )
    # An adapter saved without base_model_path has a wrong copy of the whole model beside it: peft comes first.
    if (folder / "peft" / files.ADAPTER_CONFIG).is_file():
        return _adapter(folder / "peft", folder, names)
    model_dir, tokenizer = folder / "model", _tokenizer(folder / "components" / "tokenizer", folder / "model")
    if (model_dir / files.CONFIG).is_file():
        return Layout("full", model_dir, tokenizer, names)
    if names:
        return Layout("full", folder, tokenizer, (), reference=names[0][0])
    raise SourceUnreadableError(f"{folder} has an MLmodel, but neither 'model' nor 'peft' with weights; log it again.")
