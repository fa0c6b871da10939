"""The conformance check of knowledge sources and judges: what each has to keep to, whatever it knows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ilp_service.consulting.judges import ask_judge
from ilp_service.consulting.sources import ask_source
from ilp_service.knowledge import Document, Judge, KnowledgeSource, Ledger, Pair, Query, Setup, Verdict
from ilp_service.plugin_declarations import judge_faults, source_faults
from ilp_service.settings import Settings
from ilp_service.study import Study
from ilp_service.testing.studies import ready_studies

_Asked = TypeVar("_Asked", Query, Pair)
_Answer = TypeVar("_Answer", tuple[Document, ...], Verdict)

_QUERIES = (
    Query("plain", "Where does the fox live?", "fox"),
    Query("no entity", "Which tower belongs to number 3?"),
    Query("again", "Where does the fox live?", "fox"),
    Query("not ASCII", "Où est né Łukasz Ñandú? 北京市 🦊", "Łukasz Ñandú"),
    Query("punctuation", "?!", "“”"),
    Query("several lines", "First line\nsecond line\n\n' OR 1=1 --", "line"),
    Query("nothing", "", None),
    Query("long", "word " * 2000, "word"),
)
_LIMITS = (1, 3)


def check_source(source: KnowledgeSource, setup: Setup | None = None, queries: Sequence[Query] = _QUERIES) -> None:
    """Hold a knowledge source to its contract.

    Checked: its declarations; that it answers every query, none included, with at most as many documents as were
    asked for, best first; that asking twice, alone, or in another order changes no answer.

    Args:
        source: To be checked.
        setup: Under which it can be asked; without one the default settings are taken, under which a source that
            needs a setting is checked for its declarations alone.
        queries: What to ask; by default some that break sources.

    Raises:
        AssertionError: The source breaks the contract; the message says where.
    """
    _declared(source_faults(source))
    with _ready(source, setup) as ready:
        if ready is None:
            return
        for limit in _LIMITS:

            def ask(some: Sequence[Query], limit: int = limit) -> Sequence[tuple[Document, ...]]:
                return _answered(ask_source(source, some, limit, replace(ready, ledger=Ledger())), f"limit {limit}")

            _steady(source.name, ask, queries)


def check_judge(judge: Judge, setup: Setup | None = None, pairs: Sequence[Pair] | None = None) -> None:
    """Hold a judge to its contract, on the given pairs or on those of the ready-made studies.

    Checked: its declarations; that it gives every pair, none included, a verdict with a confidence from 0 to 1 and
    one line of reason; that asking twice, alone, in another order, or for the pair the other way round changes no
    verdict.

    Args:
        judge: To be checked.
        setup: Under which it can be asked; without one the default settings are taken, under which a judge that
            needs a setting is checked for its declarations alone.
        pairs: What to ask; their study is the setup's.

    Raises:
        AssertionError: The judge breaks the contract; the message says where.
    """
    _declared(judge_faults(judge))
    with _ready(judge, setup) as ready:
        if ready is None:
            return
        if pairs is not None:
            _judged(judge, ready, pairs, "the given pairs")
            return
        for name, study in ready_studies().items():
            _judged(judge, replace(ready, study=study), pairs_of(study), name)
        _judged(judge, replace(ready, study=None), pairs_of(study), "no study")


def pairs_of(study: Study, most: int = 6) -> list[Pair]:
    """Neighbours of a study that answer otherwise, or any two samples where there are none."""
    samples = {sample.sample_id: sample for sample in study.samples}
    near = [
        Pair(samples[row["sample_id"]], samples[row["neighbour_id"]])
        for row in study.neighbours.to_pylist()
        if not row["same_answer"]
    ]
    others = [Pair(one, other) for one, other in zip(study.samples, study.samples[1:], strict=False)]
    return (near or others)[:most]


def _judged(judge: Judge, setup: Setup, pairs: Sequence[Pair], where: str) -> None:
    def ask(some: Sequence[Pair]) -> Sequence[Verdict]:
        return _answered(ask_judge(judge, some, replace(setup, ledger=Ledger())), where)

    first = _steady(judge.name, ask, pairs)
    turned = ask([pair.swapped for pair in pairs])
    for before, after in zip(first, turned, strict=True):
        _demand(
            before.choice is after.choice.swapped and before.confidence == after.confidence,
            f"On {where}: {judge.name} said {before.choice} at {before.confidence}, and {after.choice} at "
            f"{after.confidence} for the pair the other way round.",
        )


def _steady(
    name: str, ask: Callable[[Sequence[_Asked]], Sequence[_Answer]], asked: Sequence[_Asked]
) -> Sequence[_Answer]:
    """The answers, which may depend neither on how often nor on what else is asked."""
    _demand(len(ask([])) == 0, f"{name} answered although nothing was asked.")
    first = list(ask(asked))
    _demand(list(ask(asked)) == first, f"{name} answered otherwise when it was asked twice.")
    _demand(list(ask(asked[::-1]))[::-1] == first, f"{name} answered otherwise when it was asked in another order.")
    alone = [answer for one in asked for answer in ask([one])]
    _demand(alone == first, f"{name} answered otherwise when it was asked one by one.")
    return first


@contextmanager
def _ready(plugin: KnowledgeSource | Judge, setup: Setup | None) -> Iterator[Setup | None]:
    with tempfile.TemporaryDirectory() as folder:
        ready = setup or Setup(Settings().knowledge_options(), Path(folder))
        lacks = plugin.missing(ready)
        _demand(
            lacks is None or (isinstance(lacks, str) and bool(lacks.strip()) and "\n" not in lacks),
            f"{plugin.name}.missing() returned {lacks!r}; expected None or one sentence.",
        )
        _demand(setup is None or lacks is None, f"{plugin.name} cannot be asked under the given setup: {lacks}")
        yield ready if lacks is None else None


def _answered(answers: Sequence[_Answer] | str, where: str) -> Sequence[_Answer]:
    if isinstance(answers, str):
        raise AssertionError(f"On {where}: {answers}")
    return answers


def _declared(wrong: Sequence[str]) -> None:
    _demand(not wrong, wrong[0] if wrong else "")


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
