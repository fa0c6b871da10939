"""Collecting evidence: whatever one plugin does, the others are measured, and what went wrong is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from ilp_service.evidence.collection import collect_evidence, explanation, signals_of
from ilp_service.plugin import Array, Cause, Need, Signal
from ilp_service.study import Study
from ilp_service.testing import fake_study

STUDY = fake_study(samples=6, unlearned=3)
IDS = list(STUDY.unlearned)


class Plain(Cause):
    """A cause that does as it is told."""

    name = "plain"
    title = "A plain cause"
    signals = (
        Signal("share", "0-1", "+", "A share."),
        Signal("nats", "nats", "-", "Some nats."),
        Signal("word", "text", "0", "A word.", kind="text"),
    )

    def __init__(
        self,
        collected: Callable[[Study], Any] | None = None,
        score: Callable[[Mapping[str, Array]], Any] | None = None,
        excludes: Callable[[Mapping[str, Array]], Any] | None = None,
    ) -> None:
        self._collected, self._score, self._excludes = collected or (lambda _: table()), score, excludes

    def collect(self, study: Study) -> pa.Table:
        return self._collected(study)

    def rule(self, signals: Mapping[str, Array]) -> Array:
        return self._score(signals) if self._score else np.nan_to_num(signals["share"])

    def excluded(self, signals: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        return self._excludes(signals) if self._excludes else super().excluded(signals)

    def explain(self, row: Mapping[str, Any]) -> str:
        return f"It says {row['word']}."


class Fine(Plain):
    name = "fine"


class Picky(Plain):
    name = "picky"
    needs = frozenset({Need.BASE_MODEL, Need.TRAJECTORY})


def table(**changes: object) -> pa.Table:
    columns: dict[str, Any] = {
        "sample_id": IDS,
        "share": pa.array([0.0, None, 1.0]),
        "nats": pa.array([1, 2, 3]),
        "word": ["a", None, "c"],
    }
    columns |= changes
    return pa.table({name: values for name, values in columns.items() if values is not None})


def test_a_good_cause_is_measured_with_its_metadata_and_null_kept() -> None:
    evidence = collect_evidence(STUDY, (Plain(),))
    assert dict(evidence.status) == {"plain": "measured"}
    assert dict(evidence.reasons) == {}
    assert evidence.table.column_names == ["sample_id", "plain.share", "plain.nats", "plain.word"]
    assert evidence.table["plain.share"].to_pylist() == [0.0, None, 1.0]
    assert evidence.table["plain.nats"].type == pa.float64()
    metadata = evidence.table.schema.field("plain.nats").metadata
    assert metadata == {b"unit": b"nats", b"direction": b"-", b"meaning": b"Some nats.", b"kind": b"number"}
    rule, excluded = evidence.rules["plain"], evidence.excluded["plain"]
    assert rule is not None
    assert excluded is not None
    assert rule.tolist() == [0, 0, 1]
    assert excluded.tolist() == [False] * 3


def test_rows_in_another_order_are_put_right() -> None:
    turned = collect_evidence(STUDY, (Plain(lambda _: table().take([2, 0, 1])),))
    assert turned.table.equals(collect_evidence(STUDY, (Plain(),)).table)


def raises(study: Study) -> pa.Table:
    raise ValueError("no such luck\nat all")


def leaves(study: Study) -> pa.Table:
    raise SystemExit(2)


def rebinds(study: Study) -> pa.Table:
    study.unlearned = ()  # type: ignore[misc]
    return table()


def changes_settings(study: Study) -> pa.Table:
    study.settings["knowledge.exists"] = 0.0  # type: ignore[index]
    return table()


def writes_into_a_table(study: Study) -> pa.Table:
    study.evaluation["p_correct"].chunk(0).to_numpy()[:] = 0
    return table()


@pytest.mark.parametrize(
    ("collected", "reason"),
    [
        (raises, "it raised ValueError: no such luck."),
        (leaves, "it raised SystemExit: 2."),
        (rebinds, "it raised FrozenInstanceError"),
        (changes_settings, "it raised TypeError"),
        (writes_into_a_table, "it raised ValueError"),
        (lambda _: None, "returned NoneType, expected a pyarrow.Table"),
        (lambda _: table().to_pydict(), "returned dict, expected a pyarrow.Table"),
        (lambda _: table().slice(1), "returned 2 rows, expected 3"),
        (lambda _: pa.concat_tables([table(), table()]), "returned 6 rows, expected 3"),
        (lambda _: table(sample_id=None), "0 columns 'sample_id'"),
        (lambda _: table(sample_id=[IDS[0], IDS[0], IDS[1]]), "a sample_id twice"),
        (lambda _: table(sample_id=[*IDS[:2], "stranger"]), "'stranger', which is not among"),
        (lambda _: table(sample_id=pa.array([*IDS[:2], None])), "None, which is not among"),
        (lambda _: table(sample_id=[1, 2, 3]), "1, which is not among"),
        (lambda _: table(share=None), "0 columns 'share', expected one"),
        (lambda _: table(extra=[1, 2, 3]), "'extra', which no Signal declares"),
        (lambda _: table(share=[0.1, float("nan"), 1.0]), "'share' is NaN for a sample; use null"),
        (lambda _: table(nats=[0.1, float("inf"), 1.0]), "'nats' is infinite"),
        (lambda _: table(nats=[0.1, float("-inf"), 1.0]), "'nats' is infinite"),
        (lambda _: table(share=[-0.1, 0.5, 1.0]), "'share' goes from -0.1 to 1, expected 0 to 1"),
        (lambda _: table(share=[0.1, 0.5, 1.5]), "'share' goes from 0.1 to 1.5"),
        (lambda _: table(nats=["1", "2", "3"]), "'nats' has type string, expected numbers"),
        (lambda _: table(word=[1, 2, 3]), "'word' has type int64, expected text"),
    ],
)
def test_a_cause_that_breaks_the_contract_fails_alone(collected: Callable[[Study], Any], reason: str) -> None:
    evidence = collect_evidence(STUDY, (Plain(collected), Fine()))
    assert dict(evidence.status) == {"plain": "failed", "fine": "measured"}
    assert reason in evidence.reasons["plain"]
    assert evidence.reasons["plain"].startswith("plain failed: ")
    assert evidence.reasons["plain"].endswith(".")
    assert "\n" not in evidence.reasons["plain"]
    assert evidence.rules["plain"] is None
    assert evidence.excluded["plain"] is None
    assert evidence.table["plain.share"].null_count == 3
    assert evidence.table["fine.share"].to_pylist() == [0.0, None, 1.0]


def test_nothing_of_the_study_was_changed_by_the_attempts() -> None:
    again = fake_study(samples=6, unlearned=3)
    assert again.unlearned == STUDY.unlearned
    assert again.evaluation.equals(STUDY.evaluation)
    assert dict(again.settings) == dict(STUDY.settings)


def test_forcing_an_attribute_reaches_no_other_plugin() -> None:
    def forces(study: Study) -> pa.Table:
        object.__setattr__(study, "unlearned", ())
        return table()

    seen: list[tuple[str, ...]] = []
    evidence = collect_evidence(STUDY, (Plain(forces), Fine(lambda study: (seen.append(study.unlearned), table())[1])))
    assert seen == [tuple(IDS)]
    assert evidence.status["fine"] == "measured"
    assert tuple(IDS) == STUDY.unlearned


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (lambda signals: signals["share"], "rule() returned NaN for a sample"),
        (lambda _: np.array([0.0, 1.2, 0.5]), "rule() returned the score 1.2, expected 0 to 1"),
        (lambda _: np.array([0.0, -0.2, 0.5]), "the score -0.2"),
        (lambda _: np.array([0.0, np.inf, 0.5]), "the score inf"),
        (lambda _: np.zeros(2), "shape (2,), expected (3,)"),
        (lambda _: np.zeros((3, 1)), "shape (3, 1), expected (3,)"),
        (lambda _: 0.5, "shape (), expected (3,)"),
        (lambda _: ["a", "b", "c"], "expected numbers"),
        (lambda _: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_rule_outside_its_range_fails_the_cause(score: Callable[[Mapping[str, Array]], Any], reason: str) -> None:
    evidence = collect_evidence(STUDY, (Plain(score=score), Fine()))
    assert dict(evidence.status) == {"plain": "failed", "fine": "measured"}
    assert reason in evidence.reasons["plain"]
    assert evidence.table["plain.share"].null_count == 3


@pytest.mark.parametrize(
    ("excludes", "reason"),
    [
        (lambda _: np.array([0.0, 1.0, 0.0]), "excluded() returned float64 values"),
        (lambda _: np.array([True]), "of shape (1,), expected bool of (3,)"),
        (lambda signals: signals["absent"], "KeyError"),
    ],
)
def test_an_exclusion_that_is_no_mask_fails_the_cause(
    excludes: Callable[[Mapping[str, Array]], Any], reason: str
) -> None:
    evidence = collect_evidence(STUDY, (Plain(excludes=excludes),))
    assert evidence.status["plain"] == "failed"
    assert reason in evidence.reasons["plain"]


def test_a_rule_that_writes_into_its_signals_changes_nothing() -> None:
    def scribbles(signals: Mapping[str, Array]) -> Array:
        signals["share"][:] = 0.25
        return signals["share"]

    evidence = collect_evidence(STUDY, (Plain(score=scribbles),))
    assert evidence.status["plain"] == "measured"
    assert evidence.table["plain.share"].to_pylist() == [0.0, None, 1.0]
    assert evidence.excluded["plain"] is not None


def test_needs_that_are_not_met_are_told_and_nothing_is_guessed() -> None:
    bare = fake_study(samples=6, unlearned=3, base=False, trajectory=False)
    asked: list[Study] = []
    picky = Picky(lambda study: (asked.append(study), table())[1])
    evidence = collect_evidence(bare, (picky,))
    assert asked == []
    assert evidence.status["picky"] == "not_measurable"
    assert "needs the base model" in evidence.reasons["picky"]
    assert "needs the training record" in evidence.reasons["picky"]
    assert evidence.table["picky.share"].to_pylist() == [None] * 3
    assert collect_evidence(STUDY, (picky,)).status["picky"] == "measured"


def test_an_interrupt_goes_through() -> None:
    def interrupted(study: Study) -> pa.Table:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_evidence(STUDY, (Plain(interrupted),))


def test_nothing_unlearned_gives_an_empty_table_with_every_column() -> None:
    empty = fake_study(samples=4, unlearned=0)
    evidence = collect_evidence(empty, (Plain(lambda _: table().slice(0, 0)),))
    assert evidence.status["plain"] == "measured"
    assert evidence.table.num_rows == 0
    assert evidence.table.num_columns == 4


def test_a_cause_with_text_alone_needs_no_exclusions_of_its_own() -> None:
    class Words(Plain):
        name = "words"
        signals = (Signal("word", "text", "0", "A word.", kind="text"),)

    words = Words(lambda _: table(share=None, nats=None), score=lambda _: np.zeros(3))
    excluded = collect_evidence(STUDY, (words,)).excluded["words"]
    assert excluded is not None
    assert excluded.tolist() == [False] * 3


def test_an_explanation_never_ends_a_diagnosis() -> None:
    cause = Plain()
    rows = signals_of(collect_evidence(STUDY, (cause,)).table, cause)
    assert rows[0] == {"share": 0.0, "nats": 1.0, "word": "a"}
    assert explanation(cause, rows[0]) == "It says a."
    assert explanation(cause, {}) == "A plain cause (the plugin could not explain it: it raised KeyError: 'word')."
    assert explanation(cause, {"word": "two\nlines"}) == "It says two lines."

    class Silent(Plain):
        def explain(self, row: Mapping[str, Any]) -> str:
            return str(row["word"])[:0]

    assert "could not explain" in explanation(Silent(), rows[0])
