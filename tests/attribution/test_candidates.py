from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ilp_service.attribution import candidates
from ilp_service.attribution.candidates import CANDIDATE_CAUSES, candidate_causes, told_briefly, unexplained_ids
from ilp_service.attribution.groups import Group
from ilp_service.evidence.collection import Evidence
from ilp_service.samples.sample import Message, Sample
from ilp_service.settings import AttributionSettings

SETTINGS = AttributionSettings()
SIGNALS = ("a.high", "a.low", "a.flag", "b.noise", "b.copy", "b.other")
ABOUT: Mapping[str, Mapping[str, str]] = {
    "a.high": {"unit": "nats", "direction": "+", "meaning": "How high it is."},
    "a.low": {"unit": "0-1", "direction": "-", "meaning": "How low it is."},
    "a.flag": {"unit": "0-1", "direction": "0", "meaning": "Whether it is so."},
}


def made_up(
    attributed: int = 120, strays: int = 15, members: int = 30, seed: int = 0
) -> tuple[Evidence, pa.Table, list[Sample]]:
    """Attributed samples, strays like them, and a group apart that asks about emberbonds and stands in one subset."""
    rng = np.random.default_rng(seed)
    rows = attributed + strays + members
    values = rng.normal(size=(rows, len(SIGNALS)))
    values[:, 2] = rng.random(rows) < 0.1
    inside = np.arange(rows) >= attributed + strays
    values[inside] = np.array([6, -6, 1, 4, 0, 5]) + 0.3 * rng.normal(size=(members, len(SIGNALS)))
    values[inside, 2] = 1
    values[:, 4] = 2 * values[:, 0]
    ids = [f"s{row:04d}" for row in range(rows)]
    fields = [pa.field("sample_id", pa.string())]
    fields += [pa.field(name, pa.float64(), metadata=ABOUT.get(name)) for name in SIGNALS]
    table = pa.table([pa.array(ids), *values.T], schema=pa.schema(fields))
    names = dict.fromkeys(("a", "b"))
    evidence = Evidence(table, dict.fromkeys(names, "measured"), {}, names, names)
    cause = ["a"] * attributed + ["unattributed"] * (strays + members)
    attributions = pa.table(
        {"sample_id": ids, "cause": cause, "confidence": [0.9] * attributed + [0.3] * (strays + members)}
    )
    samples = [
        Sample(key, (Message("user", _prompt(rng, bool(there))),), "yes", False, "beta" if there else "alpha", place)
        for place, (key, there) in enumerate(zip(ids, inside, strict=True))
    ]
    return evidence, attributions, samples


def _prompt(rng: np.random.Generator, inside: bool) -> str:
    words = " ".join(rng.choice(["where", "does", "she", "live", "work", "now"], size=4))
    return f"{words} the red emberbond?" if inside and rng.random() < 0.9 else f"{words}?"


@pytest.fixture(scope="module")
def group() -> dict[str, Any]:
    (row,) = candidate_causes(*made_up(), SETTINGS).to_pylist()
    found: dict[str, Any] = row
    return found


def test_a_group_is_told_with_its_size_and_place(group: dict[str, Any]) -> None:
    assert group["group"] == 1
    assert group["size"] == len(group["sample_ids"]) == 30
    assert group["share"] == pytest.approx(30 / 45)
    assert group["cohesion"] > 0.9 > group["cohesion_by_chance"]
    assert group["subsets"] == [{"subset": "beta", "size": 30, "share": 1.0}]
    assert len(group["examples"]) == 3
    assert set(group["examples"]) <= set(group["sample_ids"])


def test_its_signals_are_those_that_differ_from_the_attributed_in_their_own_units(group: dict[str, Any]) -> None:
    told = {signal["signal"]: signal for signal in group["signals"]}
    assert len({"a.high", "b.copy"} & set(told)) == 1, "a second signal that says the same is not told"
    high = told.get("a.high") or told["b.copy"]
    assert high["group"] > high["others"] + 5
    for name in set(told) & set(ABOUT):
        assert {key: told[name][key] for key in ABOUT[name]} == ABOUT[name]
    assert all(0.75 <= signal["separation"] <= 1 for signal in told.values())


