"""Which grant of MLflow's basic authentication is missing, from what the server refused."""

from __future__ import annotations

import re

_ENDPOINT = re.compile(r"/(?:ajax-)?api/[\d.]+/(mlflow(?:-artifacts)?/[\w/-]+)")
_BY_ENDPOINT = (
    (r"mlflow/webhooks", "to be an administrator: MLflow lets nobody else see or change webhooks"),
    (r"mlflow/model-versions/delete-tag", "MANAGE on the registered model, which deleting a tag takes"),
    (r"mlflow/(?:model-versions|registered-models)/(?:get|search|download)", "READ on the registered model"),
    (r"mlflow/registered-models/create", "the right to register models"),
    (r"mlflow/(?:model-versions|registered-models)/delete", "MANAGE on the registered model"),
    (r"mlflow/(?:model-versions|registered-models)/", "EDIT on the registered model"),
    (r"mlflow/experiments/create", "the right to create experiments, or an experiment that is there already"),
    (r"mlflow/(?:experiments|runs|metrics|artifacts|logged-models)/(?:get|search|list)", "READ on the experiment"),
    (r"mlflow/(?:experiments|runs|logged-models)(?:/|$)", "EDIT on the experiment"),
    (r"mlflow-artifacts/", "EDIT on the experiment of the run for writing its artifacts, READ for reading them"),
)


def missing_grant(refusal: str) -> str | None:
    """What a user lacks, for a message such as ``this user needs …``.

    Args:
        refusal: Message of MLflow or its transport for an answer with 403.

    Returns:
        ``None`` when the message names no call, or one of which it is not known what it takes.
    """
    found = _ENDPOINT.search(refusal)
    if found is None:
        return None
    return next((grant for pattern, grant in _BY_ENDPOINT if re.match(pattern, found[1])), None)
