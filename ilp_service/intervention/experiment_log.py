"""An experiment in the tracking store: a child of the diagnosis, and below it a run for each arm and seed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from ilp_service.changes import Change
from ilp_service.intervention.arms import Arm
from ilp_service.intervention.experiment import Done
from ilp_service.tracking.run import Run
from ilp_service.tracking.store import Tracking
from ilp_service.tracking.stored_runs import children_by

KIND = "intervention"
_ODD = re.compile(r"[^A-Za-z0-9_.:/ -]+")


_WORK = "ilp.work"
"""Tag that says what a run is about, down to the last digit: a run that a killed process has left is found by it."""


@dataclass
class ExperimentLog:
    """An experiment's runs; those that are in the store already are gone on in, so that nothing is logged twice.

    Attributes:
        tracking: The store.
        digest: Of all that the experiment is about.
        parent: Run of the diagnosis.
        original: What was measured of the diagnosed model, by sample id.
    """

    tracking: Tracking
    digest: str
    parent: str
    original: Mapping[str, bool]
    _logged: dict[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)

    @classmethod
    def open(cls, tracking: Tracking, digest: str, parent: str, original: pa.Table) -> ExperimentLog:
        """The log of an experiment whose model was measured as in ``original``."""
        unlearned = dict(zip(original["sample_id"].to_pylist(), original["unlearned"].to_pylist(), strict=True))
        return cls(tracking, digest, parent, unlearned)

    @contextmanager
    def experiment(self, name: str, params: Mapping[str, object]) -> Iterator[Run]:
        """The experiment's run, or the one that an earlier call has made."""
        with work_run(self.tracking, name, KIND, self.parent, self.digest) as run:
            self._logged = children_by(self.tracking, run.run_id, _WORK)
            run.log_params(params)
            yield run
            run.set_tags({"ilp.status": "done"})

    def arm_done(self, done: Done) -> None:
        """Log an arm and seed, once; to be called while the experiment's run is open."""
        work = done.folder.name
        found, logged = self._logged.get(work, (None, {}))
        # The status is set last: without it a process was killed half-way. What had failed may have been done again.
        if logged.get("ilp.status") == "done" or (logged.get("ilp.status") and done.kept):
            return
        result = done.result
        tags = {
            "ilp.kind": f"{KIND}_arm",
            "ilp.arm": done.arm.name,
            "ilp.diagnosis": self.parent,
            _WORK: work,
        }
        title = f"{done.arm.name}, seed {result.seed}"
        with self.tracking.run(title, tags, attach=False, resume=found) as run:
            run.log_params({"arm": done.arm.name, "seed": result.seed, **arm_params(done.arm)})
            run.log_metrics(self._metrics(done))
            for path in sorted(done.folder.iterdir()):
                if path.suffix in (".parquet", ".json"):
                    run.log_file(path)
            if result.status == "diverged":
                run.fail(result.reason)
            else:
                run.set_tags({"ilp.status": "done", **({"ilp.reason": ""} if "ilp.reason" in logged else {})})

    def _metrics(self, done: Done) -> dict[str, float]:
        result = done.result
        found = {f"ilp.{name}": float(value) for name, value in asdict(result.cost).items()}
        if result.general_loss is not None:
            found["ilp.general_loss"] = result.general_loss
        if result.status == "diverged":
            return found
        # Null: held out, so not trained on.
        columns = (result.measured[name].to_pylist() for name in ("sample_id", "unlearned"))
        after = {key: unlearned for key, unlearned in zip(*columns, strict=True) if unlearned is not None}
        found |= {"ilp.unlearned": float(sum(after.values())), "ilp.unlearned_rate": _share(list(after.values()))}
        learned = [after[key] for key, unlearned in self.original.items() if not unlearned and key in after]
        if learned:
            found["ilp.damage"] = _share(learned)
        for cause, keys in done.arm.treats.items():
            treated = [not after[key] for key in keys if self.original.get(key) and key in after]
            if treated:
                found[metric_name(f"ilp.recovery.{cause}")] = _share(treated)
        return found


@contextmanager
def work_run(tracking: Tracking, name: str, kind: str, diagnosis: str, digest: str) -> Iterator[Run]:
    """A child run of a diagnosis, or the one that an earlier or killed process has made for the same work.

    Args:
        tracking: The store.
        name: Of a new run.
        kind: Its tag ``ilp.kind``.
        diagnosis: Run of the diagnosis.
        digest: Of all that the work is about.
    """
    earlier, _ = children_by(tracking, diagnosis, _WORK).get(digest, (None, {}))
    tags = {"ilp.kind": kind, "ilp.diagnosis": diagnosis, _WORK: digest}
    with tracking.run(name, tags, parent=diagnosis, resume=earlier) as run:
        yield run


def metric_name(name: str) -> str:
    """A name that the store takes."""
    return _ODD.sub("_", name)


def arm_params(arm: Arm) -> dict[str, object]:
    """What an arm does, in numbers and few words."""
    return {
        "kind": arm.kind,
        "placebo": arm.placebo or "",
        "treated": sum(map(len, arm.treats.values())),
        "general_tokens": arm.general_tokens,
        **{f"change.{name}": value for name, value in change_params(arm.change).items()},
        **{f"price.{name}": value for name, value in asdict(arm.price).items()},
    }


def change_params(change: Change) -> dict[str, Any]:
    """How much of everything a change holds; what it leaves as it was is not named."""
    counts = {
        "documents": len(change.documents),
        "removed": len(change.removed),
        "corrected": len(change.corrected),
        "exposures": len(change.exposures),
        "apart": len(change.apart),
        "conflicting_documents": len(change.conflicting_documents),
        "shuffled": change.shuffled,
    }
    found: dict[str, Any] = {name: value for name, value in counts.items() if value}
    if change.documents:
        found |= {"general_share": change.general_share, "document_passes": change.document_passes}
    if change.exposures:
        found["largest_factor"] = max(change.exposures.values())
    for name, part in (("resampling", change.resampling), ("epochs", change.epochs)):
        if part is not None:
            found |= {f"{name}.{key}": value for key, value in asdict(part).items()}
    return found


def _share(values: Sequence[bool]) -> float:
    return sum(map(bool, values)) / len(values)
