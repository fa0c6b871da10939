"""What a worker does for one job: the steps, each with its retries, in a subprocess that it starts when it needs one.

A step that is written down as done is not asked for again. When the service was killed in mid-step, a new subprocess
finds the slices of the old one on disk and goes on after the last.
"""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy import Connection, RowMapping

from ilp_service.diagnosis.watching import STEPS
from ilp_service.errors import ModelNotFoundError
from ilp_service.service.child import Task
from ilp_service.service.configuration import ServiceSettings
from ilp_service.service.desk import UNFINISHED
from ilp_service.service.endings import Ending, ending_of
from ilp_service.service.filters import Filters
from ilp_service.service.inputs import find_inputs
from ilp_service.service.ledger import Ledger
from ilp_service.service.ledger_tables import now
from ilp_service.service.supervision import COMMAND, Attempt, Limits
from ilp_service.settings import Settings
from ilp_service.tracking import watch
from ilp_service.tracking.store import Tracking

LOG = logging.getLogger("ilp.service")
_LONGEST_PAUSE = 60.0
_DOWN_PAUSE = 15.0
_WRITE_EVERY = 2.0
_GROUP = Path("/sys/fs/cgroup/memory.max")
_STARTS = {"resolve": 0.0, "stage": 0.02, "evaluate": 0.1, "attribute": 0.85, "report": 0.92, "publish": 0.95}


