"""Ways to spend one budget on a model with unlearned samples, without a diagnosis.

Everybody may spend what the prescription did: training tokens, documents fetched and judgements asked for. Who does not
diagnose cannot know what a sample needs, and spreads the budget over everything that is at risk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from ilp_service.consulting.consultation import Consultation
from ilp_service.consulting.plans import plan_one
from ilp_service.intervention.retention import retaining
from ilp_service.knowledge import Judge, KnowledgeSource
from ilp_service.remedies import Case, Change, Consult, Found, Mitigation, Price, merge
from ilp_service.settings import Settings
from ilp_service.study import Study
from ilp_service.training.course import changed
from ilp_service.training.recipe import Recipe

PRESCRIPTION = "prescription"
LONGER = "longer"
RESHUFFLE = "reshuffle"
RESAMPLE_FILTER = "resample_filter"
EVERYTHING = "everything"
RANDOM = "random"
TRUTH = "truth"

UNDIAGNOSED = (LONGER, RESHUFFLE, RESAMPLE_FILTER, EVERYTHING, RANDOM)
"""Arms that do not diagnose."""

AGAIN = "again"
"""The diagnosed training in another order: what it loses nobody has done."""

ARMS = (PRESCRIPTION, *UNDIAGNOSED, TRUTH, AGAIN)

RESAMPLED_BELOW = 0.5
"""Pass rate below which 're-shuffle and resample' draws a sample more often."""

RESAMPLED = 2.0
"""Times as often."""

STEPS = 16
"""In which remedies for everybody are weakened until they fit."""

LENGTHS = 2048
"""Lengths of training that are tried ..."""

LENGTH_STEP = 128
"""... in parts of the length of the diagnosed training."""

CONTRADICTION = "data_inconsistency"

Targets = Mapping[str, Sequence[str]]
"""Whom each mitigation treats, by its name; most severe first."""


@dataclass(frozen=True, slots=True)
class Purse:
    """What an arm may spend, or has spent.

    Attributes:
        tokens: All training tokens, fine-tuning and continued pre-training.
        documents: Documents received from knowledge sources.
        judgements: Pairs judged.
    """

    tokens: int
    documents: int
    judgements: int

    def holds(self, other: Purse) -> bool:
        """Whether it is enough for what another has spent."""
        return self.tokens >= other.tokens and self.documents >= other.documents and self.judgements >= other.judgements


@dataclass(frozen=True)
class Patient:
    """A diagnosed model whose samples at risk are to be treated.

    Attributes:
        recipe: How it was trained.
        study: What was measured; every sample at risk is among its unlearned ones.
        evidence: The evidence on them.
        attributions: What they were attributed to.
        mitigations: Remedies that are loaded.
        sources: Knowledge sources that are loaded.
        judges: Judges that are loaded.
        settings: How strong a remedy is, which sources and which judge are asked.
    """

    recipe: Recipe
    study: Study
    evidence: pa.Table
    attributions: pa.Table
    mitigations: Sequence[Mitigation]
    sources: Sequence[KnowledgeSource]
    judges: Sequence[Judge]
    settings: Settings
    _texts: dict[str, int] = field(default_factory=dict)

    @cached_property
    def rates(self) -> dict[str, float]:
        """Pass rate of every sample, 0-1, by id."""
        names = ("sample_id", "p_correct")
        return dict(zip(*(self.study.evaluation[name].to_pylist() for name in names), strict=True))

    @cached_property
    def at_risk(self) -> tuple[str, ...]:
        """Ids of the samples at risk, lowest pass rate first, ties by id."""
        return tuple(sorted(self.study.unlearned, key=lambda key: (self.rates[key], key)))

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Tokens of every training row, by the id of its sample."""
        return {row.sample_id: len(row.input_ids) for row in self.recipe.encode(self.recipe.samples)}

    def tokens(self, change: Change) -> int:
        """All training tokens under a change.

        General text is counted by its share; what is drawn by resampling is as long as the rest on average.
        """
        recipe = self.recipe
        subsets = {sample.sample_id: sample.subset for sample in recipe.samples}
        # Order does not change a number of exposures.
        course = changed(
            recipe.course(recipe.loop.seed),
            Change(removed=change.removed, exposures=change.exposures),
            subsets=subsets,
            step_rows=recipe.loop.batch_size * recipe.loop.accumulation,
            seed=0,
        )
        read = sum(self.lengths[key] * count for key, count in course.exposures.items())
        if change.documents:
            told = change.document_passes * sum(self._document(one.text) for one in change.documents)
            read += round(told / (1 - (change.general_share or 0.0)))
        return read

    def _document(self, text: str) -> int:
        if text not in self._texts:
            # The end of the document is a token as well.
            whole = len(self.recipe.tokenizer(text)["input_ids"]) + 1
            self._texts[text] = min(whole, self.recipe.continued.max_length)
        return self._texts[text]


