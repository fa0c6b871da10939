"""What holds for every built-in cause."""

from __future__ import annotations

import ast
import re
import time
from dataclasses import replace
from pathlib import Path

import ilp_causes
import numpy as np
import pyarrow as pa
import pytest

from ilp_service.evidence.collection import collect_evidence
from ilp_service.plugin import Cause
from ilp_service.testing import check_cause, fake_study

CAUSES = tuple(ilp_causes.ilp_causes())
ROOT = Path(__file__).parents[2]


def named(cause: Cause) -> str:
    return cause.name


def test_the_six_are_there() -> None:
    assert [cause.name for cause in CAUSES] == [
        "training_pipeline",
        "missing_knowledge",
        "pretraining_conflict",
        "data_inconsistency",
        "left_side_forgetting",
        "insufficient_optimization",
    ]


@pytest.mark.parametrize("cause", CAUSES, ids=named)
def test_keeps_the_contract(cause: Cause) -> None:
    check_cause(cause)


@pytest.mark.parametrize("cause", CAUSES, ids=named)
@pytest.mark.parametrize("seed", range(3))
def test_other_unlearned_samples_change_nothing_about_one(cause: Cause, seed: int) -> None:
    """Evidence about a sample rests on the data, not on which other samples are explained beside it."""
    study = fake_study(seed=seed, samples=30, unlearned=10)
    whole = collect_evidence(study, (cause,)).table
    half = collect_evidence(replace(study, unlearned=study.unlearned[:5]), (cause,)).table
    for name in half.column_names:
        assert half[name].to_pylist() == pytest.approx(whole[name].to_pylist()[:5]), name


@pytest.mark.parametrize("cause", CAUSES, ids=named)
def test_a_signal_is_never_a_step_number_or_another_unit_without_a_scale(cause: Cause) -> None:
    allowed = {"0-1", "-1-1", "-inf-1", "nats", "count", "tokens", "ratio"}
    assert {signal.unit for signal in cause.signals if signal.kind == "number"} <= allowed


@pytest.mark.parametrize("cause", CAUSES, ids=named)
def test_some_signal_is_measured_for_a_study_that_has_everything(cause: Cause) -> None:
    table = collect_evidence(fake_study(), (cause,)).table
    numbers = [f"{cause.name}.{signal.name}" for signal in cause.signals if signal.kind == "number"]
    empty = [name for name in numbers if table[name].null_count == table.num_rows]
    assert empty == []


@pytest.mark.parametrize("cause", CAUSES, ids=named)
def test_every_signal_stands_in_the_documentation_as_it_is(cause: Cause) -> None:
    text = (ROOT / "docs" / "causes.md").read_text(encoding="utf-8")
    section = text.split(f"<!-- signals: {cause.name} -->")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S) \| (.*) \|$", section, re.M)
    assert documented == [(s.name, s.unit, s.direction, s.meaning) for s in cause.signals]
    assert f"## {cause.name}" in text


def test_plugins_import_nothing_of_the_core_but_the_public_api() -> None:
    for path in sorted((ROOT / "plugins" / "ilp_causes").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        core = {module for module in modules if module.split(".")[0] == "ilp_service"}
        assert core <= {"ilp_service.plugin"}, path.name


def test_a_thousand_samples_of_a_large_set_take_seconds() -> None:
    study = fake_study(samples=4000, unlearned=1000)
    started = time.process_time()
    evidence = collect_evidence(study, CAUSES)
    assert set(evidence.status.values()) == {"measured"}
    assert time.process_time() - started < 10


def test_extreme_numbers_stay_inside_their_units() -> None:
    """Losses of zero and of hundreds, certain and impossible options."""
    study = fake_study()
    assert study.trajectory is not None
    rows = study.trajectory.num_rows
    losses = np.resize(np.array([0.0, 1e-12, 800.0, -1e-9]), rows)
    place = study.trajectory.schema.get_field_index("loss")
    trajectory = study.trajectory.set_column(place, study.trajectory.schema.field(place), pa.array(losses))
    p = np.resize(np.array([0.0, 1.0, 0.0, 0.0, 0.0]), study.options.num_rows)
    options = study.options
    for name in ("p", "base_p", "few_shot_base_p", "cloze_base_p"):
        place = options.schema.get_field_index(name)
        options = options.set_column(place, name, pa.array(p))
    evidence = collect_evidence(replace(study, trajectory=trajectory, options=options), CAUSES)
    assert dict(evidence.reasons) == {}
