"""The default judge: what most near-duplicates answer, and what the base model believes. Works offline."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ilp_service.plugin import Choice, Judge, Pair, Sample, Setup, Study, Verdict, normalise_answer

_RELIABILITY = 0.8
"""Chance that one training sample is right, as a witness independent of the others."""
_DOUBT = 0.1
"""Probability below which the base's belief in an answer says nothing."""
_VOTE = math.log(_RELIABILITY / (1 - _RELIABILITY))
_CLOZE, _PROBE = "cloze_base_p", "probe_base_p"
_FORMS = ("base_p", "few_shot_base_p", _CLOZE)


class Consensus(Judge):
    """Weighs each answer: every near-duplicate that gives it is a witness, the base's belief is one more.

    The base's belief in an answer is the least probability that any form of asking gives it: what all of them share.
    Other answers that near-duplicates give stand for *neither*. *Unsure* is for pairs that nothing speaks about.
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
        belief: The base's belief in each answer, written one way; 0-1.
    """

    samples: Mapping[str, Sample]
    near: Mapping[str, set[str]]
    belief: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, study: Study) -> _Tables:
        near: dict[str, set[str]] = defaultdict(set)
        least = study.settings["knowledge.similarity"]
        for row in study.neighbours.to_pylist():
            same = row.get("same_entities")
            if same if same is not None else row["similarity"] >= least:
                near[row["sample_id"]].add(row["neighbour_id"])
        belief: dict[str, dict[str, float]] = defaultdict(dict)
        for row in study.options.to_pylist():
            if (held := _belief(row)) is not None:
                answer = normalise_answer(row["text"])
                belief[row["sample_id"]][answer] = max(held, belief[row["sample_id"]].get(answer, 0.0))
        return cls({sample.sample_id: sample for sample in study.samples}, dict(near), dict(belief))

    def verdict(self, pair: Pair) -> Verdict:
        """Which of the two is right."""
        first, second = normalise_answer(pair.first.response), normalise_answer(pair.second.response)
        if first == second:
            return Verdict(Choice.BOTH, 1.0, "Both give the same answer, written otherwise.")
        votes = self._votes(pair)
        belief = self._believed(pair)
        said = f"Near-duplicates: {votes[first]} for {_quote(pair.first)}, {votes[second]} for {_quote(pair.second)}"
        others = sorted(set(votes) - {first, second})
        said += f", {sum(votes[answer] for answer in others)} for others; " if others else "; "
        said += _said(belief, first, second)
        weights = {
            answer: _VOTE * votes[answer] + (math.log(belief.get(answer, 0.0) + _DOUBT) if belief else 0.0)
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

    def _believed(self, pair: Pair) -> dict[str, float]:
        """The base's belief, the mean where it was asked about both samples; empty where it was not asked."""
        asked = [self.belief[one.sample_id] for one in (pair.first, pair.second) if self.belief.get(one.sample_id)]
        answers = {answer for held in asked for answer in held}
        return {answer: math.fsum(held.get(answer, 0.0) for held in asked) / len(asked) for answer in answers}


def _belief(row: Mapping[str, Any]) -> float | None:
    probed = _PROBE if row.get(_PROBE) is not None else _CLOZE
    forms = [row.get(probed if name == _CLOZE else name) for name in _FORMS]
    held = [float(value) for value in forms if value is not None]
    return min(held) if held else None


def _said(belief: Mapping[str, float], first: str, second: str) -> str:
    if not belief:
        return "the base model was not asked"
    return f"the base model believes them {belief.get(first, 0.0):.0%} and {belief.get(second, 0.0):.0%}"


def _quote(sample: Sample) -> str:
    short = " ".join(sample.response.split())
    return f"'{short if len(short) <= 60 else short[:59] + '…'}'"
