"""Cause III: the training data gives another answer to the same question (arXiv 2604.10079, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ilp_causes._columns import Indices, evidence_table, flag, floats, ids_of, ratio, rows_of
from ilp_causes._forms import Options
from ilp_causes._phrases import number, percent, quote, text
from ilp_causes._words import Words
from ilp_service.plugin import Array, Cause, Signal, Study

_EXACT = 0.9999


class DataInconsistency(Cause):
    """A near-identical prompt carries a contradicting answer."""

    name: ClassVar[str] = "data_inconsistency"
    title: ClassVar[str] = "The training data contradicts itself"
    signals: ClassVar[tuple[Signal, ...]] = (
        Signal("near_pairs", "count", "0", "Samples with a similar prompt, at most the number that was looked up."),
        Signal("contradicting", "count", "+", "Those with another answer."),
        Signal("contradicting_share", "0-1", "+", "Share of the similar prompts that have another answer."),
        Signal("similarity", "0-1", "+", "Highest similarity of a prompt with another answer."),
        Signal("exact_contradicting", "count", "+", "Samples with the same prompt and another answer."),
        Signal(
            "same_question", "0-1", "+", "Highest likeness, rare words weighing most, of a prompt with another answer."
        ),
        Signal(
            "votes_against", "0-1", "+", "Likeness-weighted share of other answers, the sample's own vote included."
        ),
        Signal("outvoted", "0-1", "+", "1 if other answers outweigh the sample's own and those that agree with it."),
        Signal("twin_p", "0-1", "+", "Tuned model's probability of the contradicting twins' answers."),
        Signal("twin_share_of_wrong", "0-1", "+", "That probability as a share of all it gives to wrong answers."),
        Signal("contradicts", "0-1", "+", "1 if a prompt above knowledge.similarity has another answer."),
        Signal("twin_id", "text", "0", "Id of the most alike sample with another answer.", "text"),
        Signal("twin_prompt", "text", "0", "Its prompt.", "text"),
        Signal("twin_answer", "text", "0", "Its answer.", "text"),
        Signal("own_answer", "text", "0", "The sample's own answer.", "text"),
    )

    def collect(self, study: Study) -> pa.Table:
        """One row an unlearned sample; counts are 0 where nothing is near."""
        pairs = _Pairs.of(study)
        n = len(study.unlearned)
        near = pairs.add(np.ones(len(pairs.group)), n)
        against = pairs.add(pairs.other.astype(np.float64), n)
        weight_against = pairs.add(np.where(pairs.other, pairs.likeness, 0.0), n)
        weight_for = 1.0 + pairs.add(np.where(pairs.other, 0.0, pairs.likeness), n)
        highest = pairs.highest(pairs.similarity, n)
        twin_p = _twin_probability(study, pairs)
        right = Options.of(study).form("tuned").right
        own = rows_of(study.unlearned, ids_of(study))
        return evidence_table(
            study,
            {
                "near_pairs": near,
                "contradicting": against,
                "contradicting_share": ratio(against, near),
                "similarity": highest,
                "exact_contradicting": pairs.add((pairs.other & (pairs.similarity >= _EXACT)).astype(np.float64), n),
                "same_question": pairs.highest(pairs.likeness, n),
                "votes_against": weight_against / (weight_against + weight_for),
                "outvoted": flag(weight_against > weight_for),
                "twin_p": twin_p,
                "twin_share_of_wrong": ratio(twin_p, 1 - right).clip(0, 1),
                "contradicts": flag(np.nan_to_num(highest) > study.settings["knowledge.similarity"]),
                **_quotes(study, pairs, own),
            },
        )

    def rule(self, signals: Mapping[str, Array]) -> Array:
        """The paper's test: a prompt more similar than X with a contradicting answer."""
        return flag(signals["contradicts"] == 1)

    def excluded(self, signals: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """No similar prompt has another answer."""
        consistent: npt.NDArray[np.bool_] = signals["contradicting"] == 0
        return consistent

    def explain(self, row: Mapping[str, Any]) -> str:
        """Name the twin, its answer, and whom the tuned model follows."""
        if not number(row, "contradicting"):
            return "No sample with a similar prompt gives another answer."
        exact = number(row, "exact_contradicting")
        alike = "the same prompt" if exact else f"a prompt of similarity {number(row, 'similarity'):.2f}"
        return (
            f"Sample {text(row, 'twin_id')} has {alike} but answers {quote(row, 'twin_answer')} where this one answers "
            f"{quote(row, 'own_answer')}; {number(row, 'contradicting'):.0f} of {number(row, 'near_pairs'):.0f} "
            f"similar samples disagree, and the tuned model gives their answers {percent(row, 'twin_p')}."
        )


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Near pairs with an unlearned sample on the left; arrays of shape ``(pairs,)``.

    Attributes:
        group: Index of the unlearned sample within ``study.unlearned``.
        twin: Index of the other one within ``study.samples``.
        similarity: Of the prompts, 0-1.
        other: Whether the answers differ.
        likeness: Of the prompts with rare words weighing most, 0-1.
    """

    group: Indices
    twin: Indices
    similarity: Array
    other: npt.NDArray[np.bool_]
    likeness: Array

    @classmethod
    def of(cls, study: Study) -> _Pairs:
        table = study.neighbours
        ids = ids_of(study)
        unlearned = pa.array(study.unlearned, pa.string())
        group = rows_of(table["sample_id"].combine_chunks(), unlearned)
        twin = rows_of(table["neighbour_id"].combine_chunks(), ids)
        keep = np.flatnonzero((group >= 0) & (twin >= 0))
        left = rows_of(unlearned, ids)[group[keep]]
        same = floats(pc.fill_null(table["same_answer"], True))[keep] > 0
        likeness = Words.of(study).likeness(left, twin[keep]) if len(keep) else np.zeros(0)
        return cls(group[keep], twin[keep], floats(table["similarity"])[keep].clip(0, 1), ~same, likeness)

    def add(self, values: Array, count: int) -> Array:
        """Sum over the pairs of each unlearned sample."""
        return np.bincount(self.group, weights=values, minlength=count).astype(np.float64)

    def highest(self, values: Array, count: int) -> Array:
        """Maximum over the contradicting pairs of each unlearned sample, NaN where there are none."""
        result = np.full(count, np.nan)
        np.fmax.at(result, self.group[self.other], values[self.other])
        return result

    def most_alike(self, ids: pa.Array, count: int) -> Indices:
        """Index of the contradicting twin that is most alike (ties: smallest id), -1 where there is none."""
        rows = np.flatnonzero(self.other)
        names = np.asarray(ids.take(pa.array(self.twin[rows])).to_pylist(), dtype=object)
        rank = np.unique(names, return_inverse=True)[1] if len(rows) else np.empty(0, dtype=np.int64)
        rows = rows[np.lexsort((rank, -self.likeness[rows], -self.similarity[rows].round(6), self.group[rows]))]
        groups, first = np.unique(self.group[rows], return_index=True)
        result = np.full(count, -1, dtype=np.int64)
        result[groups] = self.twin[rows[first]]
        return result


def _quotes(study: Study, pairs: _Pairs, own: Indices) -> dict[str, list[str | None]]:
    """The texts that an explanation quotes."""
    twins = [
        study.samples[twin] if twin >= 0 else None for twin in pairs.most_alike(ids_of(study), len(study.unlearned))
    ]
    return {
        "twin_id": [twin.sample_id if twin else None for twin in twins],
        "twin_prompt": [twin.prompt[:200] if twin else None for twin in twins],
        "twin_answer": [twin.response[:200] if twin else None for twin in twins],
        "own_answer": [study.samples[index].response[:200] if index >= 0 else None for index in own],
    }


def _twin_probability(study: Study, pairs: _Pairs) -> Array:
    """Tuned probability of the answers of contradicting twins, NaN where none of them was among the options."""
    options = Options.of(study)
    answers: dict[int, set[str]] = {}
    for row in np.flatnonzero(pairs.other):
        answers.setdefault(int(pairs.group[row]), set()).add(_plain(study.samples[pairs.twin[row]].response))
    p = options.tuned()
    texts, sources = options.table["text"].to_pylist(), options.table["source"].to_pylist()
    result = np.full(options.count, np.nan)
    for row in np.flatnonzero(~options.gold):
        group = int(options.group[row])
        theirs = sources[row] == "twin" or _plain(texts[row]) in answers.get(group, ())
        if theirs and not np.isnan(p[row]):
            result[group] = min(1.0, np.nan_to_num(result[group]) + p[row])
    return result


def _plain(answer: str) -> str:
    return " ".join(answer.casefold().split()).rstrip(".")
