"""One MLflow run: what a diagnosis or a training leaves behind."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilp_service.tracking import connection, logged_models
from ilp_service.tracking.registry import ModelSource

if TYPE_CHECKING:
    from ilp_service.tracking.store import Tracking

_PARAM_LIMIT = 6000
_TAG_LIMIT = 8000
_DIGEST_LIMIT = 36


class Run:
    """A run that is going on; made by ``Tracking.run``.

    Every method raises ``TrackingError`` when the store is down or refuses, and ``StorageError``
    when the disk is full.

    Attributes:
        run_id: Id of the run.
        experiment_id: Id of the experiment that it belongs to.
        artifact_uri: Where its files go; a plain path in an embedded store.
        failed: Whether it ends as FAILED though nothing is raised.
    """

    def __init__(self, tracking: Tracking, run_id: str, experiment_id: str, artifact_uri: str) -> None:
        self.tracking = tracking
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.artifact_uri = artifact_uri.rstrip("/")
        self.failed = False

    def fail(self, reason: str) -> None:
        """Let the run end as FAILED, with the reason as its tag ``ilp.reason``."""
        self.failed = True
        self.set_tags({"ilp.status": "failed", "ilp.reason": reason})

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record parameters.

        MLflow never changes a parameter. One that ``mlflow run`` has recorded with another text
        (``limit=""``) stays, and ours goes beside it with the prefix ``ilp.``.
        """
        from mlflow.entities import Param

        client = self.tracking.client()
        with connection.translated(self.tracking.uri):
            have = client.get_run(self.run_id).data.params
            texts = {key: str(value)[:_PARAM_LIMIT] for key, value in params.items()}
            new = {
                f"ilp.{key}" if have.get(key, text) != text else key: text
                for key, text in texts.items()
                if have.get(key) != text
            }
            for start in range(0, len(new), 100):
                batch = list(new.items())[start : start + 100]
                client.log_batch(self.run_id, params=[Param(key, text) for key, text in batch])

    def log_metrics(self, metrics: Mapping[str, float], model_id: str | None = None, step: int = 0) -> None:
        """Record metrics, linked to a logged model (``m-…``) where one is named."""
        from mlflow.entities import Metric

        client = self.tracking.client()
        now = int(time.time() * 1000)
        values = [
            Metric(key, float(value), now, step, model_id=model_id, run_id=self.run_id)
            for key, value in metrics.items()
        ]
        with connection.translated(self.tracking.uri):
            for start in range(0, len(values), 500):
                client.log_batch(self.run_id, metrics=values[start : start + 500])

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags of the run."""
        from mlflow.entities import RunTag

        client = self.tracking.client()
        with connection.translated(self.tracking.uri):
            client.log_batch(self.run_id, tags=[RunTag(key, str(value)[:_TAG_LIMIT]) for key, value in tags.items()])

    def log_file(self, path: Path, folder: str | None = None) -> str:
        """Copy a file to the run's artifacts; it appears whole or not at all.

        Args:
            path: The file; it keeps its name.
            folder: Of the artifacts, the top one when not given.

        Returns:
            URI of the artifact; a plain path in an embedded store.
        """
        client = self.tracking.client()
        with connection.translated(self.tracking.uri):
            client.log_artifact(self.run_id, str(path), artifact_path=folder)
        return "/".join(part for part in (self.artifact_uri, folder, path.name) if part)

    def log_folder(self, path: Path, folder: str) -> str:
        """Copy a folder's content to ``folder`` of the run's artifacts; returns its URI."""
        client = self.tracking.client()
        with connection.translated(self.tracking.uri):
            client.log_artifacts(self.run_id, str(path), artifact_path=folder)
        return f"{self.artifact_uri}/{folder}"

    def log_dict(self, value: Mapping[str, Any] | Sequence[Any], name: str) -> str:
        """Write a JSON or YAML artifact, after the suffix of ``name``; returns its URI."""
        client = self.tracking.client()
        with connection.translated(self.tracking.uri):
            client.log_dict(self.run_id, value, name)
        return f"{self.artifact_uri}/{name}"

    def log_inputs(
        self, *, data: Path, digest: str, rows: int, name: str | None = None, model_id: str | None = None
    ) -> None:
        """Record the data set, and the logged model where there is one, as inputs of the run.

        Args:
            data: The data file.
            digest: SHA-256 of its bytes; MLflow keeps the first 36 digits.
            rows: How many rows it has.
            name: Shown in the UI; the file's name when not given.
            model_id: The diagnosed model (``m-…``).
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        client = self.tracking.client()
        dataset = Dataset(
            name=name or data.name,
            digest=digest[:_DIGEST_LIMIT],
            source_type="local",
            source=json.dumps({"uri": str(data.absolute())}),
            profile=json.dumps({"num_rows": rows}),
        )
        tagged = DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "diagnosis")])
        models = [] if model_id is None else [LoggedModelInput(model_id=model_id)]
        with connection.translated(self.tracking.uri):
            client.log_inputs(self.run_id, datasets=[tagged], models=models)

    def log_sklearn(
        self,
        model: object,
        name: str,
        X: object,  # noqa: N803
        trusted_types: Sequence[str] = (),
        extra_files: Sequence[Path] = (),
    ) -> str:
        """Log a scikit-learn classifier in skops form.

        ``mlflow.sklearn.load_model`` gives the classifier back, ``mlflow.pyfunc.load_model`` its class probabilities.

        Args:
            model: The fitted classifier.
            name: Of the logged model.
            X: Some rows that it understands; the signature is inferred from them.
            trusted_types: Full names of types beyond scikit-learn's plain ones that skops may load.
            extra_files: Go with the model, in its folder ``extra_files``.

        Returns:
            URI of the logged model, ``models:/m-…``.
        """
        return logged_models.log_sklearn(self, model, name, X, trusted_types, extra_files)

    def registered(self, name: str) -> ModelSource | None:
        """The version of ``name`` that this run has registered, the newest of several; ``None`` where there is none."""
        client = self.tracking.client()
        with connection.translated(self.tracking.uri):
            versions = client.search_model_versions(f"run_id = '{self.run_id}'")
        numbers = [int(one.version) for one in versions if one.name == name]
        return self.tracking.find(f"models:/{name}/{max(numbers)}") if numbers else None

    def logged_model(self, name: str) -> str | None:
        """URI of a model that this run has logged under a name; ``None`` if it has not, or not to its end."""
        client = self.tracking.client()
        with connection.translated(self.tracking.uri):
            outputs = client.get_run(self.run_id).outputs
            for output in outputs.model_outputs if outputs else ():
                found = client.get_logged_model(output.model_id)
                if found.name == name and str(found.status).endswith("READY"):
                    return f"models:/{found.model_id}"
        return None

    def register(
        self,
        name: str,
        *,
        model: object | None = None,
        tokenizer: object | None = None,
        folder: Path | None = None,
        base: str | Path | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ModelSource:
        """Log a language model and register it as the next version of ``name``.

        Three forms: ``model`` and ``tokenizer`` give the transformers flavour; a PEFT ``model`` needs ``base``, the
        folder of its base model; ``folder`` alone is logged as it is. ``base`` becomes the tag ``ilp.base_model``.

        Raises:
            AdapterBaseError: A PEFT model without the folder of its base.
            SettingsError: Neither a model with its tokenizer, nor a folder.
        """
        return logged_models.register(
            self, name, model=model, tokenizer=tokenizer, folder=folder, base=base, tags=tags or {}
        )
