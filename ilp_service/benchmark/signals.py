"""The ordinary diagnosis of a planted world, and its evidence beside what was planted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.benchmark.plants import CAUSES
from ilp_service.benchmark.recipe import BuiltWorld, read_truth
from ilp_service.diagnosis.prepare import prepare
from ilp_service.diagnosis.request import DiagnosisRequest
from ilp_service.diagnosis.study import investigate
from ilp_service.diagnosis.work import WorkFolder
from ilp_service.evidence.collection import Evidence, collect_evidence
from ilp_service.plugin import Cause
from ilp_service.settings import Settings
from ilp_service.tracking.store import Tracking

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a diagnosis found in a world, before any cause is named.

    Attributes:
        built: The world.
        evaluation: One row a sample (``docs/tables.md``).
        evidence: The signals of every unlearned sample.
        truth: What was planted, rows in the order of the data.
    """

    built: BuiltWorld
    evaluation: pa.Table
    evidence: Evidence
    truth: pa.Table


def examine(built: BuiltWorld, causes: Sequence[Cause], settings: Settings, say: Say, *, progress: bool) -> Findings:
    """Diagnose a built world as any checkpoint is diagnosed; the planted truth is only read afterwards.

    Args:
        built: The world.
        causes: Causes whose signals are collected.
        settings: Settings of the diagnosis; safe points go below ``settings.work_dir``.
        say: Takes one line of progress for people.
        progress: Show bars on stderr.
    """
    request = DiagnosisRequest(
        str(built.model), built.data, settings, base=str(built.base), trajectory=str(built.trajectory)
    )
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    # Folders are diagnosed, so that nothing is ever asked of this store.
    tracking = Tracking(f"sqlite:///{(settings.work_dir / 'unused.db').resolve()}")
    prepared = prepare(request, tracking)
    folder = settings.work_dir / prepared.work_key(request)
    work = WorkFolder(folder, settings.scoring.chunk_samples, progress=progress)
    investigated = investigate(prepared, settings, work, say)
    evidence = collect_evidence(investigated.study, causes)
    return Findings(built, investigated.evaluation, evidence, read_truth(built.truth))


def labelled_signals(findings: Findings) -> pa.Table:
    """The number signals of every sample that was planted and is unlearned.

    Unlearned controls are left out: why they were not learned is not known.

    Returns:
        Columns ``world, family, sample_id, cause`` and ``<cause>.<signal>``, float64.
    """
    table = findings.evidence.table
    planted = dict(zip(*(findings.truth[name].to_pylist() for name in ("sample_id", "cause")), strict=True))
    labels = [planted.get(key) for key in table["sample_id"].to_pylist()]
    labelled = table.append_column("cause", pa.array(labels, pa.string()))
    labelled = labelled.filter(pc.is_in(labelled["cause"], value_set=pa.array(CAUSES)))
    numbers = [
        name
        for name in labelled.column_names
        if "." in name and not pa.types.is_string(labelled.schema.field(name).type)
    ]
    rows = labelled.num_rows
    columns = {
        "world": pa.array([findings.built.name] * rows, pa.string()),
        "family": pa.array([findings.built.family] * rows, pa.string()),
        "sample_id": labelled["sample_id"],
        "cause": labelled["cause"],
        **{name: labelled[name].cast(pa.float64()) for name in numbers},
    }
    return pa.table(columns)


def work_dir(folder: Path) -> Path:
    """Where the diagnoses of the worlds in ``folder`` keep their safe points."""
    return folder / "diagnoses"
