"""A diagnosis taken up again: its inputs, its study and its attributions, from what it has kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.attribution.attribute import attribute
from ilp_service.attribution.chosen import ChosenClassifier
from ilp_service.checkpoints.threads import fitting_threads
from ilp_service.diagnosis.prepare import Prepared, prepare
from ilp_service.diagnosis.request import PLUGIN, ChangedInputError, DiagnosisRequest, read_config
from ilp_service.diagnosis.run import choose_for
from ilp_service.diagnosis.study import Investigated, investigate
from ilp_service.diagnosis.work import WorkFolder
from ilp_service.errors import DataNotFoundError, SettingsError
from ilp_service.evaluation.measurement import Compute
from ilp_service.evidence.collection import Evidence, collect_evidence
from ilp_service.plugin import Cause
from ilp_service.plugin_loading import Plugins, load_plugins
from ilp_service.settings import Settings, load_settings
from ilp_service.study import Study
from ilp_service.tracking.store import Tracking
from ilp_service.tracking.stored_runs import StoredRun, read_run, run_file

_COMMANDS = {"intervention": "intervene", "intervention_arm": "intervene", "prescription": "prescribe"}
"""Commands that are not named after the kind of their runs."""

_PROBES = ("few_shot", "cloze_base_p", "probe_base_p")
"""Steps that are asked only of the samples that a study explains."""


@dataclass(frozen=True)
class Diagnosed:
    """A finished diagnosis, ready to be acted on.

    Attributes:
        run: Its MLflow run.
        request: What was asked for, its settings with what was overridden since.
        prepared: Its inputs.
        study: What cause plugins saw; with ``at_risk`` it explains every sample with a pass rate below it.
        evaluation: One row a sample; ``unlearned`` is by the criterion of the diagnosis.
        unlearned: Ids of the samples that are unlearned by that criterion, in file order.
        twins: Ids of samples that ask the same and answer otherwise, by sample id.
        lengths: Response tokens by sample id.
        evidence: What speaks for each cause.
        attributions: The attributions table, of every sample that the study explains.
        causes: The causes that the diagnosis knew.
        plugins: All plugins that are loaded now.
        classifier: That weighed the evidence.
        work: Where the diagnosis keeps its slices.
        at_risk: Pass rate below which samples are explained; ``None``: only unlearned ones.
    """

    run: StoredRun
    request: DiagnosisRequest
    prepared: Prepared
    study: Study
    evaluation: pa.Table
    unlearned: tuple[str, ...]
    twins: Mapping[str, Sequence[str]]
    lengths: Mapping[str, int]
    evidence: Evidence
    attributions: pa.Table
    causes: tuple[Cause, ...]
    plugins: Plugins
    classifier: ChosenClassifier
    work: WorkFolder
    at_risk: float | None = None

    @property
    def settings(self) -> Settings:
        """Of the diagnosis, with what was overridden since."""
        return self.request.settings

    @property
    def run_id(self) -> str:
        """Of the diagnosis."""
        return self.run.run_id

    @property
    def folder(self) -> Path:
        """Where work that rests on this diagnosis is kept."""
        return self.work.folder

    def cause_of(self) -> dict[str, str]:
        """What each explained sample was attributed to, by its id."""
        names = ("sample_id", "cause")
        return dict(zip(*(self.attributions[name].to_pylist() for name in names), strict=True))


def reopen(
    run_id: str,
    tracking: Tracking,
    say: Callable[[str], None],
    *,
    at_risk: float | None = None,
    plugin_dirs: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    bars: bool = False,
) -> Diagnosed:
    """Take up a finished diagnosis; what it has measured is read, not measured again.

    Args:
        run_id: MLflow run of ``ilp diagnose``.
        tracking: The store.
        say: Takes one line of progress for people.
        at_risk: Explain every sample with a pass rate below this, not only the unlearned ones.
        plugin_dirs: Further folders with plugins.
        overrides: Settings as ``key=value``. Those of remedies are free; those that the measurements rest on make
            another diagnosis, and are refused.
        bars: Show bars on stderr where models are asked, by whoever works with the diagnosis too.

    Raises:
        ModelNotFoundError: There is no such run.
        SettingsError: The run is no finished diagnosis, or weights, data or code have changed since.
        IlpError: Its inputs cannot be used any more.
    """
    run = read_run(tracking, run_id)
    _check_finished(run)
    settings = load_settings(overrides=overrides)
    downloads = settings.work_dir / "downloads"
    config = read_config(run_file(tracking, run, "config.yaml", downloads))
    known = set(json.loads(run_file(tracking, run, "summary.json", downloads).read_text(encoding="utf-8"))["causes"])
    request = _request(config, run, overrides, plugin_dirs)
    plugins = load_plugins(request.plugin_dirs)
    for origin, reason in plugins.failures.items():
        say(f"plugin {origin} was left out: {reason}")
    # A plugin that was added since for its remedy does not change what was found.
    causes = tuple(cause for cause in plugins.causes if cause.name in known)
    with of_diagnosis(run_id, request.data):
        prepared = prepare(request, tracking)
        chosen = choose_for(request, tracking, replace(plugins, causes=causes))
    folder = request.settings.work_dir / prepared.work_key(request)
    work = WorkFolder(folder, request.settings.scoring.chunk_samples, bars)
    investigated = _investigated(prepared, request.settings, work, at_risk)
    evidence = collect_evidence(investigated.study, causes)
    attributions = attribute(evidence, causes, chosen.meta(), request.settings.attribution)
    evaluation = investigated.evaluation
    unlearned = tuple(evaluation.filter(pc.field("unlearned"))["sample_id"].to_pylist())
    say(
        f"diagnosis {run_id}: {prepared.reference.resolved} on {prepared.data.path}, {len(unlearned)} of "
        f"{len(prepared.samples)} samples unlearned"
        + ("" if at_risk is None else f", {len(investigated.study.unlearned)} with a pass rate below {at_risk:g}")
    )
    return Diagnosed(
        run=run,
        request=request,
        prepared=prepared,
        study=investigated.study,
        evaluation=evaluation,
        unlearned=unlearned,
        twins=investigated.twins,
        lengths=investigated.lengths,
        evidence=evidence,
        attributions=attributions,
        causes=causes,
        plugins=plugins,
        classifier=chosen,
        work=work,
        at_risk=at_risk,
    )


def _check_finished(run: StoredRun) -> None:
    kind, status = run.tags.get("ilp.kind"), run.tags.get("ilp.status")
    if kind != "diagnosis":
        what = "no run of ilp" if not kind else f"a run of 'ilp {_COMMANDS.get(kind, kind)}'"
        of = run.tags.get("ilp.diagnosis")
        raise SettingsError(
            f"The run {run.run_id} is {what}, expected one of 'ilp diagnose'; "
            + (f"its diagnosis is {of}." if of else "give the run_id that it prints with --json.")
        )
    if status == "done":
        return
    if status == "failed":
        found = f"has failed ({run.tags.get('ilp.reason', 'no reason is known').rstrip('.')})"
    else:
        found = {"RUNNING": "is still running, or was killed", "KILLED": "was interrupted"}.get(
            run.status, "has failed"
        )
    raise SettingsError(f"The diagnosis {run.run_id} {found}; expected a finished one: run 'ilp diagnose' again.")


def _request(
    config: Mapping[str, Any], run: StoredRun, overrides: Sequence[str], plugin_dirs: Sequence[Path]
) -> DiagnosisRequest:
    inputs = config["inputs"]
    promised = load_settings(config["settings"])
    settings = load_settings(config["settings"], overrides)
    for part in ("seed", "data", "detection", "knowledge", "evaluation", "attribution"):
        if getattr(settings, part) != getattr(promised, part):
            raise SettingsError(
                f"--set changes {part!r}, on which the diagnosis {run.run_id} rests; leave it as it was, or diagnose "
                "again with it."
            )
    folders = dict.fromkeys([*(Path(folder) for folder in inputs.get("plugin_dirs") or ()), *plugin_dirs])
    return DiagnosisRequest(
        model_uri=str(inputs["model_uri"]),
        data=Path(inputs["data"]),
        settings=settings,
        base=inputs.get("base"),
        trajectory=inputs.get("trajectory"),
        limit=inputs.get("limit"),
        plugin_dirs=tuple(folders),
        experiment=run.experiment,
        expected=dict(config["digests"]),
    )


@contextmanager
def of_diagnosis(run_id: str, data: Path) -> Iterator[None]:
    """Tell what is gone or changed since a diagnosis in the words of whoever rests on it.

    Args:
        run_id: Of the diagnosis.
        data: Its data file.

    Raises:
        DataNotFoundError: There is no data file any more.
        SettingsError: Something is not as the diagnosis has seen it.
    """
    mend = "put it back as it was, or diagnose again and give the id of that run."
    try:
        yield
    except DataNotFoundError as error:
        raise DataNotFoundError(f"The data file {data} of the diagnosis {run_id} is gone; {mend}") from error
    except ChangedInputError as error:
        name = error.name
        what = f"The {name}" if not name.startswith(PLUGIN) else name.replace(PLUGIN, "The plugin", 1)
        now = "is gone, which" if error.gone else "is not what"
        raise SettingsError(f"{what} {now} the diagnosis {run_id} has seen; {mend}") from error


def _investigated(prepared: Prepared, settings: Settings, work: WorkFolder, at_risk: float | None) -> Investigated:
    reference = prepared.reference
    explained = slices = None
    if at_risk is not None:
        everything = {"threshold": at_risk, "max_attributed": len(prepared.samples)}
        explained = settings.detection.model_copy(update=everything)
        slices = _ProbesApart(work, f"at_risk-{at_risk:g}")
    with fitting_threads(reference.base_dir if reference.kind == "adapter" else reference.model_dir):
        return investigate(prepared, settings, slices or work, lambda _line: None, explained)


@dataclass(frozen=True, slots=True)
class _ProbesApart:
    """The slices of a diagnosis; what is asked of further samples lies beside what was asked of its own."""

    work: WorkFolder
    beside: str

    def run(self, name: str, keys: Sequence[str], schema: pa.Schema, compute: Compute) -> Iterator[pa.Table]:
        return self.work.run(self._place(name), keys, schema, compute)

    def read(self, name: str, keys: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
        return self.work.read(self._place(name), keys, schema)

    def _place(self, name: str) -> str:
        return f"{name}.{self.beside}" if name.rpartition("/")[2] in _PROBES else name
