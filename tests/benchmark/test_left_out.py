from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ilp_service.benchmark.left_out import left_out, switched_off, without
from ilp_service.evidence.collection import Evidence
from ilp_service.plugin import Cause
from ilp_service.settings import Settings
from tests.attribution.tables import BUILT_IN, CAUSES, COLUMNS, evidence, signals_table, values

KNOWN = CAUSES[:3]
ASKED: tuple[Cause, ...] = BUILT_IN[:3]
NAMES = tuple(name for name in COLUMNS if name.startswith(KNOWN))


def training() -> pa.Table:
    table = signals_table(worlds=2, per_cause=20)
    kept = table.filter(pa.array([cause in KNOWN for cause in table["cause"].to_pylist()]))
    return kept.select(["world", "family", "sample_id", "cause", *NAMES])


def held_out(world: str, seed: int, each: int = 40) -> tuple[Evidence, pa.Table]:
    """A world with as many samples of each of three causes, and two without a label that holds."""
    truth = [cause for cause in KNOWN for _ in range(each)]
    rows = values([*truth, KNOWN[0], KNOWN[1]], np.random.default_rng(seed))
    ids = [f"{world}-{place:03d}" for place in range(len(rows))]
    table = pa.table({"sample_id": ids} | {name: rows[:, COLUMNS.index(name)] for name in NAMES})
    labels = pa.table(
        {
            "world": [world] * len(ids),
            "sample_id": ids,
            "causes": [*([cause] for cause in truth), [KNOWN[0], KNOWN[1]], []],
            "verdict": [*["verified"] * len(truth), "two_causes", "unverified"],
        }
    )
    return evidence(table, ASKED), labels


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return left_out(training(), [held_out("w8", 8), held_out("w9", 9)], ASKED, Settings())


def test_neither_rows_nor_signals_of_the_cause_are_left() -> None:
    table = without(training(), KNOWN[1])
    assert set(table["cause"].to_pylist()) == {KNOWN[0], KNOWN[2]}
    assert not [name for name in table.column_names if name.startswith(KNOWN[1])]
    off = switched_off(held_out("w8", 8)[0], KNOWN[1])
    assert not [name for name in off.table.column_names if name.startswith(KNOWN[1])]
    for part in (off.status, off.rules, off.excluded):
        assert set(part) == {KNOWN[0], KNOWN[2]}


def test_every_sample_with_one_verified_cause_is_counted_once(figures: dict[str, Any]) -> None:
    assert set(figures["causes"]) == set(KNOWN)
    for cause, told in figures["causes"].items():
        assert told["samples"] == 80
        assert told["unattributed"] + sum(told["blamed"].values()) / 80 == pytest.approx(1)
        assert told["unattributed"] == pytest.approx(sum(told["by_world"].values()) / 2)
        assert cause not in told["blamed"], "a cause that is switched off cannot be named"


def test_figures_stay_in_their_range(figures: dict[str, Any]) -> None:
    shares = [told["unattributed"] for told in figures["causes"].values()]
    assert figures["least"] == min(shares)
    assert min(shares) <= figures["median"] <= max(shares)
    for told in figures["causes"].values():
        for name in ("unattributed", "grouped", "purity"):
            assert told[name] is None or 0 <= told[name] <= 1
        if told["purity"] is not None:
            assert told["purity"] > 0.5, "a group counts for a cause only if most of it has that cause"
            assert told["groups"]["of_this_cause"] > 0


def test_false_alarms_are_counted_where_nothing_is_left_out(figures: dict[str, Any]) -> None:
    alarms = figures["nothing_left_out"]
    assert alarms["worlds"] == 2
    assert alarms["unattributed_labelled"] < 0.2
    assert (alarms["groups"] == 0) == (alarms["members"] == {})


def test_a_stricter_threshold_leaves_more_unattributed(figures: dict[str, Any]) -> None:
    strict = Settings(attribution={"min_confidence": 0.999})  # type: ignore[arg-type]
    told = left_out(training(), [held_out("w8", 8), held_out("w9", 9)], ASKED, strict)
    for cause in KNOWN:
        assert told["causes"][cause]["unattributed"] >= figures["causes"][cause]["unattributed"]
    assert told["nothing_left_out"]["unattributed"] > figures["nothing_left_out"]["unattributed"]


def test_a_world_without_labels_has_no_figures_but_may_have_false_alarms() -> None:
    found, labels = held_out("w8", 8)
    told = left_out(training(), [(found, labels.slice(0, 0))], ASKED, Settings())
    assert told["median"] is None
    assert [cause["unattributed"] for cause in told["causes"].values()] == [None] * 3
    assert told["nothing_left_out"]["unattributed"] is not None
