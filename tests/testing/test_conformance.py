"""The conformance check catches what it is there to catch; the ready studies are what they say."""

from __future__ import annotations

import doctest
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import ilp_service.testing.conformance
import ilp_service.testing.studies
from ilp_service.plugin import Array, Cause, Signal
from ilp_service.study import Study
from ilp_service.testing import StudyBuilder, check_cause, fake_study, ready_studies


class Good(Cause):
    """Passes."""

    name = "good"
    title = "A good cause"
    signals = (Signal("p", "0-1", "-", "Pass rate."),)

    def collect(self, study: Study) -> pa.Table:
        rates = dict(zip(*study.evaluation.select(["sample_id", "p_correct"]).to_pydict().values(), strict=True))
        values = pa.array([rates[key] for key in study.unlearned], pa.float64())
        return pa.table({"sample_id": pa.array(study.unlearned, pa.string()), "p": values})

    def rule(self, signals: Mapping[str, Array]) -> Array:
        return np.where(signals["p"] < 0.1, 1.0, 0.0)

    def explain(self, row: Mapping[str, Any]) -> str:
        return f"Its pass rate is {row['p']}."


class Random(Good):
    """Says something else every time."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def collect(self, study: Study) -> pa.Table:
        values = pa.array(self._rng.random(len(study.unlearned)))
        return pa.table({"sample_id": pa.array(study.unlearned, pa.string()), "p": values})


class ByPlace(Good):
    """Looks at the place in the list and not at the sample."""

    def collect(self, study: Study) -> pa.Table:
        values = pa.array([1 / (2 + place) for place in range(len(study.unlearned))], pa.float64())
        return pa.table({"sample_id": pa.array(study.unlearned, pa.string()), "p": values})


class Chatty(Good):
    """Explains on several lines."""

    def explain(self, row: Mapping[str, Any]) -> str:
        return f"One.\nTwo {row['p']}."


class NeedsNumbers(Good):
    """Cannot explain a null."""

    def explain(self, row: Mapping[str, Any]) -> str:
        return f"Its pass rate is {row['p']:.2f}."


class Hasty(Good):
    """Says yes where nothing was measured."""

    def rule(self, signals: Mapping[str, Array]) -> Array:
        return np.where(signals["p"] > 0.1, 0.0, 1.0)


class Undeclared(Good):
    """Has no title."""

    title = ""


class Fixed(Good):
    """Returns one row whatever it is asked."""

    def collect(self, study: Study) -> pa.Table:
        return super().collect(study).slice(0, 1)


def test_a_good_cause_passes() -> None:
    check_cause(Good())
    check_cause(Good(), fake_study(seed=5))


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (Random(), "asked twice"),
        (ByPlace(), "another order"),
        (Chatty(), "expected one line"),
        (Hasty(), "although nothing was measured"),
        (Undeclared(), "Undeclared.title"),
        (Fixed(), "returned 1 rows, expected 8"),
    ],
)
def test_each_breach_is_named(cause: Cause, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_cause(cause)


def test_an_explanation_that_cannot_say_null_is_caught() -> None:
    with pytest.raises(TypeError):
        check_cause(NeedsNumbers())


def test_the_ready_studies_are_what_they_say() -> None:
    studies = ready_studies()
    assert not studies["no base model"].has_base
    assert studies["no base model"].options["base_p"].null_count == studies["no base model"].options.num_rows
    assert studies["no trajectory"].trajectory is None
    assert studies["no neighbours"].neighbours.num_rows == 0
    assert studies["nothing unlearned"].unlearned == ()
    assert len(studies["one sample"].samples) == len(studies["one sample"].unlearned) == 1
    assert not all(sample.prompt.isascii() for sample in studies["not ASCII"].samples)


@pytest.mark.parametrize("name", list(ready_studies()))
def test_a_ready_study_is_consistent(name: str) -> None:
    study = ready_studies()[name]
    ids = [sample.sample_id for sample in study.samples]
    assert len(set(ids)) == len(ids)
    assert set(study.unlearned) <= set(ids)
    assert study.evaluation["sample_id"].to_pylist() == study.rendering["sample_id"].to_pylist() == ids
    assert set(study.options["sample_id"].to_pylist()) == set(study.unlearned)
    sums = study.options.group_by("sample_id").aggregate([("p", "sum")])["p_sum"].to_pylist()
    assert sums == pytest.approx([1.0] * len(sums))
    gold = [row["source"] for row in study.options.to_pylist()]
    assert gold.count("gold") == len(study.unlearned)


def test_fake_studies_are_repeatable() -> None:
    assert fake_study(seed=3).options.equals(fake_study(seed=3).options)
    assert not fake_study(seed=3).options.equals(fake_study(seed=4).options)


def test_equal_samples_have_ids_of_their_own() -> None:
    builder = StudyBuilder()
    first, second = builder.sample("Q?", "a"), builder.sample("Q?", "a")
    assert first.endswith("-0")
    assert second.endswith("-1")


@pytest.mark.parametrize("module", [ilp_service.testing.conformance, ilp_service.testing.studies])
def test_the_examples_in_the_docstrings_run(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
