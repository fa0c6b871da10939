"""What could be prescribed, and what it would cost, found out without asking anybody for anything that costs.

Every mitigation makes its own plan for all samples that it might help, with a consult that answers from nothing and
writes down what it was asked for: as many documents as were wanted, one judgement a pair. What a plan does to samples
one by one can be chosen one by one; samples that share what was asked for go together, and so do all samples of a
remedy that changes all data.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
import numpy.typing as npt

from ilp_service.changes import Change
from ilp_service.consulting.plans import plan_one
from ilp_service.intervention.choosing import Budget, Cost, Gains
from ilp_service.knowledge import Choice, Document, Pair, Verdict
from ilp_service.remedies import Case, Consult, Found, Mitigation, Plan
from ilp_service.samples.sample import Sample
from ilp_service.settings import InterventionSettings

LEAST_GAIN = 0.05
"""Chance below which a sample is not treated: less than that is within the noise of every measured effect."""

_IN_DOUBT = "Another sample answers the same otherwise, and no judge has looked at it: it may be wrong itself."

_NEAR_BEST = 0.5
"""Share of the best remedy's chance from which a sample counts as treated by a remedy for all data."""

_SPENT = "The budget does not reach."

DOCUMENT_CHARACTERS = 400.0
"""Of a document, as long as none was seen."""


@dataclass
class Account:
    """What was asked for so far, each thing once.

    Attributes:
        documents: Documents received, by the sample and the limit they were asked with.
        pairs: Pairs judged, by their ids, the smaller first.
    """

    documents: dict[tuple[str, int], int] = field(default_factory=dict)
    pairs: set[tuple[str, str]] = field(default_factory=set)

    @property
    def cost(self) -> Cost:
        """What it comes to."""
        return Cost(0.0, float(sum(self.documents.values())), float(len(self.pairs)))


class Counted:
    """A consult that keeps an account of what it is asked, asks nothing twice, and nothing beyond a budget."""

    def __init__(
        self, consult: Consult, budget: Budget | None = None, prices: InterventionSettings | None = None
    ) -> None:
        self.account = Account()
        self._consult = consult
        self._budget = budget or Budget()
        self._prices = prices or InterventionSettings()
        self._found: dict[tuple[str, int], tuple[Document, ...]] = {}
        self._reasons: dict[str, str] = {}
        self._verdicts: dict[tuple[str, str], Verdict] = {}

    def documents(self, sample_ids: Sequence[str], limit: int) -> Found:
        """As the consult answers; nothing for whom the budget does not reach."""
        keys = list(dict.fromkeys(sample_ids))
        new = [key for key in keys if (key, limit) not in self._found]
        while new and (room := self._room(self._budget.documents, Cost(documents=1))) >= 1:
            some = new if room == math.inf else new[: max(1, int(room / limit))]
            found = self._consult.documents(some, int(min(limit, room)))
            self._reasons.update(found.reasons)
            for key in some:
                self._found[key, limit] = found.documents.get(key, ())
                self.account.documents[key, limit] = len(self._found[key, limit])
            new = new[len(some) :]
        reasons = self._reasons | dict.fromkeys(new, _SPENT)
        return Found({key: self._found.get((key, limit), ()) for key in keys}, reasons)

    def _room(self, cap: float | None, one: Cost) -> float:
        """How many more of a kind the budget has."""
        spent = self.account.cost
        rooms = [] if cap is None else [cap - (spent.documents if one.documents else spent.judgements)]
        each = one.priced(self._prices)
        if self._budget.price is not None and each > 0:
            rooms.append((self._budget.price - spent.priced(self._prices)) / each)
        # A sum of prices that just fits does fit.
        return min(rooms, default=math.inf) + 1e-6

    def judge(self, pairs: Sequence[Pair]) -> Sequence[Verdict]:
        """As the consult answers."""
        turned = [pair if pair.first.sample_id <= pair.second.sample_id else pair.swapped for pair in pairs]
        new = list({_ids(pair): pair for pair in turned if _ids(pair) not in self._verdicts}.values())
        room = self._room(self._budget.judgements, Cost(judgements=1))
        new = new if room == math.inf else new[: max(0, int(room))]
        if new:
            self._verdicts.update(zip(map(_ids, new), self._consult.judge(new), strict=True))
            self.account.pairs.update(map(_ids, new))
        answers = []
        for pair, other in zip(pairs, turned, strict=True):
            verdict = self._verdicts.get(_ids(pair), Verdict(Choice.UNSURE, 0.0, _SPENT))
            if pair is not other:
                verdict = Verdict(verdict.choice.swapped, verdict.confidence, verdict.reason)
            answers.append(verdict)
        return answers

    def entity(self, sample_id: str) -> str | None:
        """As the consult answers."""
        return self._consult.entity(sample_id)

    def leaks(self, text: str, sample_id: str) -> bool:
        """As the consult answers."""
        return self._consult.leaks(text, sample_id)


