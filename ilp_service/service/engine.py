"""dbos as the service uses it: one durable workflow, one queue, quiet, and with nothing of its own on the network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from ilp_service.errors import StorageError

WORKFLOW, QUEUE, APPLICATION = "ilp_job", "ilp_jobs", "ilp-service"
PROTOCOL = "1"
"""Of the steps of a job. dbos would else take a digest of our code, and leave jobs alone that an older one began."""

POLL_SECONDS = 1.0
_MIDDLE = 1_000_000_000
_MOST_RECOVERIES = 10_000
_BATCH = 500


class JobEngine:
    """Queues jobs, runs them, and takes up those that were cut short."""

    def __init__(self, engine: sa.Engine, worker: str, workers: int) -> None:
        """Keep what is needed to start.

        Args:
            engine: The database of the book, in which dbos keeps its own tables too.
            worker: Name of this worker.
            workers: Jobs at once.
        """
        self._engine, self._worker, self._workers = engine, worker, workers
        self._client: Any = None

    def start(self, run: Callable[[str, int], None]) -> None:
        """Begin to work; jobs that this worker left unfinished are taken up.

        Args:
            run: Does a job, by id and round.

        Raises:
            StorageError: The database cannot be used.
        """
        from dbos import DBOS, DBOSClient, DBOSConfig

        logging.getLogger("dbos").setLevel(logging.CRITICAL)
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": self._engine.url.render_as_string(hide_password=False),
            "system_database_engine": self._engine,
            "application_version": PROTOCOL,
            "executor_id": self._worker,
            "log_level": "CRITICAL",
            "enable_otlp": False,
            # Nothing here waits for dbos's notifications, and listening would hold a connection.
            "use_listen_notify": False,
            "notification_listener_polling_interval_sec": 1.0,
            "scheduler_polling_interval_sec": 3600.0,
        }
        DBOS(config=config)

        def one_round(job_id: str, turn: int) -> None:
            run(job_id, turn)

        DBOS.workflow(name=WORKFLOW, max_recovery_attempts=_MOST_RECOVERIES)(one_round)
        try:
            DBOS.launch()
            DBOS.register_queue(
                QUEUE,
                worker_concurrency=self._workers,
                polling_interval_sec=POLL_SECONDS,
                on_conflict="always_update",
            )
        except sa.exc.SQLAlchemyError as error:
            DBOS.destroy(destroy_registry=True)
            raise StorageError(f"The service's database cannot be used: {str(error).splitlines()[0]}") from error
        self._client = DBOSClient(system_database_engine=self._engine, application_name=APPLICATION)

    def stop(self) -> None:
        """End what runs in the background; jobs have left by now."""
        from dbos import DBOS

        if self._client is not None:
            self._client.destroy()
            self._client = None
        DBOS.destroy(destroy_registry=True)

    def enqueue(self, connection: sa.Connection, job_id: str, turn: int, priority: int) -> None:
        """Queue a job within a transaction of the book: both are written, or neither."""
        self._client.enqueue_in_transaction(
            connection,
            {
                "workflow_name": WORKFLOW,
                "queue_name": QUEUE,
                "workflow_id": workflow_id(job_id, turn),
                "priority": max(1, min(_MIDDLE - priority, 2**31 - 1)),
                "app_version": PROTOCOL,
            },
            job_id,
            turn,
        )

    def cancel(self, job_id: str, turn: int) -> None:
        """Take a job out of the queue; one that runs is not stopped by this."""
        self._client.cancel_workflow(workflow_id(job_id, turn))

    def status(self, job_id: str, turn: int) -> tuple[str, str | None] | None:
        """What dbos itself says of where a job stands, and which worker took it; ``None`` when it does not know it."""
        found = self._client.list_workflows(workflow_ids=[workflow_id(job_id, turn)], load_input=False)
        return (str(found[0].status), found[0].executor_id) if found else None

    def recover(self, worker: str) -> int:
        """Take up what a lost worker left unfinished; how many jobs that is."""
        from dbos import DBOS

        return len(DBOS._recover_pending_workflows([worker]))

    def forget(self, before: datetime) -> None:
        """Drop what dbos keeps of jobs that were queued before a time and are finished."""
        while True:
            old = self._client.list_workflows(
                status=["SUCCESS", "ERROR", "CANCELLED"],
                end_time=before.astimezone(UTC).isoformat(),
                limit=_BATCH,
                load_input=False,
                load_output=False,
            )
            if old:
                self._client.delete_workflows([one.workflow_id for one in old])
            if len(old) < _BATCH:
                return


def step(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do a step of the job at hand, unless it is written down as done."""
    from dbos import DBOS

    return DBOS.run_step({"name": name}, work)


def workflow_id(job_id: str, turn: int) -> str:
    """The id that dbos knows one round of a job by."""
    return f"{job_id}-{turn}"
