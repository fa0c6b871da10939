"""Every method on worlds of a family, and of seeds, that its training has not seen.

Each family is left out in turn: the classifier is trained on the training worlds of the other families, less those
that share a seed with a held-out world, and attributes the evidence of the held-out worlds as a diagnosis does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.attribution.attribute import attribute
from ilp_service.attribution.meta import MetaClassifier, builtin_meta, train_meta
from ilp_service.benchmark.ablations import (
    FEWER_SIGNALS,
    evidence_without,
    unmeasured,
    without_signals,
)
from ilp_service.benchmark.baselines import paper_rules, predictions_of, repaired_rules
from ilp_service.benchmark.cartography import train_cartographer
from ilp_service.benchmark.label_quality import label_issues
from ilp_service.benchmark.signals import Findings, labelled_signals
from ilp_service.errors import SettingsError
from ilp_service.evidence.collection import Evidence
from ilp_service.plugin import Cause
from ilp_service.settings import AttributionSettings

Say = Callable[[str], None]

CLASSIFIER = "classifier"
SHIPPED = "shipped"
PAPER_RULES = "paper_rules"
REPAIRED_RULES = "repaired_rules"
CARTOGRAPHY = "cartography"
LABEL_ISSUES = "cleanlab"


@dataclass(frozen=True, slots=True)
class Examined:
    """A diagnosed world and its labels."""

    findings: Findings
    labels: pa.Table


@dataclass(frozen=True, slots=True)
class Crossed:
    """What came out.

    Attributes:
        predictions: One table a method, all held-out worlds, ordered by world and in the order of the diagnosis.
        trained_on: Names of the training worlds, by the family that was left out.
        unmeasured: Causes that an ablation cannot measure, by the name of the ablation.
    """

    predictions: Mapping[str, pa.Table]
    trained_on: Mapping[str, tuple[str, ...]]
    unmeasured: Mapping[str, tuple[str, ...]]


def cross(
    training: Sequence[Examined],
    held_out: Sequence[Examined],
    causes: Sequence[Cause],
    settings: AttributionSettings,
    say: Say,
    *,
    seed: int = 0,
) -> Crossed:
    """Leave each family of the held-out worlds out in turn, and collect what every method says of its worlds.

    Args:
        training: Worlds that may be trained on.
        held_out: Worlds that are scored.
        causes: The causes whose evidence was collected.
        settings: When a cause is named.
        say: Takes one line of progress for people.
        seed: Of every classifier.

    Raises:
        SettingsError: Fewer than two worlds are left to train on when a family is left out.
    """
    found: dict[str, list[pa.Table]] = {}
    trained_on: dict[str, tuple[str, ...]] = {}
    lacking: dict[str, tuple[str, ...]] = {}
    for family in dict.fromkeys(world.findings.built.family for world in held_out):
        worlds = [world for world in held_out if world.findings.built.family == family]
        others = others_of(training, worlds)
        trained_on[family] = tuple(world.findings.built.name for world in others)
        say(f"{family} is left out; trained on {', '.join(trained_on[family])}")
        metas = _classifiers(others, seed)
        forest = train_cartographer([(world.findings, world.labels) for world in others], seed)
        for world in worlds:
            name, evidence = world.findings.built.name, world.findings.evidence
            said = {method: _attributed(name, evidence, causes, meta, settings) for method, meta in metas.items()}
            for method, less in evidence_without(world.findings.study, causes).items():
                said[method] = _attributed(name, less, causes, metas[CLASSIFIER], settings)
                lacking[method] = unmeasured(less)
            said[SHIPPED] = _attributed(name, evidence, causes, builtin_meta(), settings)
            attributions = attribute(evidence, causes, metas[CLASSIFIER], settings)
            said[PAPER_RULES] = paper_rules(name, attributions)
            said[REPAIRED_RULES] = repaired_rules(name, evidence.table)
            said[CARTOGRAPHY] = forest.predict(world.findings)
            said[LABEL_ISSUES] = label_issues(world.findings, seed)
            for method, table in said.items():
                found.setdefault(method, []).append(table)
            say(f"{name}: {len(said)} methods asked")
    whole = {
        method: pa.concat_tables(sorted(tables, key=lambda table: _name_of(table)), promote_options="default")
        for method, tables in found.items()
    }
    return Crossed(whole, trained_on, lacking)


def others_of(training: Sequence[Examined], held_out: Sequence[Examined]) -> list[Examined]:
    """The training worlds that share neither family nor seed with the held-out worlds.

    Raises:
        SettingsError: Fewer than two are left.
    """
    families = {world.findings.built.family for world in held_out}
    seeds = {world.findings.built.seed for world in held_out}
    others = [
        world
        for world in training
        if world.findings.built.family not in families and world.findings.built.seed not in seeds
    ]
    if len(others) < 2:
        raise SettingsError(
            f"Without {', '.join(sorted(families))} and its seeds {len(others)} training worlds are left, and two are "
            "needed; name more --train-seeds or more --families."
        )
    return others


def training_table(worlds: Sequence[Examined]) -> pa.Table:
    """The signals of all samples of these worlds whose label holds, rows ordered by world and id."""
    tables = [labelled_signals(world.findings, world.labels) for world in worlds]
    table = pa.concat_tables(tables, promote_options="default")
    return table.sort_by([("world", "ascending"), ("sample_id", "ascending")])


def _classifiers(worlds: Sequence[Examined], seed: int) -> dict[str, MetaClassifier]:
    table = training_table(worlds)
    metas = {CLASSIFIER: train_meta(table, seed)}
    for name, signals in FEWER_SIGNALS.items():
        metas[name] = train_meta(without_signals(table, signals), seed)
    return metas


def _attributed(
    world: str, evidence: Evidence, causes: Sequence[Cause], meta: MetaClassifier, settings: AttributionSettings
) -> pa.Table:
    return predictions_of(world, attribute(evidence, causes, meta, settings))


def _name_of(table: pa.Table) -> str:
    return str(pc.min(table["world"]).as_py() or "")
