"""A prescription: what to do about which samples, what it costs, what comes of it, and the same for people to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ilp_service.changes import Change
from ilp_service.intervention.choosing import Budget, Cost
from ilp_service.intervention.refusals import grouped
from ilp_service.remedies import Plan, Price
from ilp_service.settings import InterventionSettings


@dataclass(frozen=True, slots=True)
class Item:
    """A remedy for samples that were chosen together.

    Attributes:
        remedy: Its name.
        sample_ids: Whom it treats; for a remedy that changes all data the samples that it is prescribed for.
        gain: Learned samples gained minus lost, expected, beyond what was taken before it.
    """

    remedy: str
    sample_ids: tuple[str, ...]
    gain: float


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of a prescription, beyond doing the diagnosed training again.

    Attributes:
        learned: Unlearned samples that become learned.
        low: The same with every effect at the lower end of its interval, and chance against it (95 %).
        high: With every effect at the upper end, and chance for it.
        unlearned: Unlearned samples in all.
        secured: Samples at risk that would answer wrongly and become safe.
        lost: Learned samples that are lost.
    """

    learned: float
    low: float
    high: float
    unlearned: int
    secured: float
    lost: float


@dataclass(frozen=True, slots=True)
class Prescription:
    """What to do.

    Attributes:
        change: What to change about the training run, everything together.
        plans: The plan of each remedy that is used, for exactly the samples that were chosen for it.
        items: What was chosen, most worth its price first.
        price: What it costs, each document and judgement once, with what was asked for and not used in the end.
        expected: What comes of it.
        reasons: Why each treated sample is treated, one line.
        left_out: Why each other unlearned sample or sample at risk is not, one line.
        budget: What it was allowed to cost.
        causes: Most probable cause of each treated sample by remedy, counted.
        notes: What else people should know.
        provenance: Where the effects come from.
    """

    change: Change
    plans: tuple[Plan, ...]
    items: tuple[Item, ...]
    price: Price
    expected: Expected
    reasons: Mapping[str, str]
    left_out: Mapping[str, str]
    budget: Budget
    causes: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...] = ()
    provenance: str = ""

    @property
    def treats(self) -> dict[str, tuple[str, ...]]:
        """Ids by remedy."""
        return {plan.mitigation: plan.treats for plan in self.plans}

    def public(self) -> dict[str, Any]:
        """Ready for JSON; :meth:`from_public` takes it back."""
        return {
            "expected": asdict(self.expected),
            "price": asdict(self.price),
            "budget": self.budget.public(),
            "plans": [
                {
                    "mitigation": plan.mitigation,
                    "summary": plan.summary,
                    "treats": list(plan.treats),
                    "refused": dict(plan.refused),
                    "causes": dict(self.causes.get(plan.mitigation, {})),
                    "price": asdict(plan.price),
                    "change": plan.change.public(),
                }
                for plan in self.plans
            ],
            "items": [
                {"remedy": item.remedy, "sample_ids": list(item.sample_ids), "gain": round(item.gain, 6)}
                for item in self.items
            ],
            "reasons": dict(self.reasons),
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
            "provenance": self.provenance,
            "change": self.change.public(),
        }

    @classmethod
    def from_public(cls, public: Mapping[str, Any]) -> Prescription:
        """The prescription that :meth:`public` wrote down."""
        plans = tuple(
            Plan(
                one["mitigation"],
                tuple(one["treats"]),
                one["refused"],
                Change.from_public(one["change"]),
                Price(**one["price"]),
                one["summary"],
            )
            for one in public["plans"]
        )
        return cls(
            Change.from_public(public["change"]),
            plans,
            tuple(Item(one["remedy"], tuple(one["sample_ids"]), one["gain"]) for one in public["items"]),
            Price(**public["price"]),
            Expected(**public["expected"]),
            public["reasons"],
            public["left_out"],
            Budget(**public["budget"]),
            {one["mitigation"]: one["causes"] for one in public["plans"]},
            tuple(public["notes"]),
            public["provenance"],
        )


def causes_of(prescription: Prescription, attributed: Mapping[str, str]) -> dict[str, str]:
    """The cause for which each sample is changed: its own, else the one that the remedy treats most.

    Args:
        prescription: What is done.
        attributed: Causes of samples, by their id.
    """
    found = {}
    for plan in prescription.plans:
        counts = prescription.causes.get(plan.mitigation, {})
        usual = max(counts, key=lambda cause: counts[cause], default=plan.mitigation)
        for key in plan.change.sample_ids:
            found[key] = attributed.get(key, usual)
    return found


def prescription_text(prescription: Prescription, prices: InterventionSettings) -> str:
    """What is done for how many samples of which cause, at what cost, to what end, and what is left out and why."""
    return "\n".join(_lines(prescription, prices))


def _lines(prescription: Prescription, prices: InterventionSettings) -> Iterator[str]:
    expected, price = prescription.expected, prescription.price
    if not prescription.plans:
        yield "Nothing is prescribed."
    for plan in prescription.plans:
        causes = ", ".join(f"{cause} {count}" for cause, count in prescription.causes.get(plan.mitigation, {}).items())
        yield f"{plan.mitigation}: {len(plan.treats)} samples ({causes})"
        yield f"  {plan.summary}"
    yield (
        f"Cost beyond doing the training again: {_spent('tokens', price.training_tokens, prescription.budget.tokens)}, "
        f"{_spent('documents', price.documents, prescription.budget.documents)}, "
        f"{_spent('judgements', price.judgements, prescription.budget.judgements)}; "
        f"{_spent('price', round(Cost.of(price).priced(prices), 4), prescription.budget.price)}."
    )
    yield (
        f"Expected: {expected.learned:.0f} of {expected.unlearned} unlearned samples become learned "
        f"({expected.low:.0f} to {expected.high:.0f}), {expected.secured:.0f} at risk are made safe, "
        f"{expected.lost:.0f} learned ones are lost."
    )
    for one in grouped(prescription.left_out):
        yield f"Left out, {one.count}: {one.text[:1].lower()}{one.text[1:]}"
    yield from prescription.notes


def _spent(name: str, amount: float, cap: float | None) -> str:
    return f"{name} {amount:,g}" if cap is None else f"{name} {amount:,g} of {cap:,g}"
