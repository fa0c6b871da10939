"""Which treatments to take within a budget: a greedy rule over what they gain for what they cost.

A treatment is a remedy for some samples that stand or fall together. Its cost is its own, and shared: a document that
two treatments ask for is paid once. Its gain shrinks with what was taken before: a sample is made learned only once.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations

import numpy as np
import numpy.typing as npt

from ilp_service.remedies import Price
from ilp_service.settings import InterventionSettings

Array = npt.NDArray[np.float64]
Shared = tuple[str, ...]

_SLACK = 1e-9
_FORCED = 3
"""Costly treatments of very many samples whose combinations are tried."""

_MANY = 0.1
"""Share of all samples that is very many."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a prescription may cost at most, beyond doing the diagnosed training again; ``None``: as much as it takes.

    Attributes:
        tokens: Further training tokens.
        documents: Documents received from knowledge sources.
        judgements: Pairs judged.
        price: All of them at the prices of the settings.
    """

    tokens: float | None = None
    documents: float | None = None
    judgements: float | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "documents", "judgements", "price"):
            cap = getattr(self, name)
            if cap is not None and not (math.isfinite(cap) and cap >= 0):
                raise ValueError(f"The budget of {name} is {cap!r}; expected a number of at least 0, or none.")

    def public(self) -> dict[str, float | None]:
        """Ready for JSON."""
        return {name: getattr(self, name) for name in ("tokens", "documents", "judgements", "price")}


@dataclass(frozen=True, slots=True)
class Cost:
    """An exact or expected cost; costs add up.

    Attributes:
        tokens: Training tokens.
        documents: Documents received.
        judgements: Pairs judged.
    """

    tokens: float = 0.0
    documents: float = 0.0
    judgements: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.tokens + other.tokens, self.documents + other.documents, self.judgements + other.judgements)

    @classmethod
    def of(cls, price: Price) -> Cost:
        """A price as a cost."""
        return cls(price.training_tokens, price.documents, price.judgements)

    def priced(self, prices: InterventionSettings) -> float:
        """In the unit of the settings' prices."""
        return (
            self.tokens / 1e6 * prices.token_price
            + self.documents * prices.document_price
            + self.judgements * prices.judgement_price
        )

    def shares(self, budget: Budget, prices: InterventionSettings) -> list[float]:
        """Of each cap that there is, 0-1 and beyond; infinite where there is a cost and the cap is 0."""
        used = (
            (self.tokens, budget.tokens),
            (self.documents, budget.documents),
            (self.judgements, budget.judgements),
            (self.priced(prices), budget.price),
        )
        return [
            0.0 if amount <= 0 else amount / cap if cap > 0 else math.inf for amount, cap in used if cap is not None
        ]

    def fits(self, budget: Budget, prices: InterventionSettings) -> bool:
        """Whether it stays below every cap."""
        return all(share <= 1 + _SLACK for share in self.shares(budget, prices))


@dataclass(frozen=True)
class Treatment:
    """A remedy for samples that stand or fall together.

    Attributes:
        key: Unique; ties are broken by it.
        remedy: Row of the effects.
        samples: Columns of the effects: the samples that it treats.
        cost: Its own.
        shared: What it asks for that others may ask for as well, by name, with its cost.
        lost: Learned samples that it is expected to lose.
        least: Gain, beyond what was taken before it, below which it is not worth the trouble.
    """

    key: str
    remedy: int
    samples: npt.NDArray[np.int64]
    cost: Cost = Cost()
    shared: Mapping[Shared, Cost] = field(default_factory=dict)
    lost: float = 0.0
    least: float = 0.0


