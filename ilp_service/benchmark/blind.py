"""A planted world diagnosed blind: attributed by a classifier that saw neither its family nor its seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from ilp_service.attribution.attribute import attribute
from ilp_service.attribution.meta import train_meta
from ilp_service.benchmark.crossing import Examined, others_of, training_table
from ilp_service.benchmark.encyclopedia import write_encyclopedia
from ilp_service.benchmark.headline import Patient
from ilp_service.benchmark.intervention_recipe import recipe_of_world
from ilp_service.benchmark.recipe import BuiltWorld
from ilp_service.benchmark.signals import work_dir
from ilp_service.benchmark.world import World
from ilp_service.diagnosis.prepare import prepare
from ilp_service.diagnosis.request import DiagnosisRequest
from ilp_service.diagnosis.study import investigate
from ilp_service.diagnosis.work import WorkFolder
from ilp_service.evaluation.measurement import Compute
from ilp_service.evidence.collection import Evidence, collect_evidence
from ilp_service.plugin_loading import Plugins
from ilp_service.settings import KnowledgeSourceSettings, MitigationSettings, Settings
from ilp_service.study import Study
from ilp_service.tracking.store import Tracking

Say = Callable[[str], None]

STRENGTHS: Mapping[str, Any] = MappingProxyType(
    {"entity_documents": 12, "document_passes": 2, "general_share": 0.3, "exposure_factor": 8.0}
)
"""Settings of remedies in worlds, where they are not the project's defaults; found on training worlds alone.

Fewer documents, each read twice, teach as much as 20 read once; with less general text, at a higher rate,
learned facts are lost; exposures are as many times as in the counterfactual of too few.
"""

_PROBES = ("few_shot", "cloze_base_p", "probe_base_p")
"""What is asked only about samples that are explained."""


@dataclass(frozen=True)
class BlindWorld:
    """A world, diagnosed, and what is to be done about it without a look at the truth.

    Attributes:
        built: Where its parts lie.
        world: What it was made from.
        sick: Its unlearned samples with their attributions.
        risky: All samples at risk with theirs, the unlearned ones included.
        labels: Verified labels; for comparing only.
        trained_on: Names of the worlds that the classifier was trained on.
    """

    built: BuiltWorld
    world: World
    sick: Patient
    risky: Patient
    labels: pa.Table
    trained_on: tuple[str, ...]


def diagnose_blind(
    examined: Examined, world: World, training: Sequence[Examined], plugins: Plugins, say: Say, *, seed: int = 0
) -> BlindWorld:
    """Attribute the samples of a diagnosed world by a classifier of other families and seeds.

    Args:
        examined: The world as it was examined.
        world: What it was made from.
        training: Worlds that may be trained on; those of its family or seed are left out.
        plugins: Causes, remedies, sources and judges.
        say: Takes one line of progress for people.
        seed: Of the classifier.

    Raises:
        SettingsError: Fewer than two worlds are left to train on.
    """
    built = examined.findings.built
    others = sorted(others_of(training, [examined]), key=lambda one: one.findings.built.name)
    meta = train_meta(training_table(others), seed)
    settings = world_settings(built, world)
    recipe = recipe_of_world(built, world)

    def patient(study: Study, evidence: Evidence) -> Patient:
        named = attribute(evidence, plugins.causes, meta, settings.attribution)
        remedies, sources, judges = plugins.mitigations, plugins.sources, plugins.judges
        return Patient(recipe, study, evidence.table, named, remedies, sources, judges, settings)

    sick = patient(examined.findings.study, examined.findings.evidence)
    study = study_at_risk(built, settings)
    say(f"{built.name}: {len(study.unlearned)} samples are at risk, {len(sick.study.unlearned)} of them unlearned")
    risky = patient(study, collect_evidence(study, plugins.causes))
    return BlindWorld(built, world, sick, risky, examined.labels, tuple(one.findings.built.name for one in others))


def world_settings(built: BuiltWorld, world: World) -> Settings:
    """Settings of a diagnosed world: its encyclopedia is the one knowledge source, remedies as strong as worlds need.

    Args:
        built: Where its parts lie; the encyclopedia is written there.
        world: What it was made from.
    """
    encyclopedia = write_encyclopedia(world, built.folder)
    return Settings(
        work_dir=work_dir(built.folder.parent),
        knowledge_sources=KnowledgeSourceSettings(user_documents=encyclopedia, order=("user_documents",)),
        mitigations=MitigationSettings(**STRENGTHS),
    )


def study_at_risk(built: BuiltWorld, settings: Settings) -> Study:
    """The study of a diagnosed world that explains every sample at risk; what was measured before is read.

    Args:
        built: The world.
        settings: Of its diagnosis; ``intervention.at_risk`` says what is at risk.
    """
    request = DiagnosisRequest(
        str(built.model), built.data, settings, base=str(built.base), trajectory=str(built.trajectory)
    )
    prepared = prepare(request, Tracking(f"sqlite:///{(settings.work_dir / 'unused.db').resolve()}"))
    work = WorkFolder(settings.work_dir / prepared.work_key(request), settings.scoring.chunk_samples, progress=False)
    threshold = settings.intervention.at_risk
    explained = settings.detection.model_copy(update={"threshold": threshold, "max_attributed": len(prepared.samples)})
    slices = _ProbesApart(work, f"at_risk-{threshold:g}")
    return investigate(prepared, settings, slices, lambda _: None, explained).study


@dataclass(frozen=True, slots=True)
class _ProbesApart:
    """The slices of a diagnosis; what is asked about further samples lies beside what was asked about its own."""

    work: WorkFolder
    beside: str

    def run(self, name: str, keys: Sequence[str], schema: pa.Schema, compute: Compute) -> Iterator[pa.Table]:
        return self.work.run(self._place(name), keys, schema, compute)

    def read(self, name: str, keys: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
        return self.work.read(self._place(name), keys, schema)

    def _place(self, name: str) -> str:
        return f"{name}.{self.beside}" if name.rpartition("/")[2] in _PROBES else name
