"""A real PostgreSQL server with the databases that ``deploy/databases`` makes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.postgresql_server import Server, program

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
PASSWORDS = {"MLFLOW_DATABASE_PASSWORD": "mlflow-of-tests", "ILP_DATABASE_PASSWORD": "ilp_of_tests"}

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    server = Server.start()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def databases(postgresql: Server) -> Server:
    """The server with both databases; the script is run twice, as a second start would."""
    path = f"{Path(program('psql')).parent}:{os.environ['PATH']}"
    for _ in range(2):
        environment = {**os.environ, **postgresql.environment(), **PASSWORDS, "PATH": path}
        subprocess.run([DEPLOY / "databases"], env=environment, check=True, timeout=60)
    return postgresql


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Run a script of ``deploy/`` in an empty folder, with few variables."""

    def run(script: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **variables}
        return subprocess.run(
            [DEPLOY / script, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run
