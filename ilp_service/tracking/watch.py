"""The registry as a service watches it: versions newest first, what one version says, and the run of a job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ilp_service.errors import ModelNotFoundError
from ilp_service.tracking import connection

if TYPE_CHECKING:
    from ilp_service.tracking.store import Tracking

JOB = "ilp.job"
"""Tag of a run that names the job it belongs to."""

_PAGE = 100
_RUNNING = {"RUNNING", "SCHEDULED"}


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version.

    Attributes:
        name: Of the registered model.
        number: Of the version, as text.
        created: Milliseconds since 1970, by the server's clock.
        tags: Of the version.
        model_tags: Of the registered model, where they were asked for.
        aliases: That point at it, where they were asked for.
        run_id: Of the run that made it.
    """

    name: str
    number: str
    created: int
    tags: Mapping[str, str] = field(default_factory=dict)
    model_tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """A registered model.

    Attributes:
        name: Its name.
        tags: Its own, not those of its versions.
        aliases: Number of the version behind each alias.
    """

    name: str
    tags: Mapping[str, str]
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LoggedData:
    """A data set that a run recorded as its input.

    Attributes:
        uri: Where it is.
        context: What it was used for, such as ``training``; empty when the run does not say.
    """

    uri: str
    context: str


def newest_versions(tracking: Tracking, token: str | None = None) -> tuple[list[Version], str | None]:
    """A page of versions, newest first, and the token of the next page.

    Raises:
        TrackingError: The store is down or refuses.
    """
    client = tracking.client()
    with connection.translated(tracking.uri):
        page = client.search_model_versions(
            max_results=_PAGE, order_by=["creation_timestamp DESC"], page_token=token or None
        )
    after = page.token
    return [_version(found) for found in page], (after.decode() if isinstance(after, bytes) else after) or None


def registered_models(tracking: Tracking) -> Iterator[Registered]:
    """All registered models with their tags and aliases.

    Raises:
        TrackingError: The store is down or refuses.
    """
    client, token = tracking.client(), None
    while True:
        with connection.translated(tracking.uri):
            page = client.search_registered_models(max_results=_PAGE, page_token=token)
        for model in page:
            aliases = {str(alias): str(number) for alias, number in dict(model.aliases or {}).items()}
            yield Registered(str(model.name), dict(model.tags or {}), aliases)
        token = page.token
        if not token:
            return


def look_up(tracking: Tracking, name: str, number: str) -> Version:
    """One version with its model's tags and its aliases.

    Raises:
        ModelNotFoundError: It is not, or no longer, registered.
        TrackingError: The store is down or refuses.
    """
    from mlflow.exceptions import MlflowException

    client = tracking.client()
    with connection.translated(tracking.uri):
        try:
            found = client.get_model_version(name, number)
            model = client.get_registered_model(name)
        except MlflowException as error:
            if connection.is_missing(error):
                raise ModelNotFoundError(f"models:/{name}/{number} is no longer registered.") from error
            raise
    version = _version(found)
    return Version(
        name=version.name,
        number=version.number,
        created=version.created,
        tags=version.tags,
        model_tags=dict(model.tags or {}),
        aliases=tuple(sorted(str(alias) for alias in found.aliases or ())),
        run_id=version.run_id,
    )


def logged_data(tracking: Tracking, run_id: str) -> list[LoggedData]:
    """The data sets that a run recorded as inputs and that say where they are; none for a run that is gone.

    Raises:
        TrackingError: The store is down or refuses.
    """
    from mlflow.exceptions import MlflowException

    client = tracking.client()
    with connection.translated(tracking.uri):
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if connection.is_missing(error):
                return []
            raise
    found = []
    for one in run.inputs.dataset_inputs if run.inputs else ():
        try:
            source = json.loads(one.dataset.source)
        except (TypeError, ValueError):
            continue
        uri = source.get("uri") or source.get("url") if isinstance(source, dict) else None
        context = next((tag.value for tag in one.tags if tag.key == "mlflow.data.context"), "")
        if isinstance(uri, str) and uri:
            found.append(LoggedData(uri, str(context)))
    return found


