"""The default judge: what most near-duplicates answer, and what the base model believes. Works offline."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ilp_service.plugin import Choice, Judge, Pair, Sample, Setup, Study, Verdict, normalise_answer

_RELIABILITY = 0.8
"""Chance that what all near-duplicates say is right: a mistake is copied with its sample, so many count as one."""
_DOUBT = 0.1
"""Probability below which the base's belief in an answer says nothing."""
_VOTE = math.log(_RELIABILITY / (1 - _RELIABILITY))
_CLOZE, _PROBE = "cloze_base_p", "probe_base_p"
_FORMS = {"base_p": "asked as it stands", "few_shot_base_p": "shown examples", _CLOZE: "completing a statement"}

_Beliefs = dict[str, dict[str, float]]
"""By form of asking, then by answer, written one way: the base's probability, 0-1."""


class Consensus(Judge):
    """Weighs each answer by two witnesses: the share of the near-duplicates that give it, and the base's belief.

    The base is heard in the form of asking in which it tells the two apart best: it may know a fact and yet not
    understand the question. Other answers that near-duplicates give stand for *neither*. *Unsure* is for pairs that
    nothing speaks about.
    """

    name: ClassVar[str] = "consensus"
    title: ClassVar[str] = "Majority of near-duplicates and the base model's belief"

    def judge(self, pairs: Sequence[Pair], setup: Setup) -> Sequence[Verdict]:
        """One verdict a pair; without a study there is nothing to weigh."""
        tables = _Tables.of(setup.study) if setup.study is not None else _Tables({}, {}, {})
        return [tables.verdict(pair) for pair in pairs]


@dataclass(frozen=True, slots=True)
class _Tables:
    """What the study says, by sample id.

    Attributes:
        samples: Every sample.
        near: Ids of the samples that ask the same.
        belief: What the base believes about each.
    """

    samples: Mapping[str, Sample]
    near: Mapping[str, set[str]]
    belief: Mapping[str, _Beliefs]

    @classmethod
    def of(cls, study: Study) -> _Tables:
        near: dict[str, set[str]] = defaultdict(set)
        least = study.settings["knowledge.similarity"]
        for row in study.neighbours.to_pylist():
            same = row.get("same_entities")
            if same if same is not None else row["similarity"] >= least:
                near[row["sample_id"]].add(row["neighbour_id"])
        belief: dict[str, _Beliefs] = defaultdict(lambda: defaultdict(dict))
        for row in study.options.to_pylist():
            answer = normalise_answer(row["text"])
            for form in _FORMS:
                if (held := _held(row, form)) is not None:
                    known = belief[row["sample_id"]][form]
                    known[answer] = max(held, known.get(answer, 0.0))
        return cls({sample.sample_id: sample for sample in study.samples}, dict(near), dict(belief))

    def verdict(self, pair: Pair) -> Verdict:
        """Which of the two is right."""
        first, second = normalise_answer(pair.first.response), normalise_answer(pair.second.response)
        if first == second:
            return Verdict(Choice.BOTH, 1.0, "Both give the same answer, written otherwise.")
        votes = self._votes(pair)
        form, belief = self._believed(pair, first, second)
        said = f"Near-duplicates: {votes[first]} for {_quote(pair.first)}, {votes[second]} for {_quote(pair.second)}"
        others = sorted(set(votes) - {first, second})
        said += f", {sum(votes[answer] for answer in others)} for others; " if others else "; "
        said += _said(form, belief, first, second)
        weights = {
            answer: _VOTE * votes[answer] / votes.total()
            + (math.log(belief.get(answer, 0.0) + _DOUBT) if belief else 0.0)
            for answer in (first, second, *others)
        }
        top = max(weights.values())
        mass = {answer: math.exp(weight - top) for answer, weight in weights.items()}
        total = math.fsum(sorted(mass.values()))
        chances = {
            Choice.FIRST: mass[first] / total,
            Choice.SECOND: mass[second] / total,
            Choice.NEITHER: math.fsum(mass[answer] for answer in others) / total,
        }
        choice, chance = max(chances.items(), key=lambda one: one[1])
        if math.isclose(chances[Choice.FIRST], chances[Choice.SECOND], rel_tol=1e-9) and choice is not Choice.NEITHER:
            return Verdict(Choice.UNSURE, chance, f"{said}, so neither weighs more.")
        return Verdict(choice, chance, f"{said}.")

    def _votes(self, pair: Pair) -> Counter[str]:
        """How many samples that ask the same give each answer, the two included."""
        two = {one.sample_id: one for one in (pair.first, pair.second)}
        near = {key for one in two for key in self.near.get(one, ())} - set(two)
        everybody = [*two.values(), *(self.samples[key] for key in near if key in self.samples)]
        return Counter(normalise_answer(sample.response) for sample in everybody)

    def _believed(self, pair: Pair, first: str, second: str) -> tuple[str, dict[str, float]]:
        """The form in which the base tells two answers apart best, and its belief in each answer asked in that form.

        The mean where it was asked about both samples; empty where it was not asked.
        """
        asked = [self.belief[one.sample_id] for one in (pair.first, pair.second) if self.belief.get(one.sample_id)]
        believed: _Beliefs = {}
        for form in _FORMS:
            held = [beliefs[form] for beliefs in asked if beliefs.get(form)]
            answers = sorted({answer for one in held for answer in one})
            believed[form] = {answer: math.fsum(one.get(answer, 0.0) for one in held) / len(held) for answer in answers}
        apart = {form: abs(_odds(one, first, second)) for form, one in believed.items()}
        surest = max(_FORMS, key=lambda form: (apart[form], bool(believed[form])))
        return surest, believed[surest]


def _odds(belief: Mapping[str, float], first: str, second: str) -> float:
    """Log-odds of two answers; 0 where the base knows neither."""
    return math.log((belief.get(first, 0.0) + _DOUBT) / (belief.get(second, 0.0) + _DOUBT))


def _held(row: Mapping[str, Any], form: str) -> float | None:
    probed = row.get(_PROBE) if form == _CLOZE else None
    held = probed if probed is not None else row.get(form)
    return None if held is None else float(held)


def _said(form: str, belief: Mapping[str, float], first: str, second: str) -> str:
    if not belief:
        return "the base model was not asked"
    said = f"{belief.get(first, 0.0):.0%} and {belief.get(second, 0.0):.0%}"
    return f"the base model, {_FORMS[form]}, believes them {said}"


def _quote(sample: Sample) -> str:
    short = " ".join(sample.response.split())
    return f"'{short if len(short) <= 60 else short[:59] + '…'}'"
