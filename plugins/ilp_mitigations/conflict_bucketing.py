"""Remedy for cause III: the wrong one of two contradicting samples goes, two right ones are kept apart.

arXiv 2604.10079, section 5: an evaluator judges both samples of a pair; deletion alone and bucketing alone are the
ablations of its Table 8.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ilp_mitigations._documents import PAPER, plural, refusing
from ilp_service.plugin import (
    Case,
    Change,
    Choice,
    Mitigation,
    Pair,
    Parameter,
    Plan,
    Price,
    Sample,
    SettingsError,
    Verdict,
)

_BOTH, _DELETION, _BUCKETING = "both", "deletion", "bucketing"
_MODE = Parameter(
    "mitigations.contradictions",
    _BOTH,
    "'both' removes wrong samples and keeps right ones apart; 'deletion' and 'bucketing' do one of them.",
    f"{PAPER}; its Table 8 has all three",
)
_ALONE = "No sample that asks the same answers otherwise."


class ConflictBucketing(Mitigation):
    """Contradicting pairs are judged; wrong samples are removed, right ones never share a mini-batch."""

    name: ClassVar[str] = "conflict_bucketing"
    title: ClassVar[str] = "Judge contradicting samples: remove the wrong, keep the right apart"
    causes: ClassVar[frozenset[str]] = frozenset({"data_inconsistency"})
    parameters: ClassVar[tuple[Parameter, ...]] = (_MODE,)

    def plan(self, case: Case) -> Plan:
        """What the judge's verdicts on all contradicting pairs of the targets come to.

        Raises:
            SettingsError: The mode is none.
        """
        mode = str(case.value(_MODE))
        if mode not in (_BOTH, _DELETION, _BUCKETING):
            raise SettingsError(f"{_MODE.name} is {mode!r}; expected {_BOTH!r}, {_DELETION!r} or {_BUCKETING!r}.")
        pairs = contradictions(case)
        if mode == _BUCKETING:
            wanted = [(one.sample_id, other.sample_id) for found in pairs.values() for one, other in found]
            refused = {key: _ALONE for key in case.targets if not pairs[key]}
            return self._planned(case, refused, Change(apart=frozenset(wanted)), 0)
        judged = _Judged.of(case, pairs)
        apart = judged.apart if mode == _BOTH else frozenset()
        change = Change(removed=judged.removed, apart=apart)
        refused = {}
        for key in case.targets:
            others = {other.sample_id for _, other in pairs[key]}
            kept_apart = any(key in pair and not others.isdisjoint(pair) for pair in change.apart)
            if not pairs[key]:
                refused[key] = _ALONE
            elif key not in change.removed and not kept_apart and others.isdisjoint(change.removed):
                refused[key] = judged.why_not(key, mode)
        return self._planned(case, refused, change, judged.judgements)

    def _planned(self, case: Case, refused: Mapping[str, str], change: Change, judgements: int) -> Plan:
        treats = tuple(key for key in case.targets if key not in refused)
        apart = {key for pair in change.apart for key in pair}
        return Plan(
            self.name,
            treats,
            refused,
            change,
            Price(case.training_tokens(change), 0, judgements),
            f"Remove {plural(len(change.removed), 'sample')} judged wrong and keep {plural(len(apart), 'sample')} that "
            f"contradict one another in {plural(len(set(change.buckets.values())), 'bucket')}, after "
            f"{plural(judgements, 'judgement')}{refusing(refused)}.",
        )


def contradictions(case: Case) -> dict[str, list[tuple[Sample, Sample]]]:
    """For each target the pairs of it and a sample that asks the same and answers otherwise."""
    samples = case.samples()
    table = case.study.neighbours
    same = table["same_entities"].to_pylist() if "same_entities" in table.column_names else [None] * table.num_rows
    rows = zip(*(table[name].to_pylist() for name in ("sample_id", "neighbour_id", "same_answer")), same, strict=True)
    found: dict[str, dict[str, None]] = {key: {} for key in case.targets}
    wanted = set(case.targets)
    for one, other, same_answer, same_thing in rows:
        if same_answer or same_thing is False:
            continue
        # Only unlearned samples stand on the left, so a target at risk is found on the right alone.
        for key, against in ((one, other), (other, one)):
            if key in wanted:
                found[key][against] = None
    return {key: [(samples[key], samples[other]) for other in others] for key, others in found.items()}


@dataclass(slots=True)
class _Judged:
    """Verdicts gathered by sample.

    Attributes:
        removed: Samples that are surer wrong than right, with the reason.
        apart: Pairs of samples that are both right.
        judgements: Pairs that were judged.
    """

    judgements: int = 0
    removed: dict[str, str] = field(default_factory=dict)
    apart: frozenset[tuple[str, str]] = frozenset()
    _verdicts: dict[str, list[Verdict]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, case: Case, pairs: Mapping[str, Sequence[tuple[Sample, Sample]]]) -> _Judged:
        judged = cls()
        copies = _Copies(case.study.samples)
        # Copies of a sample say the same as it does: a pair is judged once for all of them.
        asked: dict[tuple[str, str], Pair] = {}
        for pair in _all(pairs):
            one, other = sorted((copies.first(pair.first), copies.first(pair.second)), key=lambda each: each.sample_id)
            asked.setdefault((one.sample_id, other.sample_id), Pair(one, other))
        verdicts = dict(zip(asked, case.consult.judge(list(asked.values())), strict=True))
        judged.judgements = len(asked)
        wrong: dict[str, list[Verdict]] = defaultdict(list)
        right: dict[str, list[Verdict]] = defaultdict(list)
        both = set()
        for pair in _all(pairs):
            first, second = copies.first(pair.first).sample_id, copies.first(pair.second).sample_id
            verdict = verdicts[min(first, second), max(first, second)]
            if first > second:
                verdict = Verdict(verdict.choice.swapped, verdict.confidence, verdict.reason)
            ids = pair.first.sample_id, pair.second.sample_id
            for key in ids:
                judged._verdicts[key].append(verdict)
            for key, fine in zip(ids, (Choice.FIRST, Choice.SECOND), strict=True):
                if verdict.choice in (fine, Choice.BOTH):
                    right[key].append(verdict)
                elif verdict.choice is not Choice.UNSURE:
                    wrong[key].append(verdict)
            if verdict.choice is Choice.BOTH:
                both.add((min(ids), max(ids)))
        for key, against in sorted(wrong.items()):
            surest = max(against, key=lambda verdict: verdict.confidence)
            if all(surest.confidence > verdict.confidence for verdict in right[key]):
                judged.removed[key] = f"Judged wrong ({surest.confidence:.2f}): {surest.reason}"
        judged.apart = frozenset(both)
        return judged

    def why_not(self, key: str, mode: str) -> str:
        """Why a target with contradicting samples is left as it is."""
        verdicts = self._verdicts[key]
        unsure = [verdict for verdict in verdicts if verdict.choice is Choice.UNSURE]
        if len(unsure) == len(verdicts):
            return f"The judge is unsure of all {plural(len(verdicts), 'pair')}: {unsure[0].reason}"
        if mode == _DELETION and any(verdict.choice is Choice.BOTH for verdict in verdicts):
            return "Both samples were judged right, and only deletion was asked for."
        return "The verdicts on its pairs contradict one another, so nothing is removed."


class _Copies:
    """Samples of the same content; the smallest id stands for all."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._first: dict[tuple[object, ...], Sample] = {}
        for sample in sorted(samples, key=lambda one: one.sample_id):
            self._first.setdefault(_content(sample), sample)

    def first(self, sample: Sample) -> Sample:
        return self._first[_content(sample)]


def _content(sample: Sample) -> tuple[object, ...]:
    return sample.context, sample.response, sample.choices


def _all(pairs: Mapping[str, Sequence[tuple[Sample, Sample]]]) -> Iterator[Pair]:
    """Every pair once, the smaller id first, sorted."""
    by_ids = {}
    for found in pairs.values():
        for pair in found:
            one, other = sorted(pair, key=lambda sample: sample.sample_id)
            by_ids[one.sample_id, other.sample_id] = Pair(one, other)
    return (by_ids[key] for key in sorted(by_ids))
