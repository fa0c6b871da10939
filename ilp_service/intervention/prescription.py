"""A decision under a budget: which remedy for which sample, from attribution, measured effects and prices.

A remedy is worth to a sample how unlearned it is now, times the chance that the remedy mends what is wrong with it
(probability of each cause times the remedy's effect on that cause, beyond its placebo), minus the learned samples that
it is expected to lose. What gains most for its share of the budget is taken first. Remedies for all data are among the
candidates like any other: where everything for everybody pays, it is prescribed. What is left of the budget keeps what
is learned (:mod:`ilp_service.intervention.retention`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.changes import Change, ConflictingStatement, TeachingDocument, merge
from ilp_service.consulting.plans import plan_one
from ilp_service.intervention.candidates import (
    LEAST_GAIN,
    Candidates,
    Counted,
    Group,
    Prices,
    candidates_of,
    content_of,
)
from ilp_service.intervention.choosing import Budget, Chosen, Cost, Gains, Shared, Treatment, choose
from ilp_service.intervention.effectiveness import Effectiveness
from ilp_service.intervention.prescribed import Expected, Item, Prescription
from ilp_service.intervention.retention import retained, retaining
from ilp_service.remedies import Case, Consult, Mitigation, Plan, Price
from ilp_service.settings import Settings
from ilp_service.study import Study

Array = npt.NDArray[np.float64]

_ROUNDS = 6
"""How often it is chosen again once documents have come; the last time nothing new is asked for."""
_WORD = re.compile(r"\w+")


def prescribe(
    mitigations: Sequence[Mitigation],
    study: Study,
    evidence: pa.Table,
    attributions: pa.Table,
    consult: Consult,
    settings: Settings,
    *,
    effectiveness: Effectiveness,
    budget: Budget | None = None,
    unlearned: Collection[str] | None = None,
) -> Prescription:
    """Choose remedies for samples, within a budget; nothing is trained.

    Only documents and judgements of what is chosen are asked for, and never more than the budget has. What came is
    paid, wanted or not: when it turns out that a plan is dearer than thought, other samples give way.

    Args:
        mitigations: Remedies that may be used.
        study: What was measured, of samples at risk as well.
        evidence: The evidence table.
        attributions: One row for every sample that may be treated, with its ``p_<cause>``.
        consult: Whom mitigations may ask.
        settings: Prices, options of mitigations, threshold of detection.
        effectiveness: What each remedy is expected to do.
        budget: The caps; none unless given.
        unlearned: Ids of the unlearned samples among them; by the pass rate unless given.

    Raises:
        IlpError: What a user can mend: a setting, an endpoint that is down.
    """
    return _Prescriber(
        mitigations, study, evidence, attributions, consult, settings, effectiveness, budget or Budget(), unlearned
    ).run()


class _Prescriber:
    def __init__(
        self,
        mitigations: Sequence[Mitigation],
        study: Study,
        evidence: pa.Table,
        attributions: pa.Table,
        consult: Consult,
        settings: Settings,
        effectiveness: Effectiveness,
        budget: Budget,
        unlearned: Collection[str] | None,
    ) -> None:
        self._mitigations = sorted(mitigations, key=lambda one: one.name)
        self._settings = settings.intervention
        self._effectiveness = effectiveness
        self._budget = budget
        self._counted = Counted(consult, self._budget, self._settings)
        self._case = Case(study, evidence, attributions, (), settings.mitigation_options(), self._counted)
        self._ids: list[str] = attributions["sample_id"].to_pylist()
        self._causes = [name.removeprefix("p_") for name in attributions.column_names if name.startswith("p_")]
        rates = dict(
            zip(study.evaluation["sample_id"].to_pylist(), study.evaluation["p_correct"].to_pylist(), strict=True)
        )
        threshold = settings.detection.threshold
        self._unlearned = (
            {key for key in self._ids if (rates.get(key) or 0.0) < threshold} if unlearned is None else set(unlearned)
        )
        need = [1.0 if key in self._unlearned else 1.0 - float(rates.get(key) or 0.0) for key in self._ids]
        columns = [np.nan_to_num(_floats(attributions[f"p_{name}"])) for name in self._causes]
        probabilities = np.stack(columns, axis=1) if columns else np.zeros((len(self._ids), 0))
        self._gains = Gains(np.asarray(need), probabilities, self._effects("value"))
        self._learned = sum(1 for rate in rates.values() if rate is not None and rate >= threshold)
        self._prices = Prices(self._case)
        self._characters: dict[str, float] = {}
        self._hopeless: dict[int, dict[str, str]] = {}
        self._gone: dict[str, str] = {}
        self._doubtful: set[str] = set()

    def _effects(self, end: str) -> Array:
        return np.asarray(
            [
                [getattr(self._effectiveness.effect(one.name, cause, one.causes), end) for cause in self._causes]
                for one in self._mitigations
            ]
        ).reshape(len(self._mitigations), len(self._causes))

    def run(self) -> Prescription:
        self._doubtful = _contradicted(self._case.study) & set(self._ids)
        found, groups = self._candidates()
        if self._judge_first(groups, found):
            found, groups = self._candidates()
        chosen, plans = self._chosen(groups, found)
        taken = list(chosen.treatments)
        while True:
            change, notes = _without_conflicts(merge(plan.change for plan in plans))
            price = self._price(change)
            if not taken or Cost.of(price).fits(self._budget, self._settings):
                break
            taken.pop()
            plans = self._plans([groups[one.key] for one in taken])
        longer = self._retaining(change, plans)
        price = self._price(longer)
        return self._written(groups, found, taken, plans, longer, price, (*notes, *_kept(change, longer)))

    def _retaining(self, change: Change, plans: Sequence[Plan]) -> Change:
        """With what is learned, or treated otherwise, shown more often as well; what is left out is not."""
        left_out = set(self._ids) - {key for plan in plans for key in plan.treats} | self._doubtful
        others = [sample.sample_id for sample in self._case.study.samples if sample.sample_id not in left_out]
        return retaining(
            change,
            others,
            self._settings.retention_factor,
            lambda one: Cost.of(self._price(one)).fits(self._budget, self._settings),
        )

    def _candidates(self) -> tuple[list[Candidates], dict[str, Group]]:
        found = [
            candidates_of(one, number, self._case, self._gains, self._ids, self._gone, self._doubtful)
            for number, one in enumerate(self._mitigations)
        ]
        return found, {group.key: group for one in found for group in one.groups}

    def _judge_first(self, groups: Mapping[str, Group], found: Sequence[Candidates]) -> bool:
        """Have what contradicts judged before documents are fetched: nobody is taught what is removed as wrong.

        Returns:
            Whether anything was judged.
        """
        offered = [
            treatment
            for group in groups.values()
            if (treatment := self._treatment(group, found[group.remedy].plan)) is not None
        ]
        chosen = choose(offered, self._gains, self._budget, self._settings)
        judging = [groups[one.key] for one in chosen.treatments if groups[one.key].judges and not groups[one.key].asks]
        if not judging:
            return False
        plans = self._plans(judging)
        self._gone = {key: plan.mitigation for plan in plans for key in plan.change.removed}
        samples = self._case.samples()
        judged = {content_of(samples[key]) for pair in self._counted.account.pairs for key in pair}
        self._doubtful = {key for key in self._doubtful if content_of(samples[key]) not in judged}
        self._doubtful |= self._repeating(self._gone) - set(self._gone)
        return True

    def _repeating(self, wrong: Collection[str]) -> set[str]:
        """Who says the same of the same thing as what was judged wrong, in words too different to be paired."""
        samples = self._case.samples()
        said = {(self._counted.entity(key), samples[key].response) for key in wrong}
        return {
            key
            for key in self._ids
            if (entity := self._counted.entity(key)) is not None and (entity, samples[key].response) in said
        }

    def _chosen(self, groups: Mapping[str, Group], found: Sequence[Candidates]) -> tuple[Chosen, tuple[Plan, ...]]:
        before: tuple[str, ...] | None = None
        for number in range(_ROUNDS):
            account = self._counted.account
            last = number == _ROUNDS - 1
            offered = [
                treatment
                for group in groups.values()
                if not (last and group.unasked(account))
                and (treatment := self._treatment(group, found[group.remedy].plan)) is not None
            ]
            chosen = choose(offered, self._gains, self._budget, self._settings, account.cost)
            keys = tuple(sorted(one.key for one in chosen.treatments))
            if keys == before:
                break
            before = keys
            plans = self._plans([groups[key] for key in keys])
            self._learn(groups, keys, plans)
        return chosen, plans

    def _treatment(self, group: Group, plan: Plan) -> Treatment | None:
        """A group at what is known of its cost by now; ``None`` where nobody is left whom it could help."""
        hopeless = self._hopeless.get(group.remedy, {})
        helped = group.helped
        if hopeless:
            helped = np.asarray([one for one in helped.tolist() if self._ids[one] not in hopeless], np.int64)
        if not len(helped):
            return None
        damage = self._effectiveness.lost(self._mitigations[group.remedy].name)
        lost = damage.lost_share * self._learned if group.blanket else damage.lost_per_treated * len(helped)
        change, account = plan.change, self._counted.account
        tokens = self._prices.exposures(change, group.targets) + self._prices.everything(change)
        if change.documents:
            guess = sum(limit for _, limit in group.asks) * self._prices.document_characters
            tokens += self._prices.documents(change, self._characters.get(group.key, guess))
        shared: dict[Shared, Cost] = {}
        for key, limit in group.asks:
            paid = (key, limit) in account.documents
            shared["documents", key, str(limit)] = Cost() if paid else Cost(documents=float(limit))
        for pair in group.judges:
            shared["judgement", *pair] = Cost() if pair in account.pairs else Cost(judgements=1.0)
        least = 0.0 if group.blanket else LEAST_GAIN * float(self._gains.need[helped].sum())
        return Treatment(group.key, group.remedy, helped, Cost(tokens), shared, lost, least)

    def _plans(self, groups: Sequence[Group]) -> tuple[Plan, ...]:
        """What the mitigations make of exactly these samples."""
        plans = []
        for number, mitigation in enumerate(self._mitigations):
            wanted = {key for group in groups if group.remedy == number for key in group.targets}
            if wanted:
                targets = tuple(key for key in self._ids if key in wanted)
                plans.append(plan_one(mitigation, replace(self._case, targets=targets)))
        return tuple(plans)

    def _learn(self, groups: Mapping[str, Group], keys: Sequence[str], plans: Sequence[Plan]) -> None:
        """Refusals and the length of documents, now that they are known."""
        numbers = {one.name: number for number, one in enumerate(self._mitigations)}
        seen = 0
        characters = 0
        for plan in plans:
            number = numbers[plan.mitigation]
            self._hopeless.setdefault(number, {}).update(plan.refused)
            of_sample: dict[str, set[str]] = {}
            for document in plan.change.documents:
                seen, characters = seen + 1, characters + len(document.text)
                for key in document.sample_ids:
                    of_sample.setdefault(key, set()).add(document.text)
            for name in keys:
                group = groups[name]
                if group.remedy == number and group.asks:
                    texts = {text for key in group.targets for text in of_sample.get(key, ())}
                    self._characters[name] = float(sum(map(len, texts)))
        if seen:
            self._prices.document_characters = characters / seen

    def _price(self, change: Change) -> Price:
        account = self._counted.account.cost
        return Price(self._case.training_tokens(change), int(account.documents), int(account.judgements))

    def _written(
        self,
        groups: Mapping[str, Group],
        found: Sequence[Candidates],
        taken: Sequence[Treatment],
        plans: Sequence[Plan],
        change: Change,
        price: Price,
        notes: Sequence[str],
    ) -> Prescription:
        treats = {plan.mitigation: set(plan.treats) for plan in plans}
        numbers = {one.name: number for number, one in enumerate(self._mitigations)}
        used = [plan for plan in plans if plan.treats]
        reasons: dict[str, list[str]] = {}
        causes: dict[str, Counter[str]] = {plan.mitigation: Counter() for plan in used}
        place = {key: number for number, key in enumerate(self._ids)}
        for plan in used:
            effects = self._gains.effects[numbers[plan.mitigation]]
            for key in plan.treats:
                row = self._gains.causes[place[key]]
                cause = self._causes[int(np.argmax(row * effects))]
                causes[plan.mitigation][cause] += 1
                reasons.setdefault(key, []).append(
                    f"{plan.mitigation} for {cause} ({row[self._causes.index(cause)]:.2f}), "
                    f"chance {float(row @ effects):.2f}"
                )
        items = []
        for one in taken:
            name = self._mitigations[one.remedy].name
            keys = tuple(key for key in groups[one.key].targets if key in treats.get(name, ()))
            if keys:
                gain = float(
                    self._gains.need[one.samples] @ (self._gains.causes @ self._gains.effects[one.remedy])[one.samples]
                )
                items.append(Item(name, keys, gain - one.lost))
        return Prescription(
            change,
            tuple(used),
            tuple(items),
            price,
            self._expected(taken, treats),
            {key: "; ".join(lines) for key, lines in sorted(reasons.items())},
            self._left_out(groups, found, self._unaffordable(groups, found, taken), reasons),
            self._budget,
            {name: dict(counts.most_common()) for name, counts in causes.items()},
            tuple(notes),
            self._effectiveness.provenance,
        )

    def _expected(self, taken: Sequence[Treatment], treats: Mapping[str, set[str]]) -> Expected:
        chances = {}
        for end in ("value", "low", "high"):
            effects = np.clip(self._effects(end), 0.0, 1.0)
            left = self._gains.causes.copy()
            for one in taken:
                if treats.get(self._mitigations[one.remedy].name):
                    left[one.samples] *= 1 - effects[one.remedy]
            chances[end] = (self._gains.causes - left).sum(axis=1)
        sick = np.asarray([key in self._unlearned for key in self._ids], bool)
        sums = {end: float(chance[sick].sum()) for end, chance in chances.items()}
        spread = {
            end: 1.96 * float(np.sqrt((chance[sick] * (1 - np.clip(chance[sick], 0, 1))).sum()))
            for end, chance in chances.items()
        }
        return Expected(
            sums["value"],
            max(sums["low"] - spread["low"], 0.0),
            min(sums["high"] + spread["high"], float(sick.sum())),
            int(sick.sum()),
            float((self._gains.need * chances["value"])[~sick].sum()),
            float(sum(one.lost for one in taken)),
        )

    def _unaffordable(
        self, groups: Mapping[str, Group], found: Sequence[Candidates], taken: Sequence[Treatment]
    ) -> list[str]:
        """Keys of what would still pay and is not taken: the budget keeps it out."""
        left = self._gains.causes.copy()
        for one in taken:
            left[one.samples] *= 1 - self._gains.effects[one.remedy]
        names = {one.key for one in taken}
        offered = (
            self._treatment(group, found[group.remedy].plan) for key, group in groups.items() if key not in names
        )
        return [
            one.key
            for one in offered
            if one is not None
            and self._gains.need[one.samples] @ (left[one.samples] @ self._gains.effects[one.remedy]) - one.lost
            > max(one.least, 1e-9)
        ]

    def _left_out(
        self,
        groups: Mapping[str, Group],
        found: Sequence[Candidates],
        unaffordable: Collection[str],
        reasons: Mapping[str, object],
    ) -> dict[str, str]:
        why: dict[tuple[int, str], str] = {}
        for number, one in enumerate(found):
            name = self._mitigations[number].name
            for target, reason in {**one.refused, **self._hopeless.get(number, {})}.items():
                why[number, target] = f"Refused by {name}: {reason}"
        for key in unaffordable:
            name = self._mitigations[groups[key].remedy].name
            for target in groups[key].targets:
                reason = f"Budget: {name} would pay, and does not fit any more."
                why.setdefault((groups[key].remedy, target), reason)
        chances = self._gains.causes @ self._gains.effects.T
        left_out = {}
        for target, row in zip(self._ids, chances.tolist(), strict=True):
            if target in reasons:
                continue
            # What keeps its best remedy away is what people want to know.
            told = [why[number, target] for number in np.argsort(row)[::-1].tolist() if (number, target) in why]
            best = max(row, default=0.0)
            left_out[target] = (
                f"No remedy: the best has a chance of {best:.2f}."
                if best < LEAST_GAIN
                else told[0]
                if told
                else f"Not worth it: the best chance is {best:.2f}, and hardly more would be gained than lost."
            )
        return left_out


def _contradicted(study: Study) -> set[str]:
    """Ids of samples that ask the same as another and answer otherwise: which of them is right is in doubt."""
    table = study.neighbours
    same = table["same_entities"].to_pylist() if "same_entities" in table.column_names else [None] * table.num_rows
    rows = zip(*(table[name].to_pylist() for name in ("sample_id", "neighbour_id", "same_answer")), same, strict=True)
    return {key for one, other, agree, thing in rows if not agree and thing is not False for key in (one, other)}


def _floats(column: pa.ChunkedArray) -> Array:
    values = column.combine_chunks().cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64)


def _kept(taught: Change, change: Change) -> tuple[str, ...]:
    count, times = retained(taught, change)
    return (
        (f"{count} other samples are shown {times:g} times as often, so that they are not forgotten.",) if count else ()
    )


def _without_conflicts(change: Change) -> tuple[Change, tuple[str, ...]]:
    """Without documents that say what others are to correct."""
    if not change.conflicting_documents or not change.documents:
        return change, ()
    by_word: dict[str, list[ConflictingStatement]] = {}
    for statement in sorted(change.conflicting_documents):
        words = _WORD.findall(statement.entity.casefold())
        by_word.setdefault(max(words, key=lambda word: (len(word), word), default=""), []).append(statement)
    kept: list[TeachingDocument] = []
    for document in change.documents:
        found = {"", *_WORD.findall(document.text.casefold())} & by_word.keys()
        if not any(one.stated_by(document.text) for word in sorted(found) for one in by_word[word]):
            kept.append(document)
    dropped = len(change.documents) - len(kept)
    if not dropped:
        return change, ()
    share = change.general_share if kept else None
    note = f"{dropped} of {len(change.documents)} documents state a belief that others correct, and are left out."
    return replace(change, documents=tuple(kept), general_share=share), (note,)
