"""The meta-classifier in the model registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ilp_service.tracking import connection
from ilp_service.tracking.logged_models import ensure_registered
from ilp_service.tracking.registry import ModelSource

if TYPE_CHECKING:
    from ilp_service.tracking.run import Run

MODEL_NAME = "ilp-meta-classifier"
"""Of the registered model."""

CHAMPION = "champion"
"""Alias of the version that diagnoses take."""

_DESCRIPTION_LIMIT = 4800


def register_classifier(run: Run, uri: str, *, description: str, tags: Mapping[str, str]) -> ModelSource:
    """Register a logged classifier as the next version of ``ilp-meta-classifier``.

    Args:
        run: That logged it.
        uri: From ``Run.log_sklearn``, ``models:/m-…``.
        description: Markdown, shown beside the version; cut where the registry takes no more.
        tags: Of the version.

    Raises:
        TrackingError: The store is down, or this user may not register models.
    """
    client = run.tracking.client()
    with connection.translated(run.tracking.uri):
        ensure_registered(client, MODEL_NAME)
        made = client.create_model_version(
            MODEL_NAME,
            uri,
            run_id=run.run_id,
            tags=dict(tags),
            description=description[:_DESCRIPTION_LIMIT],
            model_id=uri.rpartition("/")[2],
        )
    return run.tracking.find(f"models:/{MODEL_NAME}/{made.version}")
