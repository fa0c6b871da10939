"""What every arm of an experiment did, to whom, and at what price (arXiv 2604.10079, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ilp_service.attribution.rules import UNATTRIBUTED
from ilp_service.intervention.arms import Arm, ArmResult
from ilp_service.intervention.estimates import Estimate, corrected, estimate
from ilp_service.intervention.runs import Array, Mask, Runs, Texts, align
from ilp_service.intervention.verdicts import Rule, SampleVerdict, verdicts_of
from ilp_service.settings import InterventionSettings

LEARNED = 0.2
"""Pass rate from which a sample counts as learned (arXiv 2604.10079, section 4)."""


@dataclass(frozen=True, slots=True)
class View:
    """Recovery when the samples are asked in another form.

    Attributes:
        before: Share of the samples that the diagnosed model gets right in this form, 0-1; ``None`` if not measured.
        estimate: Share under the arm and the difference from its placebo.
    """

    before: float | None
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Cell:
    """What a remedy did to the unlearned samples of one cause.

    Attributes:
        arm: The remedy.
        cause: The attributed cause, or ``unattributed``.
        own: Whether the remedy is for this cause.
        recovery: Share of the samples that are learned; of its own cause those that it treats, else all.
        q_value: Of ``recovery.p_value``, corrected over all cells (Benjamini and Hochberg).
        attributed: The same for all samples that were attributed to the cause, treated or not.
        refused: The same for those of its own cause that it does not treat; ``None`` for another cause.
        withdrawn: Samples of the group that the remedy removes or corrects; they are in none of the figures.
        paraphrase: Recovery of the same samples when asked otherwise.
        cloze: And as a statement to be completed.
    """

    arm: str
    cause: str
    own: bool
    recovery: Estimate
    q_value: float | None
    attributed: Estimate
    refused: Estimate | None
    withdrawn: int
    paraphrase: View
    cloze: View

    def public(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "arm": self.arm,
            "cause": self.cause,
            "own": self.own,
            **self.recovery.public(),
            "q_value": self.q_value,
            "attributed": self.attributed.public(),
            "refused": self.refused.public() if self.refused else None,
            "withdrawn": self.withdrawn,
            **{
                name: {"before": view.before, **view.estimate.public()}
                for name, view in (("paraphrase", self.paraphrase), ("cloze", self.cloze))
            },
        }


@dataclass(frozen=True, slots=True)
class Loss:
    """Held-out loss on general text, nats a token, means over seeds.

    Attributes:
        after: Under the arm.
        change: From the diagnosed model; ``None`` where that was not measured.
        effect: From its placebo; ``None`` without one.
        low: Smallest difference from the placebo of any seed.
        high: Largest.
    """

    after: float
    change: float | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What one training of an arm takes, mean over seeds, and what a recovered sample costs.

    Attributes:
        training_tokens: Tokens through the model.
        continued_tokens: Those of them in continued pre-training.
        steps: Optimizer steps.
        seconds: Wall-clock time.
        peak_memory_bytes: The most of any seed.
        documents: Documents received for the plan.
        judgements: Pairs judged for it.
        price: Of tokens, documents and judgements, at the prices of the settings.
        extra_price: Of what the plan may add at most to doing the diagnosed training again.
        recovered: Treated samples that are learned beyond those under the placebo, mean over seeds.
        price_per_recovered: ``price`` by ``recovered``; ``None`` where nothing was recovered.
        extra_price_per_recovered: ``extra_price`` by ``recovered``.
    """

    training_tokens: float
    continued_tokens: float
    steps: float
    seconds: float
    peak_memory_bytes: int
    documents: int
    judgements: int
    price: float
    extra_price: float
    recovered: float | None = None
    price_per_recovered: float | None = None
    extra_price_per_recovered: float | None = None


@dataclass(frozen=True, slots=True)
class ArmEffect:
    """One arm as a whole.

    Attributes:
        arm: Its name.
        kind: ``remedy``, ``placebo`` or ``reference``.
        causes: What it is a remedy for.
        treated: Samples that it treats.
        placebo: Its placebo.
        seeds: Seeds under which it ended well.
        diverged: Why it did not, by seed.
        controls: Recovery of the unlearned samples that were attributed to other causes; ``None`` for other arms.
        damage: Share of the learned samples that are unlearned now.
        loss: On general text; ``None`` where it was not measured.
        spent: What it took; ``None`` where every seed diverged.
    """

    arm: str
    kind: str
    causes: tuple[str, ...]
    treated: int
    placebo: str | None
    seeds: tuple[int, ...]
    diverged: Mapping[int, str]
    controls: Estimate | None
    damage: Estimate
    loss: Loss | None
    spent: Spent | None

    def public(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "arm": self.arm,
            "kind": self.kind,
            "causes": list(self.causes),
            "treated": self.treated,
            "placebo": self.placebo,
            "seeds": list(self.seeds),
            "diverged": {str(seed): reason for seed, reason in self.diverged.items()},
            "controls": self.controls.public() if self.controls else None,
            "damage": self.damage.public(),
            "general_loss": asdict(self.loss) if self.loss else None,
            "spent": asdict(self.spent) if self.spent else None,
        }