@dataclass(frozen=True)
class Gains:
    """What each remedy does for each sample.

    Attributes:
        need: How unlearned each sample is now, 0-1; shape ``(samples,)``.
        causes: Probability of each cause, shape ``(samples, causes)``.
        effects: Share of the samples of a cause that a remedy makes learned, shape ``(remedies, causes)``.
    """

    need: Array
    causes: Array
    effects: Array


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is taken, in the order of taking.

    Attributes:
        treatments: The treatments.
        gain: Expected: learned samples gained minus lost.
        cost: Of all together.
        unaffordable: Keys of treatments that would have paid and did not fit.
    """

    treatments: tuple[Treatment, ...]
    gain: float
    cost: Cost
    unaffordable: tuple[str, ...]


def choose(
    treatments: Sequence[Treatment], gains: Gains, budget: Budget, prices: InterventionSettings, spent: Cost = Cost()
) -> Chosen:
    """Treatments with the most gain for their share of the budget, until nothing that pays fits any more.

    The share of a cost is the sum of its shares of the caps; without any, or for nothing, the larger gain goes first.
    A costly treatment of very many samples may win as a whole and lose against their cheapest parts, so the rule is
    also run with each of those taken first, and the best outcome stands.

    Args:
        treatments: What could be done; the order does not matter.
        gains: What each remedy does for each sample.
        budget: The caps.
        prices: Prices of tokens, documents and judgements.
        spent: Already paid.
    """
    ordered = sorted(treatments, key=lambda one: one.key)
    costly = sorted(
        (
            index
            for index, one in enumerate(ordered)
            if len(one.samples) > _MANY * len(gains.need) and _own(one) != Cost()
        ),
        key=lambda index: (-len(ordered[index].samples), ordered[index].key),
    )[:_FORCED]
    tries = chain.from_iterable(combinations(costly, size) for size in range(len(costly) + 1))
    # The plain rule comes first and wins ties.
    return max(
        (_Greedy(ordered, gains, budget, prices, spent).run(forced) for forced in tries),
        key=lambda chosen: round(chosen.gain, 9),
    )


def _own(treatment: Treatment) -> Cost:
    return sum(treatment.shared.values(), treatment.cost)


class _Greedy:
    """One run of the rule."""

    def __init__(
        self, treatments: Sequence[Treatment], gains: Gains, budget: Budget, prices: InterventionSettings, spent: Cost
    ) -> None:
        self._treatments = treatments
        self._gains = gains
        self._budget = budget
        self._prices = prices
        self._cost = spent
        # Probability that a sample has a cause and that no remedy taken so far mends it.
        self._left = gains.causes.copy()
        self._bought: set[Shared] = set()
        self._sharing: dict[Shared, list[int]] = defaultdict(list)
        self._of_sample: dict[int, list[int]] = defaultdict(list)
        self._value = np.zeros(len(treatments))
        for index, one in enumerate(treatments):
            for name in one.shared:
                self._sharing[name].append(index)
            for sample in one.samples.tolist():
                self._of_sample[sample].append(index)
            self._value[index] = self._gain(one.remedy, one.samples).sum() - one.lost

    def run(self, forced: Iterable[int]) -> Chosen:
        taken: list[Treatment] = []
        gain = 0.0
        done: set[int] = set()
        for index in forced:
            if self._pays(index) and self._fits(index):
                gain += self._take(index)
                taken.append(self._treatments[index])
                done.add(index)
        # One entry of each is valid: its newest.
        newest = {index: self._entry(index) for index in range(len(self._treatments)) if index not in done}
        heap = list(newest.values())
        heapq.heapify(heap)
        unaffordable = set()
        while heap:
            entry = heapq.heappop(heap)
            index = entry[-1]
            if newest.get(index) is not entry:
                continue
            now = self._entry(index)
            if now != entry:
                # Gains shrink and costs shrink: it is put back where it belongs now.
                newest[index] = now
                heapq.heappush(heap, now)
                continue
            del newest[index]
            if not self._pays(index):
                continue
            if not self._fits(index):
                unaffordable.add(index)
                continue
            gain += self._take(index)
            taken.append(self._treatments[index])
            for other in {other for name in self._treatments[index].shared for other in self._sharing[name]}:
                if other in newest or other in unaffordable:
                    unaffordable.discard(other)
                    newest[other] = self._entry(other)
                    heapq.heappush(heap, newest[other])
        keys = tuple(self._treatments[index].key for index in sorted(unaffordable) if self._pays(index))
        return Chosen(tuple(taken), gain, self._cost, keys)

    def _gain(self, remedy: int, samples: npt.NDArray[np.int64]) -> Array:
        found: Array = self._gains.need[samples] * (self._left[samples] @ self._gains.effects[remedy])
        return found

    def _pays(self, index: int) -> bool:
        return bool(self._value[index] > max(self._treatments[index].least, _SLACK))

    def _further(self, index: int) -> Cost:
        one = self._treatments[index]
        return sum((cost for name, cost in one.shared.items() if name not in self._bought), one.cost)

    def _fits(self, index: int) -> bool:
        return (self._cost + self._further(index)).fits(self._budget, self._prices)

    def _entry(self, index: int) -> tuple[float, float, str, int]:
        """Best first: densest, then largest, then by key."""
        value = float(self._value[index])
        share = sum(self._further(index).shares(self._budget, self._prices))
        density = -value if share == math.inf else math.inf if share <= 0 else value / share
        return (-density, -value, self._treatments[index].key, index)

    def _take(self, index: int) -> float:
        one = self._treatments[index]
        value = float(self._value[index])
        self._cost = self._cost + self._further(index)
        self._bought.update(one.shared)
        touched: dict[int, list[int]] = defaultdict(list)
        for sample in one.samples.tolist():
            for other in self._of_sample[sample]:
                touched[other].append(sample)
        before = {other: self._sum(other, samples) for other, samples in touched.items()}
        self._left[one.samples] *= 1 - self._gains.effects[one.remedy]
        for other, samples in touched.items():
            self._value[other] += self._sum(other, samples) - before[other]
        return value

    def _sum(self, index: int, samples: list[int]) -> float:
        return float(self._gain(self._treatments[index].remedy, np.asarray(samples, np.int64)).sum())
