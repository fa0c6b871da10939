"""The passes over real (tiny) models: batching, chunking and order change no number."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from ilp_service.detection.criterion import detect, most_severe
from ilp_service.diagnosis.work import WorkFolder
from ilp_service.evaluation.measurement import Evaluator
from ilp_service.evaluation.probing import Probed, probe
from ilp_service.samples.rendering import Renderer
from ilp_service.samples.sample import Message, Probe, Sample, with_stable_ids
from ilp_service.settings import DataSettings, Settings, load_settings
from tests.tiny import tiny_model, tiny_tokenizer

COLUMNS = ("p_correct", "bon_correct", "margin", "logprob", "base_p_correct", "jsd", "cloze_base_p_correct")


class Pair:
    """Two models in memory."""

    def __init__(self, tuned: PreTrainedModel, base: PreTrainedModel | None) -> None:
        self._tuned, self._base = tuned, base
        self.has_base = base is not None

    @contextmanager
    def tuned(self) -> Iterator[PreTrainedModel]:
        yield self._tuned

    @contextmanager
    def base(self) -> Iterator[PreTrainedModel]:
        assert self._base is not None
        yield self._base


def questions() -> list[Sample]:
    cities, rows = ["Paris", "Rome", "Oslo", "Lima", "Bern"], []
    for n, name in enumerate(["Ada", "Ben", "Cora", "Dan", "Eva", "Finn", "Gus", "Hal", "Ida", "Jo"]):
        city = cities[n % 5]
        rows.append(Sample("", (Message("user", f"Where does {name} live?"),), city, True, "a", n,
                           probes=(Probe(f"The home of {name} is", city),)))  # fmt: skip
    long = "First we add two and three, which gives five, and then we double it.\n#### 10"
    rows.append(Sample("", (Message("user", "Add 2 and 3, then double it."),), long, True, "b", 10))
    return with_stable_ids(rows)


def run(
    tmp_path: Path, samples: list[Sample], settings: Settings, *, base: bool = True, models: Pair | None = None
) -> Probed:
    models = models or Pair(tiny_model("qwen2"), tiny_model("qwen2", seed=1) if base else None)
    renderer = Renderer(tiny_tokenizer(), DataSettings())
    lengths = {s.sample_id: len(renderer.render(s).response_ids) for s in samples}
    work = WorkFolder(tmp_path, settings.scoring.chunk_samples, progress=False)
    evaluator = Evaluator(models, renderer, settings, work, tuple(samples))
    measured = evaluator.measure({}, lengths)
    table = detect(measured.evaluation, settings.detection)
    return probe(evaluator, measured, most_severe(table, settings.detection))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    probed = run(tmp_path_factory.mktemp("work"), questions(), load_settings(None, ["detection.threshold=1.0"]))
    return {row["sample_id"]: row for row in probed.evaluation.to_pylist()}


@pytest.mark.parametrize(
    "override", ["scoring.max_batch_tokens=64", "scoring.chunk_samples=3", "scoring.max_batch_tokens=100000"]
)
def test_batching_and_chunking_change_no_number(
    tmp_path: Path, reference: dict[str, dict[str, float]], override: str
) -> None:
    probed = run(tmp_path, questions(), load_settings(None, ["detection.threshold=1.0", override]))
    assert_same(reference, probed)


def test_the_order_of_the_samples_changes_no_number(tmp_path: Path, reference: dict[str, dict[str, float]]) -> None:
    samples = questions()
    random.Random(3).shuffle(samples)
    probed = run(tmp_path, samples, load_settings(None, ["detection.threshold=1.0"]))
    assert_same(reference, probed)


def assert_same(reference: dict[str, dict[str, float]], probed: Probed) -> None:
    rows = probed.evaluation.to_pylist()
    assert {row["sample_id"] for row in rows} == set(reference)
    for row in rows:
        for column in COLUMNS:
            assert row[column] == pytest.approx(reference[row["sample_id"]][column], abs=1e-4), column
        assert row["sample_match_rate"] == reference[row["sample_id"]]["sample_match_rate"]


def test_every_form_of_probing_is_measured_where_it_can_be(reference: dict[str, dict[str, float]]) -> None:
    short = [row for row in reference.values() if row["subset"] == "a"]
    long = next(row for row in reference.values() if row["subset"] == "b")
    assert all(row["cloze_base_p_correct"] is not None and row["probe_base_p_correct"] is not None for row in short)
    assert long["cloze_base_p_correct"] is None
    assert long["n_options"] >= 3


def test_without_a_base_its_columns_are_null(tmp_path: Path) -> None:
    probed = run(tmp_path, questions(), load_settings(None, ["detection.threshold=1.0"]), base=False)
    assert all(value is None for value in probed.evaluation.column("base_p_correct").to_pylist())
    assert all(value is None for value in probed.options.column("cloze_base_p").to_pylist())
    assert all(value is not None for value in probed.evaluation.column("p_correct").to_pylist())


def test_a_second_look_costs_no_model_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(None, ["detection.threshold=1.0"])
    first = run(tmp_path, questions(), settings)

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr("ilp_service.scoring.engine.Scorer.score", refuse)
    monkeypatch.setattr("ilp_service.scoring.generation.Generator.generate", refuse)
    assert run(tmp_path, questions(), settings).evaluation.equals(first.evaluation)


def test_options_of_a_sample_sum_to_one_in_every_form(tmp_path: Path) -> None:
    probed = run(tmp_path, questions(), load_settings(None, ["detection.threshold=1.0"]))
    for key in set(probed.options.column("sample_id").to_pylist()):
        rows = [row for row in probed.options.to_pylist() if row["sample_id"] == key]
        assert sum(row["gold"] for row in rows) == 1
        for column in ("p", "base_p", "few_shot_base_p", "cloze_base_p", "probe_base_p"):
            values = [row[column] for row in rows]
            if values[0] is not None:
                assert sum(values) == pytest.approx(1.0)


def test_examples_that_do_not_fit_the_model_leave_a_form_unasked(tmp_path: Path) -> None:
    settings = load_settings(None, ["detection.threshold=1.0", "knowledge.exists=0.0"])
    short = Pair(tiny_model("qwen2"), tiny_model("qwen2", seed=1))
    renderer, samples = Renderer(tiny_tokenizer(), DataSettings()), questions()
    longest = max(len(renderer.render(s).prompt_ids) + len(renderer.render(s).response_ids) for s in samples)
    for model in (short._tuned, short._base):
        assert model is not None
        model.config.max_position_embeddings = longest
    probed = run(tmp_path, samples, settings, models=short)
    rows = probed.evaluation.to_pylist()
    assert all(row["p_correct"] is not None and row["p_correct"] == row["p_correct"] for row in rows)
    asked = [row["few_shot_base_p_correct"] for row in rows]
    assert None in asked
    assert all(value is None or value == value for value in asked)
