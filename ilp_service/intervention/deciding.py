"""What to prescribe for a diagnosis: decided once, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ilp_service import __version__
from ilp_service.consulting.consultation import Consultation
from ilp_service.diagnosis.request import read_config
from ilp_service.errors import SettingsError
from ilp_service.intervention.choosing import Budget
from ilp_service.intervention.effectiveness import Effectiveness, measured_effectiveness, read_effectiveness
from ilp_service.intervention.general_text import GeneralText, read_general_text
from ilp_service.intervention.measuring import Measurer
from ilp_service.intervention.prescribed import Prescription, causes_of, prescription_text
from ilp_service.intervention.prescription import prescribe
from ilp_service.intervention.recipes import course_tokens, recipe_of
from ilp_service.intervention.reopening import Diagnosed, reopen
from ilp_service.settings import load_settings
from ilp_service.stages import digest_of, stage
from ilp_service.tracking.store import Tracking
from ilp_service.tracking.stored_runs import child_runs, read_run, run_file

if TYPE_CHECKING:
    from ilp_service.training.recipe import Recipe

PLAN = "prescription.json"

Registering = Literal["improved", "always", "never"]


@dataclass(frozen=True, slots=True)
class PrescriptionRequest:
    """A prescription for a diagnosis.

    Attributes:
        run_id: MLflow run of the diagnosis.
        budget: What it may cost.
        seed: Of the fine-tuning; ``None``: that of the diagnosed run.
        output: Folder that the model is copied to as well.
        name: Registered model that gets the new version; ``None``: the diagnosed one's.
        register: When the result becomes a version.
        max_damage: Most learned samples that may be lost for it to count as better, a share, 0-1.
        effects: File with effects of remedies in place of those that come with the project.
        recipe: A file that says how the checkpoint was trained.
        plugin_dirs: Further folders with plugins.
        overrides: Settings as ``key=value``.
    """

    run_id: str
    budget: Budget = field(default_factory=Budget)
    seed: int | None = None
    output: Path | None = None
    name: str | None = None
    register: Registering = "improved"
    max_damage: float = 0.02
    effects: Path | None = None
    recipe: Path | None = None
    plugin_dirs: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What is to be done, decided before anything is trained.

    Attributes:
        request: What was asked for.
        diagnosed: The diagnosis, samples at risk with it.
        prescription: The decision.
        recipe: The training that is done again.
        general: General text, if there is any.
        effectiveness: What remedies were expected to do.
        folder: Where it is kept.
        digest: Of all that the training depends on.
    """

    request: PrescriptionRequest
    diagnosed: Diagnosed
    prescription: Prescription
    recipe: Recipe
    general: GeneralText | None
    effectiveness: Effectiveness
    folder: Path
    digest: str

    @property
    def seed(self) -> int:
        """Of the fine-tuning."""
        return self.recipe.loop.seed if self.request.seed is None else self.request.seed

    @cached_property
    def measurer(self) -> Measurer:
        """Measures as the diagnosis does."""
        held_out = () if self.general is None else self.general.held_out
        return Measurer(self.diagnosed, held_out=held_out, max_length=self.recipe.continued.max_length)

    @property
    def text(self) -> str:
        """The decision for people."""
        return prescription_text(self.prescription, self.diagnosed.settings.intervention)

    def public(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "diagnosis": self.diagnosed.run_id,
            "model": self.diagnosed.prepared.reference.resolved,
            "base": self.recipe.base_name,
            "seed": self.seed,
            "step_rows": self.recipe.loop.batch_size * self.recipe.loop.accumulation,
            "recipe": dict(self.recipe.where),
            "training_tokens": course_tokens(self.recipe),
            "passes": getattr(self.recipe.course, "passes", None),
            "sample_causes": causes_of(self.prescription, self.diagnosed.cause_of()),
            **self.prescription.public(),
        }


