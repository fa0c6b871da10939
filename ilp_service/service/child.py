"""The subprocess of a job: one attempt at a diagnosis.

``python -m ilp_service.service.child`` reads its task as one line of JSON from standard input and says how it goes as
lines of JSON on standard output. It ends at once, with all that it started, when its standard input ends: then the
service is gone. What libraries print goes to standard error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

_EVERY = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """What a job's subprocess is to do.

    Attributes:
        job_id: Of the job.
        model_uri: ``models:/name/version``.
        store: URI of the tracking store, which may hold a password: it comes by standard input alone.
        experiment: MLflow experiment.
        run_id: The job's run, in which the diagnosis goes on.
        data: Path or artifact URI.
        base: As in ``ilp diagnose --base``.
        trajectory: The same.
        settings: All settings of the diagnosis.
        plugin_dirs: Folders with plugins.
        max_files: Of a checkpoint.
        max_bytes: Of a checkpoint.
    """

    job_id: str
    model_uri: str
    store: str
    experiment: str
    run_id: str
    data: str
    base: str | None
    trajectory: str | None
    settings: dict[str, Any]
    plugin_dirs: tuple[str, ...]
    max_files: int
    max_bytes: int

    def line(self) -> str:
        """For standard input."""
        return json.dumps(dataclasses.asdict(self)) + "\n"


class Line:
    """Says on standard output how it goes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._passes: dict[str, float] = {}
        self._said = 0.0

    def tell(self, event: str, **facts: object) -> None:
        """Say something."""
        with self._lock:
            self._stream.write(json.dumps({"event": event, **facts}) + "\n")
            self._stream.flush()

    def finished(self, step: str, facts: dict[str, object]) -> None:
        """See ``Watcher.finished``."""
        self.tell("step", step=step, facts=facts)

    def advanced(self, name: str, done: int, total: int) -> None:
        """See ``Watcher.advanced``; how many passes there will be is not known, so each counts less than the last."""
        self._passes[name] = done / max(total, 1)
        if time.monotonic() - self._said < _EVERY and done < total:
            return
        self._said = time.monotonic()
        left = 1.0
        for part in self._passes.values():
            left *= 1.0 - 0.25 * part
        self.tell("progress", part=round(1.0 - left, 4), name=name, done=done, total=total)


def main() -> int:
    """Do the task on standard input; 0 when it is done, and something else when it is not."""
    # Whatever writes to standard output from here on, C libraries included, writes to standard error.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    line = Line(stream)
    text = sys.stdin.readline()
    threading.Thread(target=_end_with_the_service, daemon=True).start()
    try:
        task = Task(**json.loads(text))
    except (TypeError, ValueError) as error:
        line.tell("end", status="failed", reason=f"The task cannot be read: {type(error).__name__}.", again=False)
        return 1
    return perform(task, line)


def perform(task: Task, line: Line) -> int:
    """Do the diagnosis, and say how it ended."""
    from ilp_service.service.endings import ending_of

    try:
        _diagnose(task, line)
    except SystemExit:
        # Told to stop: the run has ended as KILLED by now, and the job goes on later.
        line.tell("end", status="stopped", reason=None, again=True)
        return 1
    except BaseException as error:
        if not isinstance(error, Exception):
            raise
        ending = ending_of(error)
        if not ending.expected:
            import traceback

            traceback.print_exc()
        line.tell("end", status=ending.status, reason=ending.reason, again=ending.again, down=ending.down)
        return 1
    line.tell("end", status="done", reason=None, again=False)
    return 0


def _diagnose(task: Task, line: Line) -> None:
    # Nothing is fetched from a hub because a checkpoint or a tag names something there, unless the operator allows it.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["MLFLOW_TRACKING_URI"] = task.store
    from ilp_service.diagnosis.request import OPTIONAL, DiagnosisRequest
    from ilp_service.diagnosis.run import diagnose
    from ilp_service.diagnosis.watching import Step, Watcher
    from ilp_service.settings import Settings
    from ilp_service.tracking.artifacts import local_file
    from ilp_service.tracking.registry import FetchLimits
    from ilp_service.tracking.store import Tracking

    class Telling(Watcher):
        def finished(self, step: Step, facts: dict[str, object]) -> None:
            line.finished(step, facts)

        def advanced(self, name: str, done: int, total: int) -> None:
            line.advanced(name, done, total)

    tracking = Tracking(task.store, task.experiment, FetchLimits(task.max_files, task.max_bytes))
    settings = Settings(**task.settings)

    def run() -> None:
        request = DiagnosisRequest(
            model_uri=task.model_uri,
            data=local_file(tracking, task.data, settings.work_dir / "downloads"),
            settings=settings,
            base=task.base,
            # Tags were looked at by the service, which knows what they may name.
            trajectory=task.trajectory or OPTIONAL,
            plugin_dirs=tuple(Path(folder) for folder in task.plugin_dirs),
            experiment=task.experiment,
        )
        diagnose(
            request,
            lambda text: print(text, file=sys.stderr),
            progress=False,
            run_id=task.run_id,
            watcher=Telling(),
            tracking=tracking,
        )

    signal.signal(signal.SIGTERM, _terminated)
    run()


def _terminated(_signum: int, _frame: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _end_with_the_service() -> None:
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.read(1):
            pass
    # The group is this process and what it started; the service is not in it.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    # At once: threads of libraries must not keep a job alive that is over.
    code = main()
    sys.stderr.flush()
    os._exit(code)