def test_a_flag_is_told_as_a_share() -> None:
    evidence, attributions, samples = made_up()
    table = evidence.table.select(["sample_id", "a.flag", "b.other", "b.noise"])
    evidence = Evidence(table, evidence.status, {}, evidence.rules, evidence.excluded)
    (row,) = candidate_causes(evidence, attributions, samples, SETTINGS).to_pylist()
    (flag,) = [signal for signal in row["signals"] if signal["signal"] == "a.flag"]
    assert flag["statistic"] == "mean"
    assert flag["group"] == 1.0
    assert 0 < flag["others"] < 0.3


def test_its_phrases_are_common_in_it_and_rare_elsewhere(group: dict[str, Any]) -> None:
    assert "emberbond" in " ".join(phrase["phrase"] for phrase in group["phrases"])
    for phrase in group["phrases"]:
        assert phrase["share"] >= 0.3
        assert phrase["share"] >= 2 * phrase["others"]
    assert not {"where", "does", "live"} & {phrase["phrase"] for phrase in group["phrases"]}


def test_the_sentences_quote_what_the_columns_say(group: dict[str, Any]) -> None:
    assert group["description"].startswith("30 samples that no cause explains")
    assert "emberbond" in group["description"]
    assert "100 % are from beta" in group["description"]


def test_neither_the_order_of_rows_nor_of_samples_matters(group: dict[str, Any]) -> None:
    evidence, attributions, samples = made_up()
    order = pa.array(np.random.default_rng(1).permutation(attributions.num_rows))
    shuffled = Evidence(evidence.table.take(order), evidence.status, {}, evidence.rules, evidence.excluded)
    found = candidate_causes(shuffled, attributions.take(order), samples[::-1], SETTINGS)
    assert found.to_pylist() == [group]


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_without_a_group_the_table_is_empty_and_has_its_columns(rows: int) -> None:
    found = candidate_causes(*made_up(rows, 0, 0), SETTINGS)
    assert found.num_rows == 0
    assert found.schema.equals(CANDIDATE_CAUSES)


def test_a_group_of_everything_is_told_without_others_to_compare_it_with(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, attributions, samples = made_up()
    keys = tuple(sorted(attributions["sample_id"].to_pylist()))
    monkeypatch.setattr(candidates, "find_groups", lambda *_: [Group(keys, keys[:3], 1.0, 0.5)])
    nobody = attributions.set_column(1, "cause", pa.array(["unattributed"] * len(keys)))
    (row,) = candidate_causes(evidence, nobody, samples, SETTINGS).to_pylist()
    assert (row["size"], row["signals"], row["phrases"]) == (len(keys), [], [])
    assert "nan" not in row["description"]


def test_samples_that_are_not_in_the_data_set_are_still_counted() -> None:
    evidence, attributions, _ = made_up()
    (row,) = candidate_causes(evidence, attributions, [], SETTINGS).to_pylist()
    assert row["size"] == 30
    assert row["phrases"] == row["subsets"] == []


def test_a_confidence_below_the_threshold_counts_as_unexplained() -> None:
    table = pa.table({"sample_id": ["x", "y", "z"], "cause": ["a", "a", "unattributed"], "confidence": [0.7, 0.4, 0.9]})
    assert unexplained_ids(table, SETTINGS) == {"y", "z"}


def test_the_summary_lists_the_groups_without_their_members(group: dict[str, Any]) -> None:
    (told,) = told_briefly(candidate_causes(*made_up(), SETTINGS))
    assert told == {key: group[key] for key in ("group", "size", "cohesion", "description", "examples")}


def test_every_column_says_what_it_means() -> None:
    described: Sequence[pa.Field] = [field for field in CANDIDATE_CAUSES if field.metadata[b"meaning"]]
    assert len(described) == len(CANDIDATE_CAUSES)