@dataclass(frozen=True, slots=True)
class Effects:
    """What came of an experiment.

    Attributes:
        cells: Remedies by causes, in the order of the arms, causes by name.
        arms: All arms, in their order.
        verdicts: One for each attributed sample, by id.
        runs: The runs that all of it follows from.
    """

    cells: tuple[Cell, ...]
    arms: tuple[ArmEffect, ...]
    verdicts: tuple[SampleVerdict, ...]
    runs: Runs

    @property
    def matrix(self) -> dict[str, dict[str, float | None]]:
        """Effect by remedy and cause, -1 to 1."""
        found: dict[str, dict[str, float | None]] = {}
        for cell in self.cells:
            found.setdefault(cell.arm, {})[cell.cause] = cell.recovery.effect
        return found

    def cell(self, arm: str, cause: str) -> Cell | None:
        """One cell, ``None`` where there is none."""
        return next((cell for cell in self.cells if (cell.arm, cell.cause) == (arm, cause)), None)

    def public(self) -> dict[str, Any]:
        """Ready for JSON; verdicts as counts, for ``verdicts.parquet`` has them one by one."""
        kinds = sorted({verdict.verdict for verdict in self.verdicts})
        return {
            "matrix": self.matrix,
            "cells": [cell.public() for cell in self.cells],
            "arms": [arm.public() for arm in self.arms],
            "verdicts": {kind: sum(one.verdict == kind for one in self.verdicts) for kind in kinds},
        }


def effects_of(
    original: pa.Table,
    attributions: pa.Table,
    arms: Sequence[Arm],
    results: Sequence[ArmResult],
    *,
    seed: int,
    threshold: float = LEARNED,
    questions: Mapping[str, str] | None = None,
    original_loss: float | None = None,
    prices: InterventionSettings | None = None,
    rule: Rule = "majority",
) -> Effects:
    """What every arm did; neither the order of rows nor that of arms or results changes a number.

    Args:
        original: What was measured of the diagnosed model (:data:`~ilp_service.intervention.arms.MEASURED`).
        attributions: Columns ``sample_id`` and ``cause`` of that diagnosis.
        arms: All arms of the experiment.
        results: One for every arm and seed that was run.
        seed: Of the resampling.
        threshold: Pass rate from which a sample counts as learned, 0-1.
        questions: The question of every sample (:func:`~ilp_service.intervention.runs.questions_of`); samples
            of one question are drawn together. Without it every sample is a question of its own.
        original_loss: Held-out loss of the diagnosed model on general text, nats a token.
        prices: Prices of tokens, documents and judgements.
        rule: Under how many seeds a remedy has to recover a sample to prove its cause.

    Raises:
        ValueError: The runs do not belong together (:func:`~ilp_service.intervention.runs.align`).
    """
    runs = align(original, attributions, arms, results)
    asked = [(questions or {}).get(key, key) for key in runs.ids.tolist()]
    judge = _Judge(runs, np.asarray(asked, dtype=np.str_), seed, threshold)
    cells = [judge.cell(arm, cause) for arm in arms if arm.kind == "remedy" for cause in _causes(runs, arm)]
    q_values = corrected([cell.recovery.p_value for cell in cells])
    cells = [replace(cell, q_value=q) for cell, q in zip(cells, q_values, strict=True)]
    priced = prices or InterventionSettings()
    summaries = tuple(judge.arm(arm, original_loss, priced) for arm in arms)
    return Effects(tuple(cells), summaries, verdicts_of(runs, rule), runs)


def _causes(runs: Runs, arm: Arm) -> list[str]:
    """Causes of the experiment and of the arm, *unattributed* last."""
    return sorted({*runs.causes, *arm.treats}, key=lambda name: (name == UNATTRIBUTED, name))