@dataclass(frozen=True, slots=True)
class Treatment:
    """What one arm does, and what it takes.

    Attributes:
        arm: Its name.
        change: What is otherwise than in the diagnosed training.
        spent: Expected tokens, documents received and pairs judged.
    """

    arm: str
    change: Change
    spent: Purse

    @property
    def price(self) -> Price:
        """What it asked for, as arms are told it."""
        return Price(0, self.spent.documents, self.spent.judgements)


def treatment(arm: str, patient: Patient, purse: Purse, seed: int) -> Treatment:
    """What an arm without a diagnosis does with a purse.

    Args:
        arm: One of :data:`UNDIAGNOSED`.
        patient: The model; its attributions are not looked at.
        purse: What may be spent.
        seed: Of the remedies at random.
    """
    if arm in (LONGER, RESHUFFLE):
        return _filled(arm, patient, Change(shuffled=arm == RESHUFFLE), purse)
    planner = _Planner(patient)
    if arm == RESAMPLE_FILTER:
        judged = {planner.judging: patient.at_risk}
        change, spent = planner.plan(judged, judged=planner.affordable(judged, purse))
        change = replace(change, shuffled=True)
        weak = [key for key, rate in patient.rates.items() if rate < RESAMPLED_BELOW]
        weak.sort(key=lambda key: (patient.rates[key], key))

        def again(count: int) -> Change:
            return replace(change, exposures=dict.fromkeys(weak[:count], RESAMPLED))

        change = again(_most(len(weak), lambda count: patient.tokens(again(count)) <= purse.tokens))
        return _filled(arm, patient, change, purse, spent.judgements)
    if arm == EVERYTHING:
        return planner.fitted(arm, {one.name: patient.at_risk for one in patient.mitigations}, purse)
    if arm == RANDOM:
        return planner.fitted(arm, at_random(patient, seed), purse)
    raise ValueError(f"{arm!r} is no arm without a diagnosis; expected one of {', '.join(UNDIAGNOSED)}.")


def by_cause(patient: Patient, causes: Mapping[str, str]) -> Targets:
    """For every remedy the samples at risk that have one of its causes.

    Args:
        patient: The model.
        causes: Cause of each sample, by id; a sample without one is treated by nobody.
    """
    return {one.name: [key for key in patient.at_risk if causes.get(key) in one.causes] for one in patient.mitigations}


def treated(arm: str, patient: Patient, targets: Targets, purse: Purse | None = None) -> Treatment:
    """The merged remedies for given targets: in full strength, or as strong as a purse allows."""
    planner = _Planner(patient)
    return Treatment(arm, *planner.plan(targets)) if purse is None else planner.fitted(arm, targets, purse)


def at_random(patient: Patient, seed: int) -> Targets:
    """One remedy for every sample at risk, drawn without looking at it."""
    drawn = np.random.default_rng([seed, 31]).integers(len(patient.mitigations), size=len(patient.at_risk))
    return {
        one.name: [key for key, place in zip(patient.at_risk, drawn, strict=True) if place == number]
        for number, one in enumerate(patient.mitigations)
    }


def _filled(arm: str, patient: Patient, change: Change, purse: Purse, judgements: int = 0) -> Treatment:
    """The change with so many more exposures of every sample that the tokens are spent."""
    kept = [sample.sample_id for sample in patient.recipe.samples if sample.sample_id not in change.removed]

    order = np.random.default_rng([len(kept), 32]).permutation(len(kept))

    def longer(step: int, count: int = 0) -> Change:
        # Exposures are whole numbers, so that a step means one more for many at once: some go a step ahead.
        ahead = {kept[place] for place in order[:count]}
        times = {key: 1 + (step + (key in ahead)) / LENGTH_STEP for key in kept}
        return replace(change, exposures={key: times[key] * change.exposures.get(key, 1.0) for key in kept})

    def fits(step: int, count: int = 0) -> bool:
        return patient.tokens(longer(step, count)) <= purse.tokens

    step = _most(LENGTHS, fits)
    found = longer(step, _most(len(kept), lambda count: fits(step, count)))
    return Treatment(arm, found, Purse(patient.tokens(found), 0, judgements))