class Rehearsal:
    """A consult that gives each sample one made-up document that says what the sample says, and judges nothing.

    It leaves no doubt open, so that what a mitigation refuses here it refuses for what it knows already.
    """

    def __init__(self, consult: Consult, samples: Mapping[str, Sample]) -> None:
        self.account = Account()
        self._consult = consult
        self._samples = samples

    def documents(self, sample_ids: Sequence[str], limit: int) -> Found:
        """One text a sample, counted as many as were asked for."""
        found = {}
        for key in dict.fromkeys(sample_ids):
            self.account.documents[key, limit] = limit
            found[key] = (Document(f"{self.entity(key) or ''} {self._samples[key].response}", "rehearsal", 0.0),)
        return Found(found)

    def judge(self, pairs: Sequence[Pair]) -> Sequence[Verdict]:
        """Neither is right, of any pair."""
        self.account.pairs.update(_ids(pair) for pair in pairs)
        return [Verdict(Choice.NEITHER, 1.0, "Rehearsal.")] * len(pairs)

    def entity(self, sample_id: str) -> str | None:
        """As the consult answers: that costs nothing."""
        return self._consult.entity(sample_id)

    def leaks(self, text: str, sample_id: str) -> bool:
        """Made-up texts are no matter."""
        del text, sample_id
        return False


def _ids(pair: Pair) -> tuple[str, str]:
    one, other = pair.first.sample_id, pair.second.sample_id
    return (one, other) if one <= other else (other, one)


@dataclass(frozen=True)
class Group:
    """Samples that a remedy treats together or not at all.

    Attributes:
        key: Unique.
        remedy: Index of the mitigation.
        targets: Whom the mitigation is asked to plan for.
        helped: Columns of the gains whom it acts on: the targets, or everybody where all data are changed.
        blanket: Whether all data are changed.
        asks: Documents, by sample and limit.
        judges: Pairs.
    """

    key: str
    remedy: int
    targets: tuple[str, ...]
    helped: npt.NDArray[np.int64]
    blanket: bool
    asks: tuple[tuple[str, int], ...]
    judges: tuple[tuple[str, str], ...]

    def unasked(self, account: Account) -> bool:
        """Whether it needs anything that was not asked for before."""
        return any(one not in account.documents for one in self.asks) or any(
            pair not in account.pairs for pair in self.judges
        )


@dataclass(frozen=True)
class Candidates:
    """What a remedy could do.

    Attributes:
        groups: By what can be chosen.
        plan: The rehearsed plan.
        refused: What it cannot treat whatever is asked, with its reason.
    """

    groups: tuple[Group, ...]
    plan: Plan
    refused: Mapping[str, str]


def candidates_of(
    mitigation: Mitigation,
    number: int,
    case: Case,
    gains: Gains,
    ids: Sequence[str],
    gone: Mapping[str, str] | None = None,
    doubtful: Collection[str] = (),
) -> Candidates:
    """What a mitigation could do, for whom it pays.

    Args:
        mitigation: The remedy.
        number: Its row of the effects.
        case: Of any targets; its consult is not asked for documents or verdicts.
        gains: What each remedy does for each sample.
        ids: The columns of the gains.
        gone: Samples that another remedy removes, with its name: nothing else is done about them.
        doubtful: Samples that others contradict, and that no judge has looked at: nobody is taught what may be wrong.
    """
    known = set(ids)
    refused = {
        key: f"{remedy} removes it."
        for key, remedy in (gone or {}).items()
        if remedy != mitigation.name and key in known
    }
    chance = gains.causes @ gains.effects[number]
    worth = [key for key, value in zip(ids, chance.tolist(), strict=True) if value >= LEAST_GAIN and key not in refused]
    rehearsal = Rehearsal(case.consult, case.samples())
    plan = plan_one(mitigation, replace(case, targets=tuple(worth), consult=rehearsal))
    if (plan.change.documents or plan.change.exposures) and not set(worth).isdisjoint(doubtful):
        refused |= dict.fromkeys(set(worth) & set(doubtful), _IN_DOUBT)
        rehearsal = Rehearsal(case.consult, case.samples())
        worth = [key for key in worth if key not in refused]
        plan = plan_one(mitigation, replace(case, targets=tuple(worth), consult=rehearsal))
    refused |= plan.refused
    column = {key: place for place, key in enumerate(ids)}
    change, account = plan.change, rehearsal.account
    if not plan.treats:
        return Candidates((), plan, refused)
    if change.shuffled or change.resampling is not None or change.epochs is not None:
        kept = np.asarray([key not in refused for key in ids], bool)
        everybody = np.flatnonzero((chance > 0) & kept)
        # It acts on everybody, and is prescribed for those whom hardly anything helps more.
        best = (gains.causes @ gains.effects.T).max(axis=1)
        meant = tuple(key for key in plan.treats if chance[column[key]] >= _NEAR_BEST * best[column[key]])
        asks, judges = tuple(account.documents), tuple(sorted(account.pairs))
        group = Group(mitigation.name, number, meant or plan.treats, everybody, True, asks, judges)
        return Candidates((group,), plan, refused)
    bundles = _Bundles(plan.treats, case, account)
    groups = tuple(
        Group(
            f"{mitigation.name} {targets[0]}",
            number,
            targets,
            np.asarray(sorted(column[key] for key in targets), np.int64),
            False,
            asks,
            judges,
        )
        for targets, asks, judges in bundles.groups()
    )
    return Candidates(groups, plan, refused)


