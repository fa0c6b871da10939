"""A service that operators stop and start again with other settings, in one folder and at one address."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tests.service.test_kill_nine import Service


class Restarts:
    """Starts the service, and stops the one that was started before."""

    def __init__(self, folder: Path, store: str) -> None:
        self._folder, self._store = folder, store
        self._service: Service | None = None

    def start(self, **settings: str) -> Service:
        self.stop()
        port = {} if self._service is None else {"port": str(self._service.port)}
        service = Service(self._folder, self._store, **settings, **port)
        service.port = service.port if self._service is None else self._service.port
        self._service = service
        service.start()
        return service

    def stop(self) -> None:
        if self._service is not None and self._service.process is not None:
            assert self._service.end(signal.SIGTERM) == 0


def register(client: MlflowClient, name: str, folder: Path) -> None:
    """Another version of a model, with data in the folder."""
    (folder / "data.jsonl").write_text("{}\n")
    with contextlib.suppress(MlflowException):
        client.create_registered_model(name)
    tags = {"ilp.data": str(folder / "data.jsonl")}
    client.create_model_version(name, "s3://nowhere/x", tags=tags, await_creation_for=0)
