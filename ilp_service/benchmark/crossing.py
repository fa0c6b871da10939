"""Every method on worlds of a family, and of seeds, that its training has not seen.

Each family is left out in turn: the classifier is trained on the training worlds of the other families, less those
that share a seed with a held-out world, and attributes the evidence of the held-out worlds as a diagnosis does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ilp_service.attribution.attribute import attribute
from ilp_service.attribution.builtin import builtin_meta
from ilp_service.attribution.meta import train_meta
from ilp_service.benchmark.ablations import (
    FEWER_SIGNALS,
    evidence_unseen,
    evidence_without,
    unmeasured,
    without_signals,
)
from ilp_service.benchmark.baselines import paper_rules, predictions_of, repaired_rules
from ilp_service.benchmark.cartography import train_cartographer
from ilp_service.benchmark.label_quality import installed, label_issues
from ilp_service.benchmark.left_out import left_out
from ilp_service.benchmark.signals import Findings, labelled_signals
from ilp_service.errors import SettingsError
from ilp_service.plugin import Cause
from ilp_service.settings import Settings

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
class Fold:
    """What came out when one family was left out.

    Attributes:
        trained_on: Names of the training worlds.
        predictions: One table a method, worlds in the order of their names, samples in that of the diagnosis.
        unmeasured: Causes that an ablation cannot measure, by the name of the ablation.
        unknown: What became of the samples of a cause that training and diagnosis do not know
            (:func:`ilp_service.benchmark.left_out.left_out`).
    """

    trained_on: tuple[str, ...]
    predictions: Mapping[str, pa.Table]
    unmeasured: Mapping[str, tuple[str, ...]]
    unknown: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Crossed:
    """What came out when each family was left out in turn.

    Attributes:
        folds: By the family that was left out.
        predictions: One table a method, all held-out worlds.
        unmeasured: Causes that an ablation cannot measure, by the name of the ablation.
    """

    folds: Mapping[str, Fold]
    predictions: Mapping[str, pa.Table]
    unmeasured: Mapping[str, tuple[str, ...]]


Keep = Callable[[str, Sequence[Examined], Sequence[Examined], Callable[[], Fold]], Fold]
"""Given the family, what it was trained on and what is held out: the fold, computed or kept from before."""


def cross(
    training: Sequence[Examined],
    held_out: Sequence[Examined],
    causes: Sequence[Cause],
    settings: Settings,
    say: Say,
    *,
    seed: int = 0,
    keep: Keep | None = None,
) -> Crossed:
    """Leave each family of the held-out worlds out in turn, and collect what every method says of its worlds.

    Args:
        training: Worlds that may be trained on.
        held_out: Worlds that are scored.
        causes: The causes whose evidence was collected.
        settings: ``attribution`` decides when a cause is named.
        say: Takes one line of progress for people.
        seed: Of every classifier.
        keep: Keeps folds from run to run.

    Raises:
        SettingsError: Fewer than two worlds are left to train on when a family is left out.
    """
    folds: dict[str, Fold] = {}
    for family in sorted({world.findings.built.family for world in held_out}):
        worlds = sorted((w for w in held_out if w.findings.built.family == family), key=_name)
        others = sorted(others_of(training, worlds), key=_name)
        say(f"{family} is left out; trained on {', '.join(map(_name, others))}")

        def compute(others: list[Examined] = others, worlds: list[Examined] = worlds) -> Fold:
            return cross_one(others, worlds, causes, settings, say, seed=seed)

        folds[family] = compute() if keep is None else keep(family, others, worlds, compute)
    methods = dict.fromkeys(method for fold in folds.values() for method in fold.predictions)
    predictions = {
        method: pa.concat_tables(
            [fold.predictions[method] for fold in folds.values()], promote_options="default"
        ).replace_schema_metadata()
        for method in methods
    }
    unmeasured = {name: lacking for fold in folds.values() for name, lacking in fold.unmeasured.items()}
    return Crossed(folds, predictions, unmeasured)


def cross_one(
    others: Sequence[Examined],
    worlds: Sequence[Examined],
    causes: Sequence[Cause],
    settings: Settings,
    say: Say,
    *,
    seed: int = 0,
) -> Fold:
    """Train every method on some worlds and ask it about others.

    Args:
        others: Worlds to train on.
        worlds: Worlds to ask about.
        causes: The causes whose evidence was collected.
        settings: ``attribution`` decides when a cause is named.
        say: Takes one line of progress for people.
        seed: Of every classifier.
    """
    found: dict[str, list[pa.Table]] = {}
    lacking: dict[str, tuple[str, ...]] = {}
    table = training_table(others)
    metas = {CLASSIFIER: train_meta(table, seed)}
    for name, signals in FEWER_SIGNALS.items():
        metas[name] = train_meta(without_signals(table, signals), seed)
    forest = train_cartographer([(world.findings, world.labels) for world in others], seed)
    for world in worlds:
        name, evidence = _name(world), world.findings.evidence
        attributions = {
            method: attribute(
                evidence_unseen(evidence, FEWER_SIGNALS.get(method, ()), causes), causes, meta, settings.attribution
            )
            for method, meta in metas.items()
        }
        attributions[SHIPPED] = attribute(evidence, causes, builtin_meta(), settings.attribution)
        for method, less in evidence_without(world.findings.study, causes).items():
            attributions[method] = attribute(less, causes, metas[CLASSIFIER], settings.attribution)
            lacking[method] = unmeasured(less)
        said = {method: predictions_of(name, table) for method, table in attributions.items()}
        said[PAPER_RULES] = paper_rules(name, attributions[CLASSIFIER])
        said[REPAIRED_RULES] = repaired_rules(name, evidence.table)
        said[CARTOGRAPHY] = forest.predict(world.findings)
        if installed():
            said[LABEL_ISSUES] = label_issues(world.findings, seed)
        else:
            say("cleanlab is not installed, so its baseline is left out; pip install 'ilp-service[bench]' adds it")
        for method, predictions in said.items():
            found.setdefault(method, []).append(predictions)
        say(f"{name}: {len(said)} methods asked")
    pairs = [(world.findings.evidence, world.labels) for world in worlds]
    unknown = left_out(table, pairs, causes, settings, seed)
    whole = {method: pa.concat_tables(tables, promote_options="default") for method, tables in found.items()}
    return Fold(tuple(map(_name, others)), whole, lacking, unknown)


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


def _name(world: Examined) -> str:
    return world.findings.built.name