class _Bundles:
    """Targets put together by what was asked for them."""

    def __init__(self, targets: Sequence[str], case: Case, account: Account) -> None:
        self._leader = {key: key for key in targets}
        self._order = list(targets)
        asked_for = {key for key, _ in account.documents}
        by_entity: dict[str, list[str]] = defaultdict(list)
        for key in targets:
            entity = case.consult.entity(key) if key in asked_for else None
            if entity:
                by_entity[entity].append(key)
        for keys in by_entity.values():
            self._join(keys)
        # A mitigation may have a copy judged in place of a target.
        copies: dict[tuple[object, ...], list[str]] = defaultdict(list)
        samples = case.samples()
        for key in targets:
            copies[content_of(samples[key])].append(key)
        self._judges: list[tuple[tuple[str, str], list[str]]] = []
        for pair in sorted(account.pairs):
            members = [target for key in pair for target in copies.get(content_of(samples[key]), ())]
            self._join(members)
            self._judges.append((pair, members))
        self._asks = sorted(account.documents)

    def _find(self, key: str) -> str:
        while self._leader[key] != key:
            self._leader[key] = self._leader[self._leader[key]]
            key = self._leader[key]
        return key

    def _join(self, keys: Sequence[str]) -> None:
        for key in keys[1:]:
            one, other = self._find(keys[0]), self._find(key)
            self._leader[max(one, other)] = min(one, other)

    def groups(
        self,
    ) -> Iterable[tuple[tuple[str, ...], tuple[tuple[str, int], ...], tuple[tuple[str, str], ...]]]:
        """Targets, documents and pairs of each bundle; what was asked for nobody in particular belongs to all."""
        members: dict[str, list[str]] = defaultdict(list)
        for key in self._order:
            members[self._find(key)].append(key)
        asks: dict[str, list[tuple[str, int]]] = defaultdict(list)
        judges: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for one in self._asks:
            leaders = [self._find(one[0])] if one[0] in self._leader else list(members)
            for leader in leaders:
                asks[leader].append(one)
        for pair, about in self._judges:
            for leader in {self._find(key) for key in about} or members:
                judges[leader].append(pair)
        for leader in sorted(members):
            yield tuple(members[leader]), tuple(asks[leader]), tuple(judges[leader])


def content_of(sample: Sample) -> tuple[object, ...]:
    """What makes two samples copies of one another."""
    return sample.context, sample.response, sample.choices


class Prices:
    """Tokens of changes, sample by sample; sums up to ``Case.training_tokens``."""

    def __init__(self, case: Case) -> None:
        ids = [sample.sample_id for sample in case.study.samples]
        self._case = case
        self._tokens = case.tokens_of(ids)
        self._seen = case.exposures_of(ids)
        self._usual = median([count for count in self._seen.values() if count] or [1])
        many = 1_000_000
        self._per_character = case.text_tokens(["x" * many]) / many
        self.document_characters = DOCUMENT_CHARACTERS

    def exposures(self, change: Change, keys: Iterable[str]) -> float:
        """Of showing some samples more often."""
        return sum(
            (change.exposures[key] - 1) * self._tokens[key] * (self._seen[key] or self._usual)
            for key in keys
            if key in change.exposures
        )

    def documents(self, change: Change, characters: float) -> float:
        """Of documents with so many characters, and their share of general text."""
        return characters * self._per_character * change.document_passes / (1 - (change.general_share or 0.0))

    def everything(self, change: Change) -> float:
        """Of further passes over all data."""
        return float(self._case.training_tokens(Change(epochs=change.epochs))) if change.epochs else 0.0
