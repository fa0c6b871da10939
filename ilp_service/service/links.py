"""Where things are in MLflow's own pages."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

from ilp_service.service.desk import JobView


@dataclass(frozen=True, slots=True)
class MlflowLinks:
    """Addresses in the pages of a tracking server.

    Attributes:
        base: Of the server, without a slash at the end; ``None`` for a store without pages, such as a database.
    """

    base: str | None

    @classmethod
    def of(cls, uri: str | None) -> MlflowLinks:
        """Links for a tracking URI, without the name and password that it may hold."""
        try:
            parts = urlsplit(uri or "")
        except ValueError:
            return cls(None)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            return cls(None)
        place = parts.netloc.rpartition("@")[2]
        return cls(urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", "")))

    def run(self, job: JobView) -> str | None:
        """The run of a job."""
        return f"{self.base}/#/runs/{_part(job.run_id)}" if self.base and job.run_id else None

    def version(self, job: JobView) -> str | None:
        """The model version of a job."""
        if self.base is None:
            return None
        return f"{self.base}/#/models/{_part(job.model)}/versions/{_part(job.version)}"


def _part(name: str) -> str:
    # What was registered may hold halves of characters.
    return quote(name, safe="", errors="replace")
