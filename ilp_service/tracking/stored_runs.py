"""Runs that ended: what they recorded, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ilp_service.errors import ModelNotFoundError, SourceUnreadableError
from ilp_service.tracking import connection
from ilp_service.tracking.artifacts import local_file

if TYPE_CHECKING:
    from ilp_service.tracking.store import Tracking


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as the store has it.

    Attributes:
        run_id: Its id.
        experiment: Name of its experiment.
        status: ``RUNNING``, ``FINISHED``, ``FAILED`` or ``KILLED``.
        tags: Of the run.
        params: As text.
        metrics: The last value of each.
        artifact_uri: Where its files are.
    """

    run_id: str
    experiment: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    artifact_uri: str


def read_run(tracking: Tracking, run_id: str) -> StoredRun:
    """What the store knows about a run.

    Raises:
        ModelNotFoundError: There is no such run.
        TrackingError: The store is down or refuses.
    """
    from mlflow.exceptions import MlflowException

    client = tracking.client()
    with connection.translated(tracking.uri):
        try:
            run = client.get_run(run_id)
            experiment = client.get_experiment(run.info.experiment_id)
        except MlflowException as error:
            if connection.is_missing(error) or any(name in str(error).lower() for name in ("run id", "run_id")):
                raise ModelNotFoundError(
                    f"There is no run {run_id!r} in {connection.shown(tracking.uri)}; 'ilp diagnose' prints the id of "
                    "its run with --json, and MLFLOW_TRACKING_URI says which store is asked."
                ) from error
            raise
    return StoredRun(
        run_id=run_id,
        experiment=str(experiment.name),
        status=str(run.info.status),
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        artifact_uri=str(run.info.artifact_uri).rstrip("/"),
    )


def child_runs(tracking: Tracking, run_id: str, kind: str) -> list[str]:
    """Ids of the finished children of a run with the tag ``ilp.kind``, the newest first.

    Raises:
        TrackingError: The store is down or refuses.
    """
    client = tracking.client()
    with connection.translated(tracking.uri):
        experiment = client.get_run(run_id).info.experiment_id
        found = client.search_runs(
            [experiment],
            f"tags.\"mlflow.parentRunId\" = '{run_id}' and tags.\"ilp.kind\" = '{kind}' "
            "and attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
        )
    return [str(run.info.run_id) for run in found]


def children_by(tracking: Tracking, run_id: str, tag: str) -> dict[str, tuple[str, Mapping[str, str]]]:
    """Children of a run in the store's experiment, whatever became of them, by the value of a tag that they have.

    So a process that is started again finds the runs that a killed one has made.

    Returns:
        Id and tags of the oldest run of each value.

    Raises:
        TrackingError: The store is down or refuses.
    """
    client = tracking.client()
    experiment = tracking.experiment_id()
    found: dict[str, tuple[str, Mapping[str, str]]] = {}
    page: str | None = None
    with connection.translated(tracking.uri):
        while page is None or page:
            runs = client.search_runs(
                [experiment],
                f"tags.\"mlflow.parentRunId\" = '{run_id}'",
                order_by=["attributes.start_time ASC"],
                page_token=page,
            )
            for run in runs:
                if tag in run.data.tags:
                    found.setdefault(run.data.tags[tag], (str(run.info.run_id), dict(run.data.tags)))
            page = runs.token or ""
    return found


def run_file(tracking: Tracking, run: StoredRun, name: str, folder: Path) -> Path:
    """A file of a run's artifacts on this machine; another's is downloaded once into ``folder``.

    Raises:
        SourceUnreadableError: The run has no such file, or it cannot be downloaded.
        TrackingError: The store is down or refuses.
    """
    path = local_file(tracking, f"{run.artifact_uri}/{name}", folder)
    if not path.is_file():
        raise SourceUnreadableError(f"The run {run.run_id} has no file {name}; it may have been deleted.")
    return path
