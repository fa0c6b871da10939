"""A real MLflow server and a service to restart; a real browser looks at the page, a real PostgreSQL keeps the book."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import browser, page
from tests.deploy.conftest import databases, postgresql
from tests.service.mlflow_server import MlflowServer
from tests.service.restarts import Restarts

__all__ = ["browser", "databases", "page", "postgresql"]


@pytest.fixture
def server(tmp_path: Path, _store_template: Path) -> Iterator[MlflowServer]:
    """MLflow of one test, which may stop and start it."""
    server = MlflowServer(tmp_path, _store_template)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def restarts(server: MlflowServer, tmp_path: Path) -> Iterator[Restarts]:
    """The service below that server, not started yet."""
    restarts = Restarts(tmp_path, server.uri)
    yield restarts
    restarts.stop()