class StoppingError(BaseException):
    """The service stops; the job goes on at its next start. No ``Exception``: it must not be written down as a result.

    So it is when the job was given to another worker meanwhile, or the book cannot be written.
    """


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all jobs of a worker share.

    Attributes:
        settings: Of the service.
        ledger: The book.
        tracking: The MLflow store.
        filters: Which versions are diagnosed.
        diagnosis: Settings of the diagnosis of a model.
        worker: Name of this worker.
        work_dir: Absolute.
        stopping: Set when the service stops.
        woken: Set when MLflow has to be told something.
        command: Starts a job's subprocess.
    """

    settings: ServiceSettings
    ledger: Ledger
    tracking: Tracking
    filters: Filters
    diagnosis: Callable[[str], Settings]
    worker: str
    work_dir: Path
    stopping: Event
    woken: Event
    command: Sequence[str] = COMMAND


class Work:
    """One job in the hands of this worker; used by one thread, and closed at the end."""

    def __init__(self, around: Surroundings, row: RowMapping) -> None:
        self._around = around
        self._job_id, self._round = str(row["job_id"]), int(row["round"])
        self._model, self._version = str(row["model"]), str(row["version"])
        self._run_id: str | None = row["run_id"]
        self._attempt: Attempt | None = None
        self._have: dict[str, dict[str, Any]] = {}
        self._failures = 0
        self._complaint = ""
        self._down_since: float | None = None
        self._furthest = 0.0
        self._looked = self._wrote = 0.0
        self._folder = around.work_dir / "jobs" / self._job_id
        self._temporary = self._folder / f"tmp-{self._round}"

    def begin(self) -> bool:
        """Take the job; ``False`` when it is finished, such as cancelled, or was started again since."""
        if self._around.stopping.is_set():
            raise StoppingError
        values = {"status": "running", "reason": None, "worker": self._around.worker, "started_at": now()}
        taken = self._change(values)
        self._around.woken.set()
        return taken

    def resolve(self) -> dict[str, Any]:
        """Step ``resolve``: the version, its inputs and its run; or how the job ends."""
        while True:
            self._guard()
            try:
                found = self._resolved()
                self._down_since = None
                return found
            except Exception as error:
                ending = ending_of(error)
                if isinstance(error, ModelNotFoundError):
                    return {"status": "cancelled", "reason": ending.reason}
                if not ending.expected:
                    LOG.exception("job %s: resolve", self._job_id)
                if final := self._again(ending):
                    return final

    def _resolved(self) -> dict[str, Any]:
        around = self._around
        version = watch.look_up(around.tracking, self._model, self._version)
        reason = around.filters.reason(self._model, version.tags, version.model_tags, version.aliases)
        if reason is not None:
            return {"status": "skipped", "reason": reason}
        inputs = find_inputs(
            version,
            around.filters.defaults(self._model),
            lambda: watch.logged_data(around.tracking, str(version.run_id)),
            around.settings.data_dirs,
        )
        tags = {"ilp.kind": "diagnosis", "ilp.model": f"models:/{self._model}/{self._version}"}
        name = f"diagnose models:/{self._model}/{self._version}"
        self._run_id = watch.run_of_job(around.tracking, self._job_id, name, tags, self._run_id)
        self._change({"run_id": self._run_id, "status": "running"})
        around.woken.set()
        return {
            "run_id": self._run_id,
            "data": inputs.data,
            "data_from": inputs.data_from,
            "base": inputs.base,
            "trajectory": inputs.trajectory,
        }

    def step(self, step: str, resolved: Mapping[str, Any]) -> dict[str, Any]:
        """A step that the subprocess does: what it found, or how the job ends."""
        self._run_id = resolved["run_id"]
        while step not in self._have:
            self._guard()
            attempt = self._attempt = self._attempt or self._start(resolved)
            said = attempt.next(attempt.pause)
            attempt.check()
            if said is not None and said.get("event") == "step":
                self._have[str(said.get("step"))] = dict(said.get("facts") or {})
                self._note(str(said.get("step")), 1.0)
            elif said is not None and said.get("event") == "progress":
                self._note("evaluate", float(said.get("part") or 0.0))
            elif (said is not None and said.get("event") == "end") or attempt.over:
                ending = self._ended(attempt, said)
                if step not in self._have and (final := self._again(ending)):
                    return final
        return self._have[step]

    def close(self) -> None:
        """The job is over for this worker: nothing of it goes on, and nothing temporary stays."""
        if self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            deadline = time.monotonic() + self._around.settings.grace
            while not attempt.over and time.monotonic() < deadline:
                attempt.next(0.2)
            attempt.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def tidy(self) -> None:
        """The job is done for good: its folder and its copy of the checkpoint go, its slices stay."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, resolved: Mapping[str, Any]) -> Attempt:
        around, settings = self._around, self._around.settings
        task = Task(
            job_id=self._job_id,
            model_uri=f"models:/{self._model}/{self._version}",
            store=around.tracking.uri,
            experiment=settings.experiment,
            run_id=str(resolved["run_id"]),
            data=str(resolved["data"]),
            base=resolved["base"],
            trajectory=resolved["trajectory"],
            settings=around.diagnosis(self._model).model_dump(mode="json") | {"work_dir": str(around.work_dir)},
            plugin_dirs=tuple(str(folder.expanduser().absolute()) for folder in settings.plugin_dirs),
            max_files=settings.max_files,
            max_bytes=settings.max_bytes,
        )
        row = around.ledger.row(self._job_id)
        self._change({"attempts": row["attempts"] + 1})
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True, exist_ok=True)
        limits = Limits(memory_limit(settings), settings.time_limit, settings.grace)
        return Attempt(task.line(), self._folder, limits, around.command, {"TMPDIR": str(self._temporary)})

    def _ended(self, attempt: Attempt, said: Mapping[str, Any] | None) -> Ending:
        """Why an attempt ended, from what it said last or how its process went."""
        self._attempt = None
        while said is None or said.get("event") != "end":
            said = attempt.next(self._around.settings.grace)
            if said is None:
                break
        code = attempt.close()
        if attempt.killed_for is not None:
            # More memory may be free the next time; more time will not.
            return Ending("failed", attempt.killed_for, again="memory" in attempt.killed_for and not self._failures)
        if said is None:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
            return Ending(
                "failed", f"The diagnosis's process {how} without a word; its log is in {self._folder}.", True
            )
        if said.get("status") == "done":
            return Ending("failed", "The diagnosis's process ended before its last step.", again=True)
        if said.get("status") == "stopped":
            return Ending("failed", "The diagnosis's process was told to stop by somebody else.", again=True)
        return Ending(
            said.get("status") or "failed",
            str(said.get("reason") or "No reason was given."),
            bool(said.get("again")),
            bool(said.get("down")),
        )

    def _again(self, ending: Ending) -> dict[str, Any] | None:
        """Wait before the next attempt, or say how the job ends when there is none."""
        settings = self._around.settings
        if ending.down:
            self._down_since = self._down_since or time.monotonic()
            if time.monotonic() - self._down_since < settings.patience:
                self._pause(min(_DOWN_PAUSE, settings.backoff * 2), ending.reason)
                return None
        elif ending.again:
            self._down_since = None
            self._failures += 1
            if self._failures < settings.attempts:
                longest = min(settings.backoff * 2 ** (self._failures - 1), _LONGEST_PAUSE)
                self._pause(longest * random.uniform(0.75, 1.25), ending.reason)  # noqa: S311 - no secret
                return None
        return {"status": ending.status, "reason": ending.reason}

    def _pause(self, seconds: float, reason: str) -> None:
        # Once for every cause: a server may be down for a day, and is asked every few seconds.
        if reason != self._complaint:
            self._complaint = reason
            LOG.warning("job %s waits for another attempt: %s", self._job_id, reason)
        self._change({"reason": f"Waits for another attempt: {reason}"})
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._around.stopping.wait(min(left, 1.0))
            self._guard()

    def _note(self, step: str, part: float) -> None:
        """Write down how far the job is, at most every so often."""
        if step not in _STARTS:
            return
        here = _STARTS[step]
        after = next((value for value in _STARTS.values() if value > here), 1.0)
        progress = round(here + (after - here) * min(part, 1.0), 4)
        if progress > self._furthest:
            # What was down has answered since. An attempt that gets no further than those before shows nothing.
            self._furthest, self._down_since = progress, None
        if time.monotonic() - self._wrote < _WRITE_EVERY and part < 1.0:
            return
        self._wrote = time.monotonic()
        at = step if part < 1.0 else STEPS[min(STEPS.index(step) + 1, len(STEPS) - 1)]
        self._change({"step": at, "progress": progress, "reason": None})

    def _guard(self) -> None:
        """Leave the job when the service stops, or when it is no longer this worker's.

        Raises:
            StoppingError: It does, or it is not.
        """
        if self._around.stopping.is_set():
            self.release()
            raise StoppingError
        if time.monotonic() - self._looked > 1.0:
            self._looked = time.monotonic()
            row = self._around.ledger.row(self._job_id)
            if not self._current(row) or row["worker"] != self._around.worker:
                self.release(mine=False)
                raise StoppingError

    def release(self, *, mine: bool = True) -> None:
        """Tell the subprocess to stop; what is ``mine`` goes back to the queue with a run that is not left running."""
        if self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            attempt.stop()
            attempt.close()
        if mine:
            ledger = self._around.ledger
            reason = "The service was stopped; the job goes on when it starts again."
            self._change(
                {"status": "queued", "reason": reason},
                then=lambda connection, row: ledger.note(connection, row, {}, "KILLED") if row["run_id"] else None,
            )
            self._around.woken.set()

    def _change(self, values: Mapping[str, Any], then: Callable[[Connection, RowMapping], None] | None = None) -> bool:
        """Write down something about this round, unless the job is finished or was started again."""
        return self._around.ledger.change(self._job_id, values, turn=self._round, then=then)

    def _current(self, row: RowMapping) -> bool:
        return bool(row["round"] == self._round and row["status"] in UNFINISHED)


def memory_limit(settings: ServiceSettings, group: Path = _GROUP) -> int:
    """Bytes that a job may have.

    Args:
        settings: Of the service.
        group: Where a container's own limit stands, which the machine's memory says nothing of.
    """
    import psutil

    if settings.memory_mb is not None:
        return settings.memory_mb << 20
    total = int(psutil.virtual_memory().total)
    # "max" where there is no limit, and no file outside of a group with one.
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(group.read_text()))
    return int(total * 0.8) // settings.workers
