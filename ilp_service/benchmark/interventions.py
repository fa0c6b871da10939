"""Remedies as controlled experiments on planted worlds: chosen blind, trained, and measured against their placebos.

Worlds, diagnoses and every arm under every seed are kept under what they were made from, so that a run that was
stopped goes on at the next arm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.attribution.rules import UNATTRIBUTED
from ilp_service.benchmark.blind import BlindWorld
from ilp_service.benchmark.effect_arms import OTHER_ORDER, ablation_arms, crossed_arms, placebo_arms, remedy_arms
from ilp_service.benchmark.finetuning import load_model
from ilp_service.benchmark.headline import (
    AGAIN,
    PRESCRIPTION,
    TRUTH,
    UNDIAGNOSED,
    Patient,
    Purse,
    Treatment,
    treatment,
)
from ilp_service.benchmark.intervention_figures import (
    REMEDY_OF,
    Rows,
    outcome,
    over_worlds,
    paper_figures,
    unlearned_rates,
)
from ilp_service.benchmark.plants import CAUSES, FORGOTTEN
from ilp_service.benchmark.world_measure import WorldMeasure
from ilp_service.consulting.consultation import Consultation
from ilp_service.intervention.arms import Arm, ArmResult, blanked
from ilp_service.intervention.choosing import Budget
from ilp_service.intervention.effectiveness import Effectiveness, effectiveness_from
from ilp_service.intervention.effects import Cell, Effects, effects_of
from ilp_service.intervention.experiment import run_experiment
from ilp_service.intervention.prescribed import Prescription
from ilp_service.intervention.prescription import prescribe
from ilp_service.intervention.runs import questions_of
from ilp_service.intervention.verdicts import agreement
from ilp_service.remedies import Change, Price
from ilp_service.stages import digest_of, stage
from ilp_service.tables import write_table

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Treated:
    """A world in which arms are run.

    Attributes:
        blind: The world, diagnosed.
        rows: Its rows, by what is to become of them.
        original: What was measured of the planted model.
        loss: Its held-out loss, nats a token.
        folder: Where arms are kept.
    """

    blind: BlindWorld
    rows: Rows
    original: pa.Table
    loss: float
    folder: Path

    def run(self, arms: Sequence[Arm], seeds: Sequence[int], say: Say, progress: Progress | None) -> list[ArmResult]:
        """Results of all arms under all seeds."""
        recipe = self.blind.sick.recipe
        report = None
        if progress is not None:
            told = progress

            def report(done: int, planned: int, _loss: float) -> None:
                told("training", done, planned)

        measure = WorldMeasure(recipe, self.blind.world)
        return run_experiment(recipe, arms, seeds, measure, self.folder, say, progress=report)


def treated_world(blind: BlindWorld, truth: pa.Table, out: Path) -> Treated:
    """A diagnosed world, its planted model measured as every arm will be."""
    folder = out / "interventions" / blind.built.name
    measure = WorldMeasure(blind.sick.recipe, blind.world)
    place = folder / "original"
    with stage(place, digest_of(measure.digest, (blind.built.model.parent / "digest").read_text())) as empty:
        if empty is not None:
            table, loss = measure(load_model(blind.built.model))
            write_table(table, empty / "measured.parquet")
            (empty / "result.json").write_text(json.dumps({"general_loss": loss}))
    loss = json.loads((place / "result.json").read_text())["general_loss"]
    return Treated(blind, Rows.of(truth), pq.read_table(place / "measured.parquet"), loss, folder)


def crossed_effects_in(treated: Treated, seeds: Sequence[int], say: Say, progress: Progress | None = None) -> Effects:
    """What each remedy does for samples of every cause, all unlearned samples being treated.

    Wrong twins do not count: that a remedy loses them is no damage, and that it teaches them no good.
    """
    patient = treated.blind.sick
    remedies = crossed_arms(patient)
    arms = (*remedies, *placebo_arms(patient, remedies))
    wrong = [key for key, wanted in zip(treated.rows.ids, treated.rows.wanted, strict=True) if not wanted]
    results = treated.run(arms, seeds, say, progress)
    return _effects(treated, arms, [replace(one, measured=blanked(one.measured, wrong)) for one in results])


def _effects(treated: Treated, arms: Sequence[Arm], results: Sequence[ArmResult]) -> Effects:
    patient = treated.blind.sick
    names = {arm.name for arm in arms}
    return effects_of(
        treated.original,
        patient.attributions,
        arms,
        [result for result in results if result.arm in names],
        seed=treated.blind.built.seed,
        questions=questions_of(patient.recipe.samples),
        original_loss=treated.loss,
        prices=patient.settings.intervention,
    )


def effects_in(
    treated: Treated, seeds: Sequence[int], say: Say, *, progress: Progress | None = None
) -> tuple[Effects, dict[str, Any]]:
    """The five remedies, their ablations and placebos in a world.

    Returns:
        The effects of the remedies; and, ready for JSON, the figures of the world.
    """
    patient, blind = treated.blind.sick, treated.blind
    remedies, less = remedy_arms(patient), ablation_arms(patient)
    placebos = placebo_arms(patient, remedies)
    results = treated.run((*remedies, *less, *placebos), seeds, say, progress)
    found = _effects(treated, (*remedies, *placebos), results)
    names = ("sample_id", "cause")
    attributed = dict(zip(*(patient.attributions[name].to_pylist() for name in names), strict=True))
    figures: dict[str, Any] = {
        "world": blind.built.name,
        "trained_on": list(blind.trained_on),
        "own_cause": {
            cause: cell.recovery.public()
            for cause, remedy in REMEDY_OF.items()
            if (cell := found.cell(remedy, cause)) is not None
        },
        **found.public(),
        "ablations": _effects(treated, (*less, *placebos), results).public() if less else {},
        "agreement": agreement(found.verdicts, blind.labels).public(),
        "paper": paper_figures(treated.rows, treated.original, results, attributed),
    }
    return found, figures


def effectiveness_of(worlds: Mapping[str, Effects]) -> Effectiveness:
    """What remedies are to be expected to do, from crossed experiments on training worlds.

    What was only learned by heart is worth less than what is known in any form of asking: an effect is the mean of
    those on the trained prompt, on paraphrases and on statements to be completed, as far as they were measured.

    Args:
        worlds: Effects (:func:`crossed_effects_in`) by the name of the world.
    """
    effects: dict[str, dict[str, list[float]]] = {}
    damage: dict[str, dict[str, float]] = {}
    remedies = sorted({cell.arm for one in worlds.values() for cell in one.cells})
    for remedy in remedies:
        cells = [cell for one in worlds.values() for cell in one.cells if cell.arm == remedy]
        for cause in sorted({cell.cause for cell in cells} & {*CAUSES, UNATTRIBUTED}):
            forms = [_in_all_forms(cell) for cell in cells if cell.cause == cause]
            known = [form for form in forms if form is not None]
            summary = over_worlds([value for value, _, _ in known])
            if summary is None:
                continue
            low, high = summary["low"], summary["high"]
            if low is None:
                _, low, high = known[0]
            effects.setdefault(remedy, {})[cause] = [summary["value"], low, high]
        blanket = remedy == REMEDY_OF[FORGOTTEN]
        summary = over_worlds([_lost(one, remedy, blanket) for one in worlds.values()])
        if summary is not None:
            damage[remedy] = {"lost_share" if blanket else "lost_per_treated": max(0.0, summary["value"])}
    told = (
        f"Interventions on the training worlds {', '.join(sorted(worlds))}, every remedy treating every unlearned "
        "sample: share of the samples attributed to a cause that are learned beyond the matching placebo, mean of "
        "trained prompt, paraphrase and cloze form, median over worlds. Lost: learned samples lost beyond the same "
        "training in another order."
    )
    return effectiveness_from({"provenance": told, "unmeasured": 0.5, "effects": effects, "damage": damage})


def _lost(effects: Effects, remedy: str, blanket: bool) -> float | None:
    """Learned samples lost beyond the plain training in another order, as a share of them or for each one treated.

    The placebo of equal compute is no measure of it: one that shows learned samples more often loses fewer of them.
    """
    shares = {arm.arm: arm.damage.share for arm in effects.arms}
    arm = next((one for one in effects.arms if one.arm == remedy), None)
    share, plain = shares.get(remedy), shares.get(OTHER_ORDER)
    if arm is None or share is None or plain is None:
        return None
    return (share - plain) * (1 if blanket else arm.damage.samples / max(1, arm.treated))


def _in_all_forms(cell: Cell) -> tuple[float, float, float] | None:
    """Effect and interval, means over the forms of asking; ``None`` if too few samples were treated to tell."""
    forms = (cell.recovery, cell.paraphrase.estimate, cell.cloze.estimate)
    known = [
        (form.effect, form.low, form.high)
        for form in forms
        if form.effect is not None and form.low is not None and form.high is not None
    ]
    if not known:
        return None
    value, low, high = (float(np.mean(column)) for column in zip(*known, strict=True))
    return value, min(low, value), max(high, value)


def headline_in(
    treated: Treated,
    truth: Mapping[str, str],
    effectiveness: Effectiveness,
    seeds: Sequence[int],
    budgets: Sequence[float],
    say: Say,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """All arms of the headline in a world, at every budget; the curves beside the budget of 1 under one seed alone.

    Args:
        treated: The world.
        truth: Planted cause of each sample, for the arm that knows it.
        effectiveness: What remedies are expected to do, from training worlds.
        seeds: Of the fine-tunings.
        budgets: In parts of what the prescription takes. It takes as many documents and judgements as the diagnosed
            need, and as many tokens as it wants.
        say: Takes one line of progress for people.
        progress: Told how many of how many steps are done.
    """
    patient = treated.blind.risky
    sick = set(treated.blind.sick.study.unlearned)
    needed = _needed(patient, effectiveness, sick)
    own = _prescribed(patient, patient.attributions, effectiveness, needed, sick)
    spent = _spent(patient, own)
    say(f"the prescription takes {spent}")
    again = treated.run([Arm(OTHER_ORDER, "placebo", Change())], seeds, say, progress)
    # What another order of the data loses nobody has done.
    lost = {one.seed: unlearned_rates(treated.rows, one.measured, treated.original)["damage"] for one in again}
    points = [_point(treated, AGAIN, 1.0, again, lost)]
    for budget in sorted(budgets, key=lambda part: part != 1.0):
        some = seeds if budget == 1.0 else seeds[:1]
        arms = _headline_arms(patient, truth, effectiveness, own, spent, budget, sick, treated.blind.built.seed)
        results = treated.run([_arm(one, budget) for one in arms], some, say, progress)
        for one in arms:
            of_arm = [result for result in results if result.arm == _name(one.arm, budget)]
            points.append(_point(treated, one.arm, budget, of_arm, lost))
    return {
        "world": treated.blind.built.name,
        "trained_on": list(treated.blind.trained_on),
        "prescription": {
            "price": {"tokens": spent.tokens, "documents": spent.documents, "judgements": spent.judgements},
            "treats": {name: len(keys) for name, keys in own.treats.items()},
            "expected_learned": own.expected.learned,
        },
        "original": unlearned_rates(treated.rows, treated.original, treated.original)
        | {"general_loss": treated.loss, "tokens": patient.tokens(Change())},
        "points": points,
    }


def _point(
    treated: Treated, arm: str, budget: float, results: Sequence[ArmResult], lost: Mapping[int, float]
) -> dict[str, Any]:
    """One arm at one budget, a row a seed."""
    seeds = []
    for result in results:
        seen = outcome(treated.rows, treated.original, result, treated.blind.risky.settings.intervention)
        if "damage" in seen:
            seen["damage_beyond_placebo"] = seen["damage"] - lost[result.seed]
        seeds.append(seen)
    return {"arm": arm, "budget": budget, "seeds": seeds}


def _headline_arms(
    patient: Patient,
    truth: Mapping[str, str],
    effectiveness: Effectiveness,
    own: Prescription,
    spent: Purse,
    budget: float,
    sick: set[str],
    seed: int,
) -> list[Treatment]:
    """The arms at a budget: all of them may spend what the prescription does there, or a multiple of it."""
    caps = _times(own.price, budget)
    prescribed = own if budget >= 1 else _prescribed(patient, patient.attributions, effectiveness, caps, sick)
    purse = _spent(patient, prescribed)
    arms = [Treatment(PRESCRIPTION, prescribed.change, purse)]
    if budget > 1:
        more = spent.tokens - patient.tokens(Change())
        tokens = spent.tokens + round((budget - 1) * max(0, more))
        purse = Purse(tokens, round(budget * spent.documents), round(budget * spent.judgements))
        arms = []
    arms += [treatment(arm, patient, purse, seed) for arm in UNDIAGNOSED]
    if budget == 1:
        known = _prescribed(patient, told(patient.attributions, truth), effectiveness, caps, sick)
        arms.append(Treatment(TRUTH, known.change, _spent(patient, known)))
    return arms


def told(attributions: pa.Table, truth: Mapping[str, str]) -> pa.Table:
    """The attributions as they would be if the planted causes were known; what nobody planted has none."""
    ids = attributions["sample_id"].to_pylist()
    causes = [truth.get(key) for key in ids]
    made = attributions
    for name in attributions.column_names:
        values: list[Any] | None = None
        if name == "cause":
            values = [cause if cause in CAUSES else "unattributed" for cause in causes]
        elif name.startswith("p_"):
            own = name.removeprefix("p_")
            values = [float(cause == own or (own == "unattributed" and cause not in CAUSES)) for cause in causes]
        if values is not None:
            place = made.column_names.index(name)
            field = made.schema.field(name)
            made = made.set_column(place, field, pa.array(values, field.type))
    return made


def _prescribed(
    patient: Patient, attributions: pa.Table, effectiveness: Effectiveness, budget: Budget, sick: set[str]
) -> Prescription:
    consult = Consultation(patient.sources, patient.judges, patient.settings, patient.study)
    return prescribe(
        patient.mitigations,
        patient.study,
        patient.evidence,
        attributions,
        consult,
        patient.settings,
        effectiveness=effectiveness,
        budget=budget,
        unlearned=sick,
    )


def _needed(patient: Patient, effectiveness: Effectiveness, sick: set[str]) -> Budget:
    """Documents and judgements that the diagnosed need: each remedy for the samples that have its own cause."""
    own = effectiveness.on_own_causes({one.name: one.causes for one in patient.mitigations})
    price = _prescribed(patient, patient.attributions, own, Budget(), sick).price
    return Budget(documents=price.documents, judgements=price.judgements)


def _spent(patient: Patient, prescription: Prescription) -> Purse:
    price = prescription.price
    return Purse(patient.tokens(prescription.change), price.documents, price.judgements)


def _times(price: Price, factor: float) -> Budget:
    return Budget(factor * price.training_tokens, factor * price.documents, factor * price.judgements)


def _name(arm: str, budget: float) -> str:
    return f"headline_{arm}_{budget:g}"


def _arm(treatment: Treatment, budget: float) -> Arm:
    return Arm(_name(treatment.arm, budget), "reference", treatment.change, price=treatment.price)
