"""A process that has everything loaded and runs commands of ``ilp`` in forks of itself, killing some of them.

Started as a script. A line of JSON on stdin asks for a command: ``argv``, ``folder``, and after how many seconds it is
to get SIGKILL, or null; the line that comes back says how it ended. Loading takes most of the time of a small command.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any


class Nursery:
    """The process, from the test's side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Nursery:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "ILP_"))}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).absolute())],
            cwd=self._folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=30)
        self._process.stdout.close()  # type: ignore[union-attr]

    def run(self, *argv: object, folder: Path, kill_after: float | None = None) -> dict[str, Any]:
        """How a command ended: ``killed``, exit ``code``, ``out``, ``err`` and ``seconds``."""
        asked = {"argv": [str(one) for one in argv], "folder": str(folder), "kill_after": kill_after}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())  # type: ignore[union-attr]
        return answer


def _serve() -> None:
    # Libraries say things when they are loaded; answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import importlib

    import sqlalchemy.orm
    import torch

    from ilp_service.attribution.builtin import builtin_meta

    for name in ("cli", "intervention.intervene", "intervention.prescribing", "training.changed", "training.sft"):
        importlib.import_module(f"ilp_service.{name}")
    for name in ("mlflow.artifacts", "mlflow.store.tracking.sqlalchemy_store", "peft", "transformers.trainer"):
        importlib.import_module(name)
    sqlalchemy.orm.configure_mappers()
    torch.set_num_threads(1)
    builtin_meta()
    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), file=answers, flush=True)


def _run(argv: list[str], folder: str, kill_after: float | None) -> dict[str, Any]:
    started = time.monotonic()
    outputs = [Path(folder) / f"nursery.{name}" for name in ("out", "err")]
    child = os.fork()
    if child == 0:
        _command(argv, folder, outputs)
    killed = False
    while (status := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if kill_after is not None and not killed and time.monotonic() - started > kill_after:
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status[1])
    out, err = (path.read_text() for path in outputs)
    return {
        "killed": code == -signal.SIGKILL,
        "code": code,
        "out": out,
        "err": err,
        "seconds": time.monotonic() - started,
    }


def _command(argv: list[str], folder: str, outputs: list[Path]) -> None:
    code = 1
    try:
        os.chdir(folder)
        for number, path in enumerate(outputs, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        sys.argv = ["ilp", *argv]
        from ilp_service.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
