"""Logging models to a run, and registering language models in the three forms that people use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ilp_service.errors import AdapterBaseError, SettingsError
from ilp_service.tracking import connection
from ilp_service.tracking.registry import ModelSource

if TYPE_CHECKING:
    from ilp_service.tracking.run import Run

BASE_TAG = "ilp.base_model"
"""Tag of a version that names the model it was fine-tuned from."""


def _pins(*names: str) -> list[str]:
    # Without the local part of torch's version ("+cpu"), which no index has.
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def log_sklearn(
    run: Run,
    model: object,
    name: str,
    X: object,  # noqa: N803
    trusted_types: Sequence[str],
    extra_files: Sequence[Path],
) -> str:
    """Log a scikit-learn classifier in skops form; see ``Run.log_sklearn``."""
    import mlflow
    from mlflow.models import infer_signature

    run.tracking.client()
    with connection.translated(run.tracking.uri):
        info = mlflow.sklearn.log_model(
            model,
            name=name,
            signature=infer_signature(X, model.predict_proba(X)),  # type: ignore[attr-defined]
            pyfunc_predict_fn="predict_proba",
            # Inferring them takes ten seconds and gets them wrong.
            pip_requirements=_pins("scikit-learn", "skops"),
            serialization_format="skops",
            skops_trusted_types=list(trusted_types),
            extra_files=[str(path) for path in extra_files] or None,
        )
    return str(info.model_uri)


def register(
    run: Run,
    name: str,
    *,
    model: object | None,
    tokenizer: object | None,
    folder: Path | None,
    base: str | Path | None,
    tags: Mapping[str, str],
) -> ModelSource:
    """Log a language model and register it; see ``Run.register``."""
    if folder is not None and model is None:
        run.log_folder(folder, "checkpoint")
        source, model_id = f"runs:/{run.run_id}/checkpoint", None
    elif model is not None and tokenizer is not None and folder is None:
        source = _log_transformers(run, model, tokenizer, base)
        model_id = source.rpartition("/")[2]
    else:
        raise SettingsError("Registering needs either a model with its tokenizer, or a folder.")
    every = {**({} if base is None else {BASE_TAG: str(base)}), **tags}
    client = run.tracking.client()
    with connection.translated(run.tracking.uri):
        ensure_registered(client, name)
        # The tags come with the version, so that whoever is told of it sees them.
        made = client.create_model_version(name, source, run_id=run.run_id, tags=every, model_id=model_id)
    return run.tracking.find(f"models:/{name}/{made.version}")


def ensure_registered(client: object, name: str) -> None:
    """Make the registered model if it is not there."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)  # type: ignore[attr-defined]
    except MlflowException as error:
        if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_transformers(run: Run, model: object, tokenizer: object, base: str | Path | None) -> str:
    import mlflow

    adapter = hasattr(model, "peft_config")
    base_path = None
    if adapter:
        # MLflow saves a wrong copy of the weights for an adapter whose base it is not told.
        if base is None or not Path(base).is_dir():
            raise AdapterBaseError(
                f"To register an adapter in transformers form its base must be a local folder, not {base!r}; "
                "name one, or register the adapter's folder."
            )
        base_path = str(Path(base).absolute())
    run.tracking.client()
    with connection.translated(run.tracking.uri), _hub_is_off():
        info = mlflow.transformers.log_model(
            {"model": model, "tokenizer": tokenizer},
            name="checkpoint",
            task="text-generation",
            base_model_path=base_path,
            # Inferring them needs torchvision and a run of the model.
            pip_requirements=_pins("torch", "transformers", *(["peft"] if adapter else [])),
        )
    return str(info.model_uri)


@contextlib.contextmanager
def _hub_is_off() -> Iterator[None]:
    """Keep MLflow from asking the hub for a licence and a model card, which takes up to a minute without a network."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
