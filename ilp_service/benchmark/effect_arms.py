"""The arms of the experiment on a world: five remedies chosen blind, their ablations, and placebos of equal compute."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ilp_service.benchmark.headline import Patient
from ilp_service.consulting.consultation import Consultation
from ilp_service.consulting.plans import plan_one, targets_of
from ilp_service.intervention.arms import Arm
from ilp_service.remedies import Case, Change, Mitigation, Plan
from ilp_service.settings import Settings

OTHER_ORDER = "placebo_other_order"
GENERAL_TEXT = "placebo_general_text"
OTHERS_MORE_OFTEN = "placebo_others_more_often"

ABLATIONS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "deletion": ("conflict_bucketing", {"contradictions": "deletion"}),
    "bucketing": ("conflict_bucketing", {"contradictions": "bucketing"}),
    "global_epochs": ("epoch_increment", {"epochs": "global"}),
}
"""Mitigation and settings of each ablation."""


def remedy_arms(patient: Patient) -> tuple[Arm, ...]:
    """One arm a remedy, treating the unlearned samples that were attributed to its causes.

    Args:
        patient: The model; its unlearned samples are those to be treated.
    """
    arms = [
        _arm(one.name, one.name, patient, patient.settings, targets_of(one, patient.attributions))
        for one in patient.mitigations
    ]
    return tuple(arm for arm in arms if not arm.change.is_empty)


def crossed_arms(patient: Patient) -> tuple[Arm, ...]:
    """One arm a remedy, treating every unlearned sample whatever it was attributed to.

    Only so can be told what a remedy does for samples of another cause: in :func:`remedy_arms` they are not treated.
    """
    everybody = tuple(patient.attributions["sample_id"].to_pylist())
    arms = [_arm(one.name, one.name, patient, patient.settings, everybody) for one in patient.mitigations]
    return tuple(arm for arm in arms if not arm.change.is_empty)


def ablation_arms(patient: Patient) -> tuple[Arm, ...]:
    """Deletion alone, bucketing alone, and passes over all data instead of further exposures of the targets."""
    arms = []
    for name, (mitigation, values) in ABLATIONS.items():
        part = patient.settings.mitigations.model_copy(update=dict(values))
        settings = patient.settings.model_copy(update={"mitigations": part})
        one = _named(patient, mitigation)
        arms.append(_arm(name, mitigation, patient, settings, targets_of(one, patient.attributions)))
    return tuple(arm for arm in arms if not arm.change.is_empty)


def placebo_arms(patient: Patient, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    """As much compute, and nothing that treats: another order, general text alone, other samples more often."""
    placebos = [Arm(OTHER_ORDER, "placebo", Change())]
    reading = [patient.tokens(arm.change) - patient.tokens(Change()) for arm in arms if arm.change.documents]
    if reading:
        change = Change(general_share=1.0)
        placebos.append(Arm(GENERAL_TEXT, "placebo", change, general_tokens=max(reading)))
    shown = [arm.change.exposures for arm in arms if arm.change.exposures]
    if shown:
        change = Change(exposures=_others(patient, max(shown, key=len)))
        placebos.append(Arm(OTHERS_MORE_OFTEN, "placebo", change))
    return tuple(placebos)


def _named(patient: Patient, mitigation: str) -> Mitigation:
    return next(one for one in patient.mitigations if one.name == mitigation)


def _arm(name: str, mitigation: str, patient: Patient, settings: Settings, targets: tuple[str, ...]) -> Arm:
    one = _named(patient, mitigation)
    consult = Consultation(patient.sources, patient.judges, settings, patient.study)
    options = settings.mitigation_options()
    plan = plan_one(one, Case(patient.study, patient.evidence, patient.attributions, targets, options, consult))
    return Arm(name, "remedy", plan.change, _treats(patient, plan), _placebo_of(plan.change), price=plan.price)


def _treats(patient: Patient, plan: Plan) -> dict[str, tuple[str, ...]]:
    names = ("sample_id", "cause")
    causes = dict(zip(*(patient.attributions[name].to_pylist() for name in names), strict=True))
    found: dict[str, list[str]] = {}
    for key in plan.treats:
        found.setdefault(causes[key], []).append(key)
    return {cause: tuple(keys) for cause, keys in sorted(found.items())}


def _placebo_of(change: Change) -> str:
    if change.documents:
        return GENERAL_TEXT
    return OTHERS_MORE_OFTEN if change.exposures else OTHER_ORDER


def _others(patient: Patient, treated: Mapping[str, float]) -> dict[str, float]:
    """As many further exposures of samples that were not treated, drawn at random."""
    counts = patient.recipe.course(patient.recipe.loop.seed).exposures
    wanted = sum(round(counts[key] * (factor - 1)) for key, factor in treated.items() if key in counts)
    others = sorted(counts.keys() - treated.keys())
    order = np.random.default_rng([len(others), 33]).permutation(len(others))
    chosen: dict[str, float] = {}
    factor = max(treated.values())
    for place in order:
        if wanted <= 0:
            break
        chosen[others[place]] = factor
        wanted -= round(counts[others[place]] * (factor - 1))
    return chosen
