"""One diagnosis from request to MLflow run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ilp_service.attribution.attribute import attribute
from ilp_service.attribution.candidates import candidate_causes, told_briefly
from ilp_service.attribution.chosen import ChosenClassifier, choose_classifier
from ilp_service.checkpoints.threads import fitting_threads
from ilp_service.detection.criterion import views_disagreement
from ilp_service.diagnosis.failure import told_to_the_registry
from ilp_service.diagnosis.outputs import Findings, publish, top_cause
from ilp_service.diagnosis.prepare import Prepared, prepare
from ilp_service.diagnosis.request import PLUGIN, DiagnosisRequest, check_digests, plugin_digests
from ilp_service.diagnosis.study import investigate
from ilp_service.diagnosis.watching import Watcher
from ilp_service.diagnosis.work import WorkFolder
from ilp_service.evidence.collection import Evidence, collect_evidence
from ilp_service.plugin_loading import Plugins, load_plugins
from ilp_service.tracking.store import Tracking

UNATTRIBUTED = "unattributed"


@dataclass(frozen=True, slots=True)
class DiagnosisResult:
    """What ``ilp diagnose --json`` prints, and the tables behind it."""

    summary: dict[str, Any]
    evaluation: pa.Table
    evidence: Evidence
    attributions: pa.Table

    def public(self) -> dict[str, Any]:
        """The summary without its details: the object that programs read."""
        return {key: value for key, value in self.summary.items() if key != "details"}


def diagnose(
    request: DiagnosisRequest,
    say: Callable[[str], None],
    *,
    progress: bool = True,
    run_id: str | None = None,
    watcher: Watcher | None = None,
    tracking: Tracking | None = None,
) -> DiagnosisResult:
    """Find the unlearned samples of a checkpoint and say why each was not learned.

    Args:
        request: What to diagnose.
        say: Takes one line of progress for people.
        progress: Show bars on stderr.
        run_id: The MLflow run to go on in, if it still is there.
        watcher: Is told of steps and slices; it also tells the registry of a failure, which is left to it.
        tracking: The store, where it is another than the surroundings name.

    Raises:
        IlpError: Anything that a user can mend; see :mod:`ilp_service.errors`.
    """
    watching = watcher or Watcher()
    started = time.monotonic()
    plugins = load_plugins(request.plugin_dirs)
    for origin, reason in plugins.failures.items():
        say(f"plugin {origin} was left out: {reason}")
    tracking = tracking or Tracking(experiment=request.experiment)
    tags = {"ilp.kind": "diagnosis"}
    with (
        tracking.run(f"diagnose {request.model_uri}", tags, resume=run_id) as run,
        nullcontext() if watcher else told_to_the_registry(request.model_uri, tracking, run),
    ):
        prepared = prepare(request, tracking)
        chosen = choose_for(request, tracking, plugins)
        _announce(prepared, say)
        watching.finished("stage", {"samples": len(prepared.samples), "digests": prepared.digests})
        say(f"classifier: {chosen.uri}, for {chosen.reason}")
        folder = request.settings.work_dir / prepared.work_key(request)
        work = WorkFolder(folder, request.settings.scoring.chunk_samples, progress, watching)
        reference = prepared.reference
        with fitting_threads(reference.base_dir if reference.kind == "adapter" else reference.model_dir):
            investigated = investigate(prepared, request.settings, work, say)
        watching.finished("evaluate", {"unlearned": len(investigated.study.unlearned)})
        evidence = collect_evidence(investigated.study, plugins.causes)
        attributions = attribute(evidence, plugins.causes, chosen.meta(), request.settings.attribution)
        summary = _summary(request, prepared, investigated.evaluation, evidence, attributions, plugins, run.run_id)
        candidates = candidate_causes(
            evidence, attributions, prepared.samples, request.settings.attribution, request.settings.seed
        )
        summary["details"]["candidate_causes"] = told_briefly(candidates)
        summary["details"]["classifier"] = chosen.record()
        summary["details"]["digests"] = _digests(prepared, chosen, plugins)
        summary["seconds"] = round(time.monotonic() - started, 2)
        watching.finished("attribute", {"causes": dict(summary["causes"])})
        findings = Findings(
            summary,
            investigated.evaluation,
            evidence,
            attributions,
            candidates,
            investigated.study,
            plugins.causes,
            chosen,
        )
        summary["artifacts"] = publish(request, prepared, findings, tracking, run, watching)
    # Only now the run has its end as well.
    facts = {"unlearned_rate": summary["unlearned_rate"], "top_cause": top_cause(summary)}
    watching.finished("publish", {**facts, "run_id": run.run_id, "report": summary["artifacts"]["report"]})
    return DiagnosisResult(summary, investigated.evaluation, evidence, attributions)


def choose_for(request: DiagnosisRequest, tracking: Tracking, plugins: Plugins) -> ChosenClassifier:
    """The classifier, before anything expensive starts; it and the plugins are those that a config promises."""
    setting = request.settings.attribution.classifier
    chosen = choose_classifier(setting, tracking, plugins.causes, request.settings.work_dir / "downloads")
    have = plugin_digests(plugins.digests)
    promised = {name: have.get(name) for name in request.expected or {} if name.startswith(f"{PLUGIN} ")}
    check_digests(request.expected, {"classifier": chosen.digest, **promised})
    return chosen


def _digests(prepared: Prepared, chosen: ChosenClassifier, plugins: Plugins) -> dict[str, str | None]:
    return {**prepared.digests, "classifier": chosen.digest, **plugin_digests(plugins.digests)}


def _announce(prepared: Prepared, say: Callable[[str], None]) -> None:
    reference, data = prepared.reference, prepared.data
    say(f"model: {reference.resolved} ({reference.kind})" + (f", from {reference.uri}" if reference.alias else ""))
    if reference.base:
        say(f"base: {reference.base} (from {reference.base_from})")
    else:
        say("base: not known, so causes that need it cannot be measured; name it with --base or the tag ilp.base_model")
    say(f"data: {data.path}, {data.format}, {data.rows} rows, {len(prepared.samples)} samples, "
        f"{prepared.quarantine.num_rows} quarantined")  # fmt: skip
    if data.unused_columns:
        say(f"columns that are not used: {', '.join(data.unused_columns)}")
    if data.context_only_turns:
        say(f"{data.context_only_turns} assistant turns are context only (first in their row, or of weight 0)")
    rendering = ", ".join(f"{key} {value!r}" for key, value in prepared.renderer.describe().items())
    say(f"rendering: {rendering}")
    say(f"trajectory: {prepared.trajectory_source}")


def _summary(
    request: DiagnosisRequest,
    prepared: Prepared,
    evaluation: pa.Table,
    evidence: Evidence,
    attributions: pa.Table,
    plugins: Plugins,
    run_id: str,
) -> dict[str, Any]:
    unlearned = sum(1 for value in evaluation.column("unlearned").to_pylist() if value)
    counts = Counter(attributions.column("cause").to_pylist())
    names = [cause.name for cause in plugins.causes]
    failed = [name for name in names if evidence.status[name] == "failed"]
    total = evaluation.num_rows
    return {
        "run_id": run_id,
        "model": prepared.reference.resolved,
        "base": prepared.reference.base,
        "samples": total,
        "unlearned": unlearned,
        "unlearned_rate": unlearned / total,
        "causes": {name: counts.get(name, 0) for name in names},
        "unattributed": counts.get(UNATTRIBUTED, 0),
        "not_measurable": [name for name in names if evidence.status[name] == "not_measurable"],
        "quarantined": prepared.quarantine.num_rows,
        "seconds": 0.0,
        "artifacts": {},
        "details": {
            "model_uri": request.model_uri,
            "alias": prepared.reference.alias,
            "data": str(request.data),
            "format": prepared.data.format,
            "base_from": prepared.reference.base_from,
            "trajectory": prepared.trajectory_source,
            "attributed": attributions.num_rows,
            "failed": {name: evidence.reasons[name] for name in failed},
            "reasons": dict(evidence.reasons),
            "plugin_failures": dict(plugins.failures),
            "views": views_disagreement(evaluation, request.settings.detection.threshold),
            "rendering": prepared.renderer.describe(),
        },
    }
