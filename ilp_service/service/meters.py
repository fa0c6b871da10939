"""What the service counts, for ``/metrics``.

Labels take their values from fixed sets, so that no model's name and no stranger's request can make a new series.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from ilp_service.service.desk import STATUSES, Desk, Status

OUTCOMES = (
    "accepted", "known", "test", "unsigned", "bad_signature", "stale", "too_large", "malformed", "wrong_event",
    "no_secret", "unavailable",
)  # fmt: skip
"""What becomes of a webhook delivery."""

_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 14_400, 43_200)
_WAITED = (0.5, 1, 2, 5, 15, 60, 300, 900, 3600, 14_400)
_PAGES = 20


class Meters:
    """Counts what happens and asks the desk how things stand, once a scrape."""

    def __init__(self, desk: Desk, clock: Callable[[], float] = time.time) -> None:
        """Count for one process.

        Args:
            desk: Is asked at every scrape.
            clock: Seconds since 1970.
        """
        self._clock = clock
        self._reconciled: float | None = None
        self._registry = CollectorRegistry()
        self._deliveries = Counter(
            "ilp_webhook_deliveries", "Webhook deliveries by what became of them.", ["outcome"], registry=self._registry
        )
        for outcome in OUTCOMES:
            self._deliveries.labels(outcome)
        self._found = Counter(
            "ilp_reconcile_found", "Versions that the reconcile loop found before a webhook.", registry=self._registry
        )
        self._seconds = Histogram(
            "ilp_job_seconds", "Time from start to end of a job.", ["status"], registry=self._registry, buckets=_SECONDS
        )
        self._waited = Histogram(
            "ilp_job_wait_seconds", "Time that a job waited in the queue.", registry=self._registry, buckets=_WAITED
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(_Standing(self, desk))

    def delivered(self, outcome: str) -> None:
        """Count a webhook delivery; ``outcome`` is one of ``OUTCOMES``."""
        if outcome not in OUTCOMES:
            raise ValueError(outcome)
        self._deliveries.labels(outcome).inc()

    def reconciled(self, found: int) -> None:
        """The registry was compared with the ledger from end to end, and ``found`` versions were new."""
        self._reconciled = self._clock()
        self._found.inc(found)

    def started(self, waited: float) -> None:
        """A job was started after ``waited`` seconds in the queue."""
        self._waited.observe(max(0.0, waited))

    def ended(self, status: Status, seconds: float) -> None:
        """A job ended, ``seconds`` after its start."""
        if status not in STATUSES:
            raise ValueError(status)
        self._seconds.labels(status).observe(max(0.0, seconds))

    def now(self) -> float:
        """Seconds since 1970, by the clock of the meters."""
        return self._clock()

    def reconcile_lag(self) -> float | None:
        """Seconds since the registry was last compared; ``None`` before the first time."""
        return None if self._reconciled is None else max(0.0, self._clock() - self._reconciled)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _Standing(Collector):
    """How things stand at the moment of the scrape."""

    def __init__(self, meters: Meters, desk: Desk) -> None:
        self._meters, self._desk = meters, desk

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: asking the desk at registration would need its database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("ilp_jobs", "Jobs by status.", labels=["status"])
        for status, count in self._desk.counts().items():
            jobs.add_metric([status], count)
        yield jobs
        yield GaugeMetricFamily("ilp_queue_age_seconds", "How long the oldest queued job has waited.", self._age())
        lag = self._meters.reconcile_lag()
        if lag is not None:
            yield GaugeMetricFamily(
                "ilp_reconcile_lag_seconds", "Time since the registry was last compared with the ledger.", lag
            )

    def _age(self) -> float:
        oldest, after = None, None
        for _ in range(_PAGES):
            page = self._desk.jobs(status="queued", limit=1000, after=after)
            times = [job.queued_at.timestamp() for job in page.items]
            oldest = min([*times, *([] if oldest is None else [oldest])], default=None)
            after = page.next
            if after is None:
                break
        return 0.0 if oldest is None else max(0.0, self._meters.now() - oldest)