class _Judge:
    """Makes the estimates of one experiment."""

    def __init__(self, runs: Runs, questions: Texts, seed: int, threshold: float) -> None:
        self._runs = runs
        self._questions = questions
        self._seed = seed
        self._threshold = threshold

    def cell(self, arm: Arm, cause: str) -> Cell:
        runs = self._runs
        group = runs.unlearned & (runs.cause == cause)
        withdrawn = runs.withdrawn(arm)
        kept = group & ~withdrawn
        own = cause in arm.treats
        treated = runs.unlearned & ~withdrawn & runs.where(arm.treats[cause]) if own else kept
        refused = kept & ~treated if own else None
        return Cell(
            arm.name,
            cause,
            own,
            self._recovery(arm, treated),
            None,
            self._recovery(arm, kept),
            None if refused is None else self._recovery(arm, refused),
            int((group & withdrawn).sum()),
            self._view(arm, treated, "p_paraphrase"),
            self._view(arm, treated, "p_cloze"),
        )

    def arm(self, arm: Arm, original_loss: float | None, prices: InterventionSettings) -> ArmEffect:
        runs = self._runs
        withdrawn = runs.withdrawn(arm)
        # What has no cause of the remedy is its control; what nobody could name may well have one.
        others = runs.unlearned & ~withdrawn & ~np.isin(runs.cause, ["", UNATTRIBUTED, *arm.treats])
        learned = (runs.before("unlearned") == 0) & (runs.before("p_correct") >= self._threshold) & ~withdrawn
        reasons = {seed: result.reason for seed, result in runs.diverged[arm.name].items()}
        return ArmEffect(
            arm.name,
            arm.kind,
            tuple(sorted(arm.treats)),
            len({key for keys in arm.treats.values() for key in keys}),
            runs.placebo_of(arm),
            tuple(runs.done[arm.name]),
            reasons,
            self._recovery(arm, others) if arm.kind == "remedy" else None,
            self._estimate(arm, learned, "unlearned", lambda values: values == 1),
            self._loss(arm, original_loss),
            self._spent(arm, prices),
        )

    def _recovery(self, arm: Arm, group: Mask) -> Estimate:
        return self._estimate(arm, group, "unlearned", lambda values: values == 0)

    def _view(self, arm: Arm, group: Mask, column: str) -> View:
        before = self._runs.before(column)[group]
        before = before[~np.isnan(before)]
        return View(
            float((before >= self._threshold).mean()) if len(before) else None,
            self._estimate(arm, group, column, lambda values: values >= self._threshold),
        )

    def _estimate(self, arm: Arm, group: Mask, column: str, holds: Callable[[Array], Mask]) -> Estimate:
        runs = self._runs
        placebo = runs.placebo_of(arm)
        seeds = runs.paired_seeds(arm)
        note = ""
        if placebo is not None and not seeds and runs.done[arm.name]:
            # The arm alone can still be told.
            placebo, seeds, note = (
                None,
                tuple(runs.done[arm.name]),
                "the placebo did not end well under any of its seeds",
            )
        rows = runs.after(column, arm.name, seeds)
        beside = runs.after(column, placebo, seeds) if placebo is not None else None
        both = rows if beside is None else np.hstack([rows, beside])
        known = group & ~np.isnan(both).any(axis=1)
        found = estimate(
            holds(rows[known]).astype(np.float64),
            None if beside is None else holds(beside[known]).astype(np.float64),
            self._questions[known].tolist(),
            # The same for all, so that equal outcomes have equal intervals.
            np.random.default_rng(self._seed),
        )
        if group.any() and not known.any():
            note = "not measured"
        return replace(found, note=note) if note else found

    def _loss(self, arm: Arm, original: float | None) -> Loss | None:
        losses = self._losses(arm.name)
        if not losses:
            return None
        after = _mean(losses.values())
        placebo = self._runs.placebo_of(arm)
        beside = self._losses(placebo) if placebo is not None else {}
        differences = [loss - beside[seed] for seed, loss in losses.items() if seed in beside]
        change = None if original is None else after - original
        if not differences:
            return Loss(after, change)
        return Loss(after, change, _mean(differences), min(differences), max(differences))

    def _losses(self, arm: str) -> dict[int, float]:
        results = self._runs.done[arm].items()
        return {seed: result.general_loss for seed, result in results if result.general_loss is not None}

    def _spent(self, arm: Arm, prices: InterventionSettings) -> Spent | None:
        costs = [result.cost for result in self._runs.done[arm.name].values()]
        if not costs:
            return None

        def priced(tokens: float, documents: int, judgements: int) -> float:
            return (
                tokens / 1e6 * prices.token_price
                + documents * prices.document_price
                + judgements * prices.judgement_price
            )

        tokens = _mean([cost.training_tokens for cost in costs])
        documents = max(cost.documents for cost in costs)
        judgements = max(cost.judgements for cost in costs)
        price = priced(tokens, documents, judgements)
        extra = priced(arm.price.training_tokens, documents, judgements)
        recovered = self._recovered(arm)
        pays = recovered is not None and recovered > 0
        return Spent(
            tokens,
            _mean([cost.continued_tokens for cost in costs]),
            _mean([cost.steps for cost in costs]),
            _mean([cost.seconds for cost in costs]),
            max(cost.peak_memory_bytes for cost in costs),
            documents,
            judgements,
            price,
            extra,
            recovered,
            price / recovered if pays and recovered else None,
            extra / recovered if pays and recovered else None,
        )

    def _recovered(self, arm: Arm) -> float | None:
        """Treated samples that are learned beyond those under the placebo; ``None`` where that is not known."""
        runs = self._runs
        treated = runs.where(key for keys in arm.treats.values() for key in keys)
        found = self._recovery(arm, treated & runs.unlearned & ~runs.withdrawn(arm))
        return None if found.effect is None else found.effect * found.samples


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
