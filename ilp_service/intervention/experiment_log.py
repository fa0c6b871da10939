"""An experiment in the tracking store: a child of the diagnosis, and below it a run for each arm and seed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ilp_service.changes import Change
from ilp_service.intervention.arms import Arm
from ilp_service.intervention.experiment import Done
from ilp_service.tables import atomic_path
from ilp_service.tracking.run import Run
from ilp_service.tracking.store import Tracking

KIND = "intervention"
_ODD = re.compile(r"[^A-Za-z0-9_.:/ -]+")


@dataclass
class ExperimentLog:
    """What of an experiment is in the store already, kept beside its results, so that nothing is logged twice.

    Attributes:
        tracking: The store.
        path: A JSON file that remembers the runs' ids.
        parent: Run of the diagnosis.
        original: What was measured of the diagnosed model, by sample id.
        run_id: Of the experiment's own run; ``None`` before it was made.
        logged: Run of every arm and seed, by the name of the folder that has their results.
    """

    tracking: Tracking
    path: Path
    parent: str
    original: Mapping[str, bool]
    run_id: str | None = None
    logged: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, tracking: Tracking, path: Path, parent: str, original: pa.Table) -> ExperimentLog:
        """Go on in what is remembered, if anything is."""
        unlearned = dict(zip(original["sample_id"].to_pylist(), original["unlearned"].to_pylist(), strict=True))
        log = cls(tracking, path, parent, unlearned)
        if path.is_file():
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["store"] == tracking.uri:
                log.run_id, log.logged = told["run_id"], told["logged"]
        return log

    @contextmanager
    def experiment(self, name: str, params: Mapping[str, object]) -> Iterator[Run]:
        """The experiment's run, or the one that a killed process has left."""
        tags = {"ilp.kind": KIND, "ilp.diagnosis": self.parent}
        with self.tracking.run(name, tags, parent=self.parent, resume=self.run_id) as run:
            if run.run_id != self.run_id:
                self.run_id, self.logged = run.run_id, {}
                self._remember()
            run.log_params(params)
            yield run
            run.set_tags({"ilp.status": "done"})

    def arm_done(self, done: Done) -> None:
        """Log an arm and seed, once; to be called while the experiment's run is open."""
        if done.folder.name in self.logged:
            return
        result = done.result
        tags = {"ilp.kind": f"{KIND}_arm", "ilp.arm": done.arm.name, "ilp.diagnosis": self.parent}
        with self.tracking.run(f"{done.arm.name}, seed {result.seed}", tags, attach=False) as run:
            run.log_params({"arm": done.arm.name, "seed": result.seed, **arm_params(done.arm)})
            run.log_metrics(self._metrics(done))
            for path in sorted(done.folder.iterdir()):
                if path.suffix in (".parquet", ".json"):
                    run.log_file(path)
            if result.status == "diverged":
                run.fail(result.reason)
            else:
                run.set_tags({"ilp.status": "done"})
        self.logged[done.folder.name] = run.run_id
        self._remember()

    def _remember(self) -> None:
        told = {"store": self.tracking.uri, "run_id": self.run_id, "logged": self.logged}
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(told), encoding="utf-8")

    def _metrics(self, done: Done) -> dict[str, float]:
        result = done.result
        found = {f"ilp.{name}": float(value) for name, value in asdict(result.cost).items()}
        if result.general_loss is not None:
            found["ilp.general_loss"] = result.general_loss
        if result.status == "diverged":
            return found
        after = dict(zip(*(result.measured[name].to_pylist() for name in ("sample_id", "unlearned")), strict=True))
        found |= {"ilp.unlearned": float(sum(after.values())), "ilp.unlearned_rate": _share(list(after.values()))}
        learned = [after[key] for key, unlearned in self.original.items() if not unlearned and key in after]
        if learned:
            found["ilp.damage"] = _share(learned)
        for cause, keys in done.arm.treats.items():
            treated = [not after[key] for key in keys if self.original.get(key) and key in after]
            if treated:
                found[metric_name(f"ilp.recovery.{cause}")] = _share(treated)
        return found


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
