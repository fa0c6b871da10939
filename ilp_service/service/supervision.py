"""One attempt of a job as a process of its own: started, listened to, kept within its limits, and ended as a whole."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ilp_service.tables import storage_errors

COMMAND = (sys.executable, "-m", "ilp_service.service.child")
_LOOK = 0.5
_SLOW_LOOK = 2.0
_SLOW_AFTER = 30.0
_LEAVING_SECONDS = 2.0
_LOG_BYTES = 4 * 2**20
_LINE_BYTES = 2**20
_SECRET = (
    *("ILP_WEBHOOK_SECRET", "ILP_SERVICE_", "ILP_DATABASE_", "DBOS_", "PGPASSWORD", "POSTGRES_"),
    *("MLFLOW_WEBHOOK_SECRET", "MLFLOW_DATABASE_", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_FLASK_", "MLFLOW_AUTH_ADMIN_"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an attempt may use.

    Attributes:
        memory: Resident bytes of all its processes together, without those mapped from files.
        seconds: From its start.
        grace: Seconds between being told to stop and being killed.
    """

    memory: int
    seconds: float
    grace: float


def surroundings() -> dict[str, str]:
    """Variables of a job's process: those of the service, without the service's own secrets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SECRET)}
    kept.pop("MLFLOW_RUN_ID", None)
    kept.pop("MLFLOW_EXPERIMENT_ID", None)
    return {**kept, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": kept.get("TOKENIZERS_PARALLELISM", "false")}


class Attempt:
    """A running attempt; used by one thread."""

    def __init__(
        self, line: str, folder: Path, limits: Limits, command: Sequence[str] = COMMAND, extra: Mapping[str, str] = {}
    ) -> None:
        """Start it.

        Args:
            line: The task, for its standard input.
            folder: Its working folder, where its log is written too.
            limits: What it may use.
            command: To start.
            extra: Variables beside the service's own.

        Raises:
            StorageError: The folder cannot be made or written.
        """
        self.limits = limits
        self.started = time.monotonic()
        self.killed_for: str | None = None
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._over = False
        self._killed = False
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._log = (folder / "log.txt").open("wb")
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**surroundings(), **extra},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except BaseException:
            self._log.close()
            raise
        self._watched = psutil.Process(self._process.pid)
        # When memory runs out on the whole machine, the job goes and the service stays.
        with contextlib.suppress(OSError):
            Path(f"/proc/{self._process.pid}/oom_score_adj").write_text("800")
        self._threads = [
            threading.Thread(target=target, daemon=True, name=f"job-{name}")
            for name, target in (("lines", self._read), ("log", self._keep_log))
        ]
        for thread in self._threads:
            thread.start()
        assert self._process.stdin is not None  # noqa: S101 - tells the type checker
        # One that has ended already says so by the end of its lines.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def next(self, seconds: float) -> dict[str, Any] | None:
        """The next thing that it says; ``None`` when it said nothing for so long, or has ended."""
        if self._over:
            return None
        try:
            said = self._lines.get(timeout=seconds)
        except queue.Empty:
            return None
        self._over = said is None
        return said

    @property
    def over(self) -> bool:
        """Whether it has ended and everything that it said was heard."""
        return self._over

    @property
    def pause(self) -> float:
        """How long to listen before the next look at its limits, seconds."""
        return _LOOK if time.monotonic() - self.started < _SLOW_AFTER else _SLOW_LOOK

    def check(self) -> None:
        """Kill it if it uses more than it may; ``killed_for`` then says why, in a sentence."""
        if self.killed_for is not None or self._process.poll() is not None:
            return
        used = self._resident()
        if used > self.limits.memory:
            self.killed_for = (
                f"The diagnosis used {used >> 20} MB of memory, more than the {self.limits.memory >> 20} MB that a job "
                "may have (memory_mb); lower scoring.max_batch_tokens, or give it more."
            )
        elif time.monotonic() - self.started > self.limits.seconds:
            self.killed_for = (
                f"The diagnosis took longer than the {self.limits.seconds:.0f} seconds that an attempt may take "
                "(time_limit)."
            )
        if self.killed_for is not None:
            self.kill()

    def _resident(self) -> int:
        total = 0
        with contextlib.suppress(psutil.Error):
            processes = [self._watched, *self._watched.children(recursive=True)]
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    info = process.memory_info()
                    # Weights that are mapped from their files take nothing from anybody: the system drops them.
                    total += int(info.rss) - int(getattr(info, "shared", 0))
        return total

    def stop(self) -> None:
        """Tell it to stop, and kill it when it does not in time; returns when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.limits.grace)
        self.kill()

    def kill(self) -> None:
        """End it and all that it started, at once."""
        if self._killed:
            return
        self._killed = True
        started: list[Any] = []
        with contextlib.suppress(psutil.Error):
            started = self._watched.children(recursive=True)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in started:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()

    def close(self) -> int:
        """End it if it goes on, and give back what it took; returns its exit status, negative for a signal."""
        if self._over:
            # Its output is closed, so it is leaving, and how it leaves is worth a moment.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LEAVING_SECONDS)
        self.kill()
        for thread in self._threads:
            thread.join(5)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._log.close()
        return int(self._process.returncode)

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - tells the type checker
        with contextlib.suppress(OSError, ValueError):
            while line := self._process.stdout.readline(_LINE_BYTES):
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    if isinstance(said, dict):
                        self._lines.put(said)
        self._lines.put(None)

    def _keep_log(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - tells the type checker
        left = _LOG_BYTES
        with contextlib.suppress(OSError, ValueError):
            while text := os.read(self._process.stderr.fileno(), 65_536):
                if left > 0:
                    # A full disk must not stop the reading, which would stop the job in turn.
                    with contextlib.suppress(OSError):
                        self._log.write(text[:left])
                        self._log.flush()
                    left -= len(text)
