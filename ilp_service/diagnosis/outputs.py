"""What a diagnosis leaves behind: files, metrics and tags of one MLflow run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ilp_service.attribution.chosen import ChosenClassifier
from ilp_service.attribution.registration import BUILT_IN_NAME, log_builtin
from ilp_service.diagnosis.failure import REASON
from ilp_service.diagnosis.prepare import Prepared
from ilp_service.diagnosis.request import DiagnosisRequest, config_text
from ilp_service.diagnosis.watching import Watcher
from ilp_service.evidence.collection import Evidence
from ilp_service.plugin import Cause
from ilp_service.report.html import ReportInput, render_report
from ilp_service.study import Study
from ilp_service.tables import atomic_path, write_table
from ilp_service.tracking.run import Run
from ilp_service.tracking.store import Tracking


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that a diagnosis found."""

    summary: dict[str, Any]
    evaluation: pa.Table
    evidence: Evidence
    attributions: pa.Table
    candidates: pa.Table
    study: Study
    causes: Sequence[Cause]
    chosen: ChosenClassifier


def write_files(request: DiagnosisRequest, prepared: Prepared, found: Findings, folder: Path) -> list[Path]:
    """Write every artifact but the summary, each whole or not at all.

    Raises:
        StorageError: The disk is full or the folder may not be written.
    """
    tables = {
        "evaluation": found.evaluation,
        "evidence": found.evidence.table,
        "attributions": found.attributions,
        "candidate_causes": found.candidates,
        "options": found.study.options,
        "quarantine": prepared.quarantine,
    }
    paths = []
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        write_table(table, path)
        paths.append(path)
    report = ReportInput(
        summary=found.summary,
        evaluation=found.evaluation,
        evidence=found.evidence,
        attributions=found.attributions,
        candidates=found.candidates,
        options=found.study.options,
        samples=prepared.samples,
        causes=found.causes,
        trajectory=prepared.trajectory,
        quarantine=prepared.quarantine,
        settings=request.settings,
    )
    used = None if prepared.trajectory is None else prepared.trajectory_source
    texts = {
        "config.yaml": config_text(
            request, prepared.reference.resolved, used, found.summary["details"]["digests"], found.chosen.uri
        ),
        "report.html": render_report(report),
    }
    return [*paths, *(_write_text(folder / name, text) for name, text in texts.items())]


def _write_text(path: Path, text: str) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def publish(
    request: DiagnosisRequest,
    prepared: Prepared,
    found: Findings,
    tracking: Tracking,
    run: Run,
    watcher: Watcher | None = None,
) -> dict[str, str]:
    """Log files, the classifier, metrics and tags; returns the artifacts' URIs by name."""
    # One folder a run: two runs of one work key may differ in plugins or in what attribution asks for.
    folder = request.settings.work_dir / prepared.work_key(request) / "output" / run.run_id
    reference, summary = prepared.reference, found.summary
    files = write_files(request, prepared, found, folder)
    (watcher or Watcher()).finished("report", {"files": [path.name for path in files]})
    run.log_params(
        {
            "model_uri": request.model_uri,
            "model": reference.resolved,
            "alias": reference.alias or "",
            "base": reference.base or "",
            "data": request.data,
            "seed": request.settings.seed,
            "classifier": found.chosen.uri,
        }
    )
    run.log_inputs(data=request.data, digest=prepared.data.digest, rows=prepared.data.rows, model_id=reference.model_id)
    run.log_metrics(_metrics(summary), model_id=reference.model_id)
    # A run that is taken up may have been cut short after this.
    logged = found.chosen.uri if found.chosen.stored else run.logged_model(BUILT_IN_NAME)
    artifacts = {"classifier": logged or log_builtin(run, found.chosen.meta())}
    for path in files:
        artifacts[path.name.partition(".")[0]] = run.log_file(path)
    told = json.dumps({**summary, "artifacts": artifacts}, indent=2, ensure_ascii=False, default=str)
    artifacts["summary"] = run.log_file(_write_text(folder / "summary.json", told))
    tags = {
        "ilp.status": "done",
        "ilp.run_id": run.run_id,
        "ilp.unlearned_rate": f"{summary['unlearned_rate']:.6f}",
        "ilp.top_cause": top_cause(summary),
    }
    run.set_tags(
        {
            **tags,
            "ilp.model": reference.resolved,
            "ilp.model_digest": reference.digest,
            "ilp.classifier": found.chosen.uri,
            "ilp.classifier_digest": found.chosen.digest or "",
        }
    )
    if reference.name and reference.version:
        tracking.tag_version(reference.name, reference.version, tags)
        tracking.untag_version(reference.name, reference.version, [REASON])
    return artifacts


def top_cause(summary: Mapping[str, Any]) -> str:
    """The cause of most unlearned samples; ``none`` when nothing was attributed, ties in plugin order."""
    counts: Mapping[str, int] = summary["causes"]
    best = max(counts, key=lambda name: counts[name], default=None)
    return best if best is not None and counts[best] else "none"


def _metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    silent = {*summary["not_measurable"], *summary["details"]["failed"]}
    counts = {
        f"ilp.cause.{name}.count": float(count) for name, count in summary["causes"].items() if name not in silent
    }
    views = {f"ilp.views.{name}": float(count) for name, count in summary["details"]["views"].items()}
    return {
        "ilp.samples": float(summary["samples"]),
        "ilp.unlearned": float(summary["unlearned"]),
        "ilp.unlearned_rate": float(summary["unlearned_rate"]),
        "ilp.unattributed": float(summary["unattributed"]),
        "ilp.quarantined": float(summary["quarantined"]),
        "ilp.seconds": float(summary["seconds"]),
        **counts,
        **views,
    }