def run_of_job(tracking: Tracking, job_id: str, name: str, tags: Mapping[str, str], known: str | None) -> str:
    """The run of a job: the one that is known, the one that was made for it before, or a new one.

    A worker that dies between making a run and writing its id down must not make a second one, so runs carry the
    job's id from their first moment.

    Args:
        tracking: The store.
        job_id: Of the job.
        name: Of a new run.
        tags: Of a new run.
        known: Id of its run, where it is written down.

    Raises:
        TrackingError: The store is down or refuses.
    """
    from mlflow.exceptions import MlflowException

    client = tracking.client()
    if known is not None:
        with connection.translated(tracking.uri):
            try:
                if str(client.get_run(known).info.lifecycle_stage) == "active":
                    return known
            except MlflowException as error:
                if not connection.is_missing(error):
                    raise
    experiment = tracking.experiment_id()
    with connection.translated(tracking.uri):
        made = client.search_runs([experiment], f"tags.`{JOB}` = '{job_id}'", max_results=1)
        if made:
            return str(made[0].info.run_id)
        return str(client.create_run(experiment, run_name=name, tags={**tags, JOB: job_id}).info.run_id)


def end_run(tracking: Tracking, run_id: str, status: str, tags: Mapping[str, str]) -> None:
    """End a run that its own process could not end; one that has ended keeps its status.

    Raises:
        ModelNotFoundError: There is no such run, or it was deleted.
        TrackingError: The store is down or refuses.
    """
    from mlflow.exceptions import MlflowException

    client = tracking.client()
    with connection.translated(tracking.uri):
        try:
            run = client.get_run(run_id)
            if str(run.info.lifecycle_stage) != "active":
                raise ModelNotFoundError(f"The run {run_id!r} was deleted.")
            for key, value in tags.items():
                client.set_tag(run_id, key, value)
            if str(run.info.status) in _RUNNING:
                client.set_terminated(run_id, status)
        except MlflowException as error:
            if connection.is_missing(error):
                raise ModelNotFoundError(f"There is no run {run_id!r}.") from error
            raise


def retag_version(tracking: Tracking, name: str, number: str, tags: Mapping[str, str | None]) -> None:
    """Set tags of a version, and take off those whose value is ``None``, or empty them where this user may not.

    Raises:
        ModelNotFoundError: The version is no longer registered.
        TrackingError: The store is down, or this user may not tag the model.
    """
    from mlflow.exceptions import MlflowException

    client = tracking.client()
    with connection.translated(tracking.uri):
        try:
            off = [key for key, value in tags.items() if value is None]
            have = client.get_model_version(name, number).tags if off else {}
            for key in off:
                if have.get(key):
                    _take_off(client, name, number, key)
            for key, value in tags.items():
                if value is not None:
                    client.set_model_version_tag(name, number, key, value)
        except MlflowException as error:
            if connection.is_missing(error):
                raise ModelNotFoundError(f"models:/{name}/{number} is no longer registered.") from error
            raise


def _take_off(client: Any, name: str, number: str, key: str) -> None:  # noqa: ANN401 (MLflow has no types)
    from mlflow.exceptions import MlflowException

    try:
        client.delete_model_version_tag(name, number, key)
    except MlflowException as error:
        # MLflow asks for MANAGE for deleting a tag, and for EDIT for setting it.
        if "403" not in str(error) and error.error_code != "PERMISSION_DENIED":
            raise
        client.set_model_version_tag(name, number, key, "")


def _version(found: Any) -> Version:  # noqa: ANN401 (MLflow has no types)
    return Version(
        name=str(found.name),
        number=str(found.version),
        created=int(found.creation_timestamp or 0),
        tags=dict(found.tags or {}),
        run_id=str(found.run_id) if found.run_id else None,
    )
