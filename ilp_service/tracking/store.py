"""The MLflow store: runs and registered models."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from ilp_service.errors import TrackingError
from ilp_service.tracking import connection, registry
from ilp_service.tracking.origins import check_origin
from ilp_service.tracking.registry import ModelSource
from ilp_service.tracking.run import Run

_RUN_ID = "MLFLOW_RUN_ID"
_PARENT = "mlflow.parentRunId"


class _Terminated(SystemExit):
    """SIGTERM arrived: the run ends as KILLED, the process with the shell's usual code."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Tracking:
    """A tracking store and one experiment in it.

    Nothing is contacted or written before the first call that needs it. The first contact gives up
    after a few seconds.
    """

    def __init__(
        self, uri: str | None = None, experiment: str = "ilp", limits: registry.FetchLimits | None = None
    ) -> None:
        """Name the store.

        Args:
            uri: Of the store; else ``MLFLOW_TRACKING_URI``, else ``mlruns/mlflow.db`` of the current folder.
            experiment: Name of the experiment that runs go to; made when it is not there.
            limits: A checkpoint beyond them is refused.
        """
        self.uri = connection.choose_uri(uri)
        self.experiment = experiment
        self.limits = limits
        self._client: Any = None
        self._first = threading.Lock()

    def client(self) -> Any:  # noqa: ANN401 (MLflow has no types)
        """MLflow's client for this store; the first call probes it.

        Raises:
            TrackingError: The store is down or refuses.
        """
        import mlflow

        # Probing changes the process's environment: one thread at a time.
        with self._first:
            if self._client is None:
                connection.prepare(self.uri)
                with connection.translated(self.uri), connection.made_once(self.uri), connection.probing():
                    client = mlflow.MlflowClient(self.uri)
                    client.search_experiments(max_results=1)
                self._client = client
        # MLflow's flavours and artifact stores look at the process-wide setting.
        if mlflow.get_tracking_uri() != self.uri:
            mlflow.set_tracking_uri(self.uri)
        return self._client

    def experiment_id(self) -> str:
        """Id of the experiment, which is made when it is not there.

        In an embedded store its artifacts lie in ``artifacts/`` beside the database.

        Raises:
            TrackingError: The experiment was deleted, or the store is down or refuses.
        """
        from mlflow.exceptions import MlflowException

        client = self.client()
        with connection.translated(self.uri):
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                database = connection.sqlite_path(self.uri)
                location = None if database is None else str(database.parent / "artifacts")
                try:
                    return str(client.create_experiment(self.experiment, artifact_location=location))
                except MlflowException as error:
                    # Another process was quicker.
                    if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                        raise
                    found = client.get_experiment_by_name(self.experiment)
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"The experiment {self.experiment!r} was deleted; restore it with "
                f"'mlflow experiments restore -x {found.experiment_id}' or name another with --experiment."
            )
        return str(found.experiment_id)

    @contextlib.contextmanager
    def run(
        self,
        name: str,
        tags: Mapping[str, str] | None = None,
        *,
        attach: bool = True,
        parent: str | None = None,
        resume: str | None = None,
    ) -> Iterator[Run]:
        """A run that lasts as long as the block.

        It ends as FINISHED, as FAILED when an exception leaves the block or ``Run.fail`` was called, and as KILLED on
        Ctrl-C or SIGTERM.

        Args:
            name: Shown in the UI; a run that ``mlflow run`` made keeps its own.
            tags: Of the run.
            attach: Go on in the run that ``mlflow run`` made for this process, if there is one. Without,
                a new run becomes its child.
            parent: Id of the run whose child a new one becomes.
            resume: Id of an earlier run to go on in, if it still is there.

        Raises:
            TrackingError: The store is down or refuses, now or in mid-run.
        """
        self.client()
        given = os.environ.pop(_RUN_ID, None)
        try:
            every = {**(tags or {}), **({} if parent is None else {_PARENT: parent})}
            goes_on = resume if resume is not None and self._is_there(resume) else given if attach else None
            active = self._start(name, every, goes_on, given)
            run = Run(self, active.info.run_id, active.info.experiment_id, str(active.info.artifact_uri))
            with _sigterm_raises():
                try:
                    # Whoever made the experiment named the place that this run's files are sent to.
                    check_origin(self.uri, run.artifact_uri)
                    yield run
                except BaseException as error:
                    # What went wrong first is what the user must see, even if the store is down by now.
                    with contextlib.suppress(Exception):
                        self._end(_status(error))
                    raise
            self._end("FAILED" if run.failed else "FINISHED")
        finally:
            # MLflow clears it when any run ends; this one did not use it.
            if given is not None and not attach:
                os.environ[_RUN_ID] = given

    def _is_there(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        client = self.client()
        with connection.translated(self.uri):
            try:
                return str(client.get_run(run_id).info.lifecycle_stage) == "active"
            except MlflowException as error:
                if connection.is_missing(error):
                    return False
                raise

    def _start(self, name: str, tags: dict[str, str], goes_on: str | None, given: str | None) -> Any:  # noqa: ANN401
        import mlflow

        with connection.translated(self.uri):
            if goes_on is not None:
                return mlflow.start_run(run_id=goes_on, tags=tags, nested=True, log_system_metrics=False)
            return mlflow.start_run(
                experiment_id=self.experiment_id(),
                run_name=name,
                tags=tags,
                nested=True,
                parent_run_id=given if mlflow.active_run() is None else None,
                log_system_metrics=False,
            )

    def _end(self, status: str) -> None:
        import mlflow

        with connection.translated(self.uri):
            mlflow.end_run(status)

    def find(self, uri: str) -> ModelSource:
        """What a ``models:/`` or ``runs:/`` URI stands for; an alias is resolved here, once.

        Raises:
            ModelNotFoundError: No such model, version, alias or run.
            TrackingError: The store is down or refuses.
        """
        return registry.find(self.client(), self.uri, uri)

    def fetch(self, source: ModelSource, folder: Path) -> Path:
        """The folder with a model's files, to be read only.

        Args:
            source: From ``find``.
            folder: Where files that are not on this machine are downloaded to.

        Raises:
            SourceUnreadableError: The files are gone or cannot be downloaded.
        """
        self.client()
        return registry.fetch(self.uri, source, folder, self.limits)

    def tag_version(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags on a model version.

        Raises:
            TrackingError: The store is down, or this user may not tag the model.
        """
        client = self.client()
        with connection.translated(self.uri):
            for key, value in tags.items():
                client.set_model_version_tag(name, version, key, str(value))

    def untag_version(self, name: str, version: str, keys: Iterable[str]) -> None:
        """Take tags off a model version; those that it does not have are no error."""
        client = self.client()
        with connection.translated(self.uri):
            have = client.get_model_version(name, version).tags
            for key in keys:
                if key in have:
                    client.delete_model_version_tag(name, version, key)

    def set_alias(self, name: str, version: str, alias: str) -> None:
        """Point an alias of a registered model at a version."""
        client = self.client()
        with connection.translated(self.uri):
            client.set_registered_model_alias(name, alias, version)


def _status(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | _Terminated):
        return "KILLED"
    if isinstance(error, SystemExit) and error.code in {None, 0}:
        return "FINISHED"
    return "FAILED"


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
