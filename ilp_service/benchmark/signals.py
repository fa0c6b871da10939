"""The ordinary diagnosis of a planted world, and its evidence beside the labels that hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ilp_service.benchmark.recipe import BuiltWorld, read_truth
from ilp_service.diagnosis.prepare import prepare
from ilp_service.diagnosis.request import DiagnosisRequest
from ilp_service.diagnosis.study import investigate
from ilp_service.diagnosis.work import WorkFolder
from ilp_service.evidence.collection import Evidence, collect_evidence
from ilp_service.plugin import Cause
from ilp_service.settings import Settings
from ilp_service.study import Study
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
        study: All that the causes looked at, so that evidence can be collected again from a part of it.
    """

    built: BuiltWorld
    evaluation: pa.Table
    evidence: Evidence
    truth: pa.Table
    study: Study


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
    return Findings(built, investigated.evaluation, evidence, read_truth(built.truth), investigated.study)


def labelled_signals(findings: Findings, labels: pa.Table) -> pa.Table:
    """The number signals of every sample of the world whose label holds and names one cause.

    Args:
        findings: What the diagnosis found.
        labels: Verified labels; rows of other worlds are not looked at.

    Returns:
        Columns ``world, family, sample_id, cause`` and ``<cause>.<signal>``, float64.
    """
    built, table = findings.built, findings.evidence.table
    names = (labels[name].to_pylist() for name in ("world", "sample_id", "causes", "verdict"))
    held = {
        key: causes[0]
        for world, key, causes, verdict in zip(*names, strict=True)
        if world == built.name and verdict == "verified" and len(causes) == 1
    }
    truth = [held.get(key) for key in table["sample_id"].to_pylist()]
    labelled = table.append_column("cause", pa.array(truth, pa.string()))
    labelled = labelled.filter(labelled["cause"].is_valid())
    rows = labelled.num_rows
    keys = {
        "world": pa.array([built.name] * rows, pa.string()),
        "family": pa.array([built.family] * rows, pa.string()),
        "sample_id": labelled["sample_id"],
        "cause": labelled["cause"],
    }
    made = pa.table(keys)
    for name in number_signals(labelled):
        # Unit, direction and meaning go with the numbers: the classifier asks which way a signal speaks.
        made = made.append_column(
            labelled.schema.field(name).with_type(pa.float64()), labelled[name].cast(pa.float64())
        )
    return made


def number_signals(evidence: pa.Table) -> list[str]:
    """The columns ``<cause>.<signal>`` of an evidence table that are numbers."""
    return [field.name for field in evidence.schema if "." in field.name and not pa.types.is_string(field.type)]


def work_dir(folder: Path) -> Path:
    """Where the diagnoses of the worlds in ``folder`` keep their safe points."""
    return folder / "diagnoses"
