"""Effects of remedies: where one's own measurements count before those that come with the project."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from simulated_experiments import CAUSES as SIMULATED
from simulated_experiments import experiment

from ilp_service.errors import SettingsError
from ilp_service.intervention import deciding
from ilp_service.intervention.effectiveness import (
    Damage,
    Effect,
    Effectiveness,
    effectiveness_from,
    measured_effectiveness,
    read_effectiveness,
)
from ilp_service.intervention.effects import effects_of

BLIND, CONFLICT, RARE = "missing_knowledge", "pretraining_conflict", "insufficient_optimization"
EFFECTS = read_effectiveness(Path(__file__).with_name("effects.json"))


def test_one_s_own_measurements_count_where_there_are_enough() -> None:
    bounds = {"effect": 0.4, "low": 0.2, "high": 0.6}
    cell = {"arm": "knowledge_cpt", "cause": BLIND, "own": True, **bounds, "questions": 20}
    few = {**cell, "cause": CONFLICT, "questions": 5}
    untreated = {**cell, "cause": CONFLICT, "own": False}
    lost = {"effect": 0.02, "low": 0.01, "high": 0.03, "samples": 100, "questions": 80}
    arm = {"arm": "knowledge_cpt", "kind": "remedy", "treated": 10, "damage": lost}
    cells = [cell, few, untreated, {**cell, "arm": "knowledge_cpt@x=1"}]
    own = measured_effectiveness({"cells": cells, "arms": [arm]}, "run r")
    assert own.effect("knowledge_cpt", CONFLICT, ()).value == 0.0
    both = EFFECTS.overridden(own)
    assert both.effect("knowledge_cpt", BLIND, ()).value == 0.4
    assert both.effect("corrective_cpt", CONFLICT, ()) == EFFECTS.effect("corrective_cpt", CONFLICT, ())
    assert both.lost("knowledge_cpt").lost_per_treated == pytest.approx(0.2)
    assert both.provenance.startswith("Measured on this checkpoint by run r. Else: ")
    assert effectiveness_from(both.public()) == both


@pytest.mark.parametrize(
    ("measured", "counts"),
    [
        ({}, True),
        ({"questions": 19}, False),
        ({"low": -0.01}, False),
        ({"low": None, "high": None}, False),
        ({"effect": None, "low": None, "high": None}, False),
        ({"effect": -0.02, "low": -0.03, "high": -0.01}, True),
    ],
)
def test_one_s_own_damage_counts_where_it_is_proved(measured: dict[str, float | None], counts: bool) -> None:
    lost = {"effect": 0.5, "low": 0.1, "high": 0.9, "samples": 100, "questions": 80, **measured}
    arm = {"arm": "epoch_increment", "kind": "remedy", "treated": 10, "damage": lost}
    own = measured_effectiveness({"cells": [], "arms": [arm]}, "run r")
    assert bool(own.damage) is bool(own.provenance) is counts
    known = Effectiveness({}, {"epoch_increment": Damage(0.2, 0.1)}).overridden(own)
    expected = max(lost["effect"] or 0.0, 0.0) if counts else 0.1
    assert known.lost("epoch_increment").lost_share == expected


def test_the_newest_measurement_of_each_cell_counts_and_older_ones_where_it_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def cell(arm: str, cause: str, effect: float, questions: int = 60) -> dict[str, object]:
        bounds = {"effect": effect, "low": effect - 0.05, "high": effect + 0.05}
        return {"arm": arm, "cause": cause, "own": True, "questions": questions, **bounds}

    runs = {
        "newest": [cell("corrective_cpt", CONFLICT, 0.4), cell("epoch_increment", RARE, 0.3, questions=5)],
        "middle": [cell("epoch_increment", RARE, 0.11)],
        "oldest": [cell("epoch_increment", RARE, 0.7), cell("corrective_cpt", CONFLICT, 0.8)],
        "nothing": [],
    }
    for name, cells in runs.items():
        (tmp_path / name).write_text(json.dumps({"effects": {"cells": cells, "arms": []}}))
    monkeypatch.setattr(deciding, "child_runs", lambda *_arguments: list(runs))
    monkeypatch.setattr(deciding, "read_run", lambda _tracking, run_id: run_id)
    monkeypatch.setattr(deciding, "run_file", lambda _tracking, run, *_more: tmp_path / run)
    diagnosed = cast("Any", SimpleNamespace(run_id="d", settings=SimpleNamespace(work_dir=tmp_path)))
    said: list[str] = []
    request = deciding.PrescriptionRequest("d", effects=Path(__file__).with_name("effects.json"))
    found = deciding._effectiveness(request, diagnosed, cast("Any", None), said.append)
    assert found.effect("epoch_increment", RARE, ()).value == 0.11
    assert found.effect("corrective_cpt", CONFLICT, ()).value == 0.4
    assert found.effect("knowledge_cpt", BLIND, ()) == EFFECTS.effect("knowledge_cpt", BLIND, ())
    assert said == ["effects: measured on this checkpoint by runs newest, middle, oldest where each measured enough"]


def test_what_an_experiment_wrote_down_is_taken_up() -> None:
    shares = {f"mend {cause}": {cause: 0.85} for cause in SIMULATED} | {"again": dict.fromkeys(SIMULATED, 0.05)}
    original, named, arms, results = experiment(shares, lost=0.3)
    found = effects_of(original, named, arms, results, seed=0)
    own = measured_effectiveness(json.loads(json.dumps(found.public())), "run r")
    for cause in SIMULATED:
        cell = found.cell(f"mend {cause}", cause)
        assert cell is not None
        assert own.effect(f"mend {cause}", cause, ()).value == pytest.approx(cell.recovery.effect)
    assert set(own.damage) == {f"mend {cause}" for cause in SIMULATED}


def test_a_broken_file_of_effects_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "effects.json"
    for text in ("", "[]", '{"effects": {"a": {"b": [0.5, 0.6, 0.7]}}}', '{"effects": {"a": {"b": [1]}}}'):
        path.write_text(text)
        with pytest.raises(SettingsError, match="is no table of effects"):
            read_effectiveness(path)


def test_effects_on_own_causes_leave_out_what_a_remedy_does_for_others() -> None:
    cells = {"ill": Effect(0.8, 0.7, 0.9), "tired": Effect(0.3, 0.2, 0.4), "unattributed": Effect(0.2, 0.1, 0.3)}
    known = Effectiveness({"cure": cells}, {"cure": Damage(0.1)}, provenance="x")
    own = known.on_own_causes({"cure": ("ill",)})
    assert own.effect("cure", "ill", ("ill",)).value == 0.8
    assert own.effect("cure", "tired", ("ill",)).value == 0.0
    assert own.effect("cure", "unattributed", ("ill",)).value == 0.2
    assert (own.damage, own.provenance) == (known.damage, "x")
    assert own.effect("unknown", "ill", ("ill",)) == known.effect("unknown", "ill", ("ill",))
