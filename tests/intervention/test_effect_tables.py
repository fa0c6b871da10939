"""Every column says what it means, and what people read is what was computed."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from simulated_experiments import CAUSES, attributed, diverged, experiment, ids_of, measured, placebo, remedy, result

from ilp_service.intervention.effects import Effects, effects_of
from ilp_service.intervention.tables import ARMS, EFFECTS, RECOVERIES, TABLES, VERDICTS, write_tables
from ilp_service.intervention.text import effects_text, proofs_of, render_interventions
from ilp_service.remedies import Change

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def effects() -> Effects:
    original, named, arms, results = experiment(
        {f"mend {cause}": {cause: 0.85} for cause in CAUSES} | {"again": dict.fromkeys(CAUSES, 0.05)}, lost=0.04
    )
    arms.append(remedy(HOSTILE, {CAUSES[0]: ids_of(CAUSES[0], 3)}))
    return effects_of(original, named, arms, [*results, diverged(HOSTILE, 0)], seed=0)


def test_every_column_has_its_meaning_and_numbers_their_unit_and_direction() -> None:
    for schema in (EFFECTS, ARMS, RECOVERIES, VERDICTS):
        for field in schema:
            metadata = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
            assert metadata.keys() == {"unit", "direction", "meaning"}, field.name
            assert metadata["meaning"], field.name
            if pa.types.is_floating(field.type):
                assert metadata["unit"], field.name
                assert metadata["direction"] in "+-", field.name
                assert metadata["direction"], field.name


def test_tables_are_what_was_computed(effects: Effects, tmp_path: Path) -> None:
    paths = write_tables(effects, tmp_path)
    found = {path.stem: pq.read_table(path) for path in paths}
    assert set(found) == set(TABLES)
    for cell, row in zip(effects.cells, found["effects"].to_pylist(), strict=True):
        assert (row["arm"], row["cause"], row["own"]) == (cell.arm, cell.cause, cell.own)
        assert (row["effect"], row["low"], row["high"]) == (cell.recovery.effect, cell.recovery.low, cell.recovery.high)
        assert row["attributed_effect"] == cell.attributed.effect
    arms = {row["arm"]: row for row in found["arms"].to_pylist()}
    assert arms[HOSTILE]["diverged"] == [{"seed": 0, "reason": "The loss was not finite at step 7."}]
    assert arms[HOSTILE]["price"] is None
    assert arms["again"]["placebo_arm"] is None
    assert arms["mend missing_knowledge"]["general_loss_effect"] == pytest.approx(0.1)
    assert found["verdicts"].num_rows == 90


def test_recoveries_add_up_to_the_effects(effects: Effects) -> None:
    rows = TABLES["recoveries"](effects)
    assert rows.num_rows == 4 * 2 * 140
    for cell in effects.cells:
        own = rows.filter(pc.and_(pc.equal(rows["arm"], cell.arm), pc.equal(rows["cause"], cell.cause)))
        statuses = Counter(own["status"].to_pylist())
        assert statuses["recovered"] == pytest.approx((cell.recovery.share or 0) * cell.recovery.samples * 2)
    lost = rows.filter(pc.equal(rows["status"], "lost"))
    damage = {arm.arm: arm.damage.share for arm in effects.arms}
    for name, count in Counter(lost["arm"].to_pylist()).items():
        assert count == pytest.approx((damage[name] or 0) * 50 * 2)
    assert pc.all(pc.equal(lost["p_before"], 0.9)).as_py()


def test_what_is_withdrawn_or_was_not_measured_is_said() -> None:
    original = measured({"a": 0.05, "b": 0.05, "c": 0.9})
    arms = [remedy("sort", {"data_inconsistency": ("a",)}, change=Change(removed={"a": "Judged wrong."})), placebo()]
    results = [result("sort", 0, {"a": 0.9, "c": 0.9}), result("again", 0, {"a": 0.0, "b": 0.0, "c": 0.0})]
    found = effects_of(original, attributed({"a": "data_inconsistency"}), arms, results, seed=0)
    rows = {(row["arm"], row["sample_id"]): row for row in TABLES["recoveries"](found).to_pylist()}
    assert {key: row["status"] for key, row in rows.items()} == {
        ("sort", "a"): "withdrawn",
        ("sort", "b"): "not measured",
        ("sort", "c"): "kept",
        ("again", "a"): "unlearned",
        ("again", "b"): "unlearned",
        ("again", "c"): "lost",
    }
    assert (rows["sort", "a"]["treated"], rows["again", "a"]["treated"]) == (True, False)
    assert (rows["sort", "b"]["cause"], rows["sort", "b"]["p_correct"]) == (None, None)


def test_the_text_has_every_remedy_its_effect_and_its_price(effects: Effects) -> None:
    text = effects_text(effects)
    for arm in effects.arms:
        if arm.kind == "remedy" and arm.seeds:
            (line,) = [line for line in text.splitlines() if line.startswith(arm.arm)]
            cell = effects.cell(arm.arm, arm.causes[0])
            assert cell is not None
            assert f"{cell.recovery.effect:+.2f} [{cell.recovery.low:+.2f}, {cell.recovery.high:+.2f}]" in line
            assert "2,000,000" in line
    assert f"{HOSTILE} diverged under seed 0: The loss was not finite" in text
    assert f"the cause of {proofs_of(effects).one} of 90 samples" in text


def test_an_empty_experiment_is_told_as_such() -> None:
    found = effects_of(measured({"a": 0.9}), attributed({}), [placebo()], [], seed=0)
    assert "No remedy could be compared" in effects_text(found)
    assert "There was no remedy" in render_interventions(found, {"Model": "m"})
    assert [table(found).num_rows for table in TABLES.values()] == [0, 1, 0, 0]


def test_the_page_shows_names_as_text_and_asks_for_nothing(effects: Effects) -> None:
    page = render_interventions(effects, {"Model": HOSTILE, "Run": "r"})
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert not {"http:", "https:", "url(", "src="} & set(re.findall(r"https?:|url\(|src=", page))
    for cell in effects.cells:
        if cell.recovery.effect is not None:
            assert f"{cell.recovery.effect:+.2f}".replace("-", "−") in page