def decide(
    request: PrescriptionRequest, tracking: Tracking, say: Callable[[str], None], *, bars: bool = False
) -> Decision:
    """Choose what to do; nothing is trained, and what was asked of sources and the judge is kept.

    Args:
        request: What is asked for.
        tracking: The store.
        say: Takes one line of progress for people.
        bars: Show bars on stderr where models are asked, now and after the training.

    Raises:
        SettingsError: General text is needed and none is known.
        IlpError: Anything that a user can mend.
    """
    at_risk = _at_risk(request, tracking)
    diagnosed = reopen(
        request.run_id,
        tracking,
        say,
        at_risk=at_risk,
        plugin_dirs=request.plugin_dirs,
        overrides=request.overrides,
        bars=bars,
    )
    settings = diagnosed.settings
    general = read_general_text(settings, seed=settings.seed)
    recipe = recipe_of(diagnosed, tracking, file=request.recipe, general=general)
    for name, where in recipe.where:
        say(f"{name}: {where}")
    effectiveness = _effectiveness(request, diagnosed, tracking, say)
    folder = diagnosed.folder / "prescriptions"
    prescription = _kept(request, diagnosed, effectiveness, folder)
    change = prescription.change
    if change.documents and change.general_share and general is None:
        raise SettingsError(
            f"{len(change.documents)} documents are to be mixed with general text, and none is known; name some with "
            "--general FILE, or do without by --set mitigations.general_share=0."
        )
    if general is not None:
        general = general.without(document.text for document in change.documents)
    decision = Decision(request, diagnosed, prescription, recipe, general, effectiveness, folder, "")
    digest = digest_of(
        recipe.digest, change.public(), decision.seed, decision.measurer.digest, sorted(spared_by(decision))
    )
    return replace(decision, digest=digest)


def _at_risk(request: PrescriptionRequest, tracking: Tracking) -> float:
    """Pass rate below which samples are treated, from the settings of the diagnosis and what was overridden."""
    run = read_run(tracking, request.run_id)
    config: dict[str, Any] = {"settings": {}}
    # What is no diagnosis is refused, with a better sentence, when it is taken up.
    if run.tags.get("ilp.kind") == "diagnosis" and run.tags.get("ilp.status") == "done":
        downloads = load_settings(overrides=request.overrides).work_dir / "downloads"
        config = read_config(run_file(tracking, run, "config.yaml", downloads))
    settings = load_settings(config["settings"], request.overrides)
    return max(settings.intervention.at_risk, settings.detection.threshold)


def _effectiveness(
    request: PrescriptionRequest, diagnosed: Diagnosed, tracking: Tracking, say: Callable[[str], None]
) -> Effectiveness:
    """Cell by cell the newest of one's own measurements, else the general figure."""
    found = read_effectiveness(request.effects)
    used: list[str] = []
    for run_id in reversed(child_runs(tracking, diagnosed.run_id, "intervention")):
        run = read_run(tracking, run_id)
        path = run_file(tracking, run, "interventions.json", diagnosed.settings.work_dir / "downloads")
        own = measured_effectiveness(json.loads(path.read_text(encoding="utf-8"))["effects"], f"run {run_id}")
        if own.provenance:
            used.insert(0, run_id)
            found = found.overridden(own)
    if used:
        runs, measured = ("run", "it") if len(used) == 1 else ("runs", "each")
        say(f"effects: measured on this checkpoint by {runs} {', '.join(used)} where {measured} measured enough")
    else:
        say(f"effects: {request.effects or 'those that come with the project'}")
    return found


def _kept(
    request: PrescriptionRequest, diagnosed: Diagnosed, effectiveness: Effectiveness, folder: Path
) -> Prescription:
    """The decision, made once: documents and judgements are not asked for again."""
    settings = diagnosed.settings
    parts = ("knowledge_sources", "judge", "mitigations", "intervention", "detection")
    files = (settings.knowledge_sources.corpus, settings.knowledge_sources.user_documents)
    table = diagnosed.attributions
    digest = digest_of(
        __version__,
        sorted(diagnosed.prepared.digests.items()),
        [table[name].to_pylist() for name in table.column_names if name == "sample_id" or name.startswith("p_")],
        {name: getattr(settings, name).model_dump(mode="json") for name in parts},
        [[str(one), one.stat().st_size, one.stat().st_mtime_ns] for path in files if path for one in _files(path)],
        sorted(diagnosed.plugins.digests.items()),
        effectiveness.public(),
        request.budget.public(),
    )
    place = folder / f"decision-{digest[:12]}"
    with stage(place, digest) as empty:
        if empty is not None:
            plugins = diagnosed.plugins
            consult = Consultation(plugins.sources, plugins.judges, settings, diagnosed.study)
            made = prescribe(
                plugins.mitigations,
                diagnosed.study,
                diagnosed.evidence.table,
                diagnosed.attributions,
                consult,
                settings,
                effectiveness=effectiveness,
                budget=request.budget,
                unlearned=diagnosed.unlearned,
            )
            made = replace(made, notes=(*made.notes, *consult.failures.values()))
            (empty / PLAN).write_text(json.dumps(made.public(), ensure_ascii=False), encoding="utf-8")
    return Prescription.from_public(json.loads((place / PLAN).read_text(encoding="utf-8")))


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def spared_by(decision: Decision) -> frozenset[str]:
    """Who is never held out; it matters only where samples are."""
    if decision.prescription.change.epochs is None:
        return frozenset()
    return frozenset(key for keys in decision.prescription.treats.values() for key in keys)