class _Planner:
    """Plans of all remedies for given targets, merged, and what they take."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._consult = Consultation(patient.sources, patient.judges, patient.settings, patient.study)
        self.judging = next(one.name for one in patient.mitigations if CONTRADICTION in one.causes)

    def fitted(self, arm: str, targets: Targets, purse: Purse) -> Treatment:
        """The merged remedies, as strong and for as many samples as a purse allows.

        Documents an entity and further exposures are turned down together, to one document and hardly any further
        exposure; then first documents, then exposures are turned up again by themselves, until the purse is spent. If
        even the weakest is too much, the samples with the highest pass rate are left out: of the remedies that ask for
        documents alone, while what the others do is turned up as far as the tokens allow; of all, where tokens are too
        few. Pairs are judged for the most severe samples first. What is left of the tokens keeps what is learned, as in
        a prescription.
        """
        change, spent = self._fitted(targets, purse)
        patient = self._patient
        kept = [sample.sample_id for sample in patient.recipe.samples]
        factor = patient.settings.intervention.retention_factor
        longer = retaining(change, kept, factor, lambda one: patient.tokens(one) <= purse.tokens)
        return Treatment(arm, longer, replace(spent, tokens=patient.tokens(longer)))

    def _fitted(self, targets: Targets, purse: Purse) -> tuple[Change, Purse]:
        judged = self.affordable(targets, purse)

        def found(
            documents: int, exposures: int, documented: int | None = None, exposed: int | None = None
        ) -> tuple[Change, Purse]:
            strength = (documents / STEPS, exposures / STEPS)
            return self.plan(targets, strength, judged=judged, documented=documented, exposed=exposed)

        both = _most(STEPS, lambda step: purse.holds(found(step, step)[1]))
        if both:
            documents = _most(STEPS, lambda step: step <= both or purse.holds(found(step, both)[1]))
            exposures = _most(STEPS, lambda step: step <= both or purse.holds(found(documents, step)[1]))
            return found(documents, exposures)
        most = max(map(len, targets.values()), default=0)
        count = _most(most, lambda count: purse.holds(found(1, 1, count, count)[1]))
        if not purse.holds(found(1, 1, count)[1]):
            return found(1, 1, count, count)
        return found(1, _most(STEPS, lambda step: step <= 1 or purse.holds(found(1, step, count)[1])), count)

    def affordable(self, targets: Targets, purse: Purse) -> int:
        """For how many samples contradictions can be judged."""
        alone = {self.judging: targets.get(self.judging, ())}
        return _most(
            len(alone[self.judging]), lambda count: self.plan(alone, judged=count)[1].judgements <= purse.judgements
        )

    def plan(
        self,
        targets: Targets,
        strength: tuple[float, float] = (1.0, 1.0),
        *,
        judged: int | None = None,
        documented: int | None = None,
        exposed: int | None = None,
    ) -> tuple[Change, Purse]:
        """What all remedies come to.

        Args:
            targets: Whom they treat.
            strength: Of documents and of exposures, above 0 and up to 1.
            judged: For how many samples contradictions are judged; ``None``: for all.
            documented: How many samples the other remedies treat that ask for documents; ``None``: all.
            exposed: How many the rest treats; ``None``: all.
        """
        patient = self._patient
        options = _weakened(patient.settings, strength).mitigation_options()
        counted = _Counted(self._consult)
        plans = []
        for one in patient.mitigations:
            count = judged if one.name == self.judging else documented if _asks_for_documents(one) else exposed
            keys = tuple(targets.get(one.name, ()))[:count]
            case = Case(patient.study, patient.evidence, patient.attributions, keys, options, counted)
            plans.append(plan_one(one, case))
        change = merge(plan.change for plan in plans)
        judgements = sum(plan.price.judgements for plan in plans)
        return change, Purse(patient.tokens(change), counted.documents_received, judgements)


class _Counted:
    """A consultation, and how many documents came of it in one plan; what two remedies ask alike comes once."""

    def __init__(self, consult: Consult) -> None:
        self._consult = consult
        self._received: dict[tuple[str, int], int] = {}
        self.judge, self.entity, self.leaks = consult.judge, consult.entity, consult.leaks

    def documents(self, sample_ids: Sequence[str], limit: int) -> Found:
        """Documents about samples, counted."""
        found = self._consult.documents(sample_ids, limit)
        self._received.update({(key, limit): len(documents) for key, documents in found.documents.items()})
        return found

    @property
    def documents_received(self) -> int:
        """How many came in all."""
        return sum(self._received.values())


def _asks_for_documents(one: Mitigation) -> bool:
    return any(parameter.name == "mitigations.entity_documents" for parameter in one.parameters)


def _weakened(settings: Settings, strength: tuple[float, float]) -> Settings:
    """The settings with fewer documents an entity and fewer exposures."""
    part, (documents, exposures) = settings.mitigations, strength
    weaker = {
        "entity_documents": max(1, round(documents * part.entity_documents)),
        "exposure_factor": 1 + exposures * (part.exposure_factor - 1),
    }
    return settings.model_copy(update={"mitigations": part.model_copy(update=weaker)})


def _most(count: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``count`` that fits; what is larger than one that does not, does not either."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
