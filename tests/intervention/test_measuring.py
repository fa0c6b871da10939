"""A trained model is measured as the diagnosis measured, and asked in other forms beside it."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import torch

from ilp_service.changes import Change
from ilp_service.checkpoints.loading import Checkpoint
from ilp_service.intervention.measuring import Measurer, asked_otherwise, general_loss
from ilp_service.intervention.recipes import recipe_of
from ilp_service.intervention.reopening import Diagnosed, reopen
from ilp_service.samples.sample import Message, Sample
from ilp_service.scoring.engine import Scorer
from ilp_service.tracking.store import Tracking
from ilp_service.training.changed import train_changed
from tests.intervention.conftest import Place
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def diagnosed(place: Place) -> Diagnosed:
    return reopen(place.run_id, Tracking(), lambda _line: None)


def test_an_adapter_in_memory_is_measured_without_opening_a_base(
    diagnosed: Diagnosed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(diagnosed, Tracking(), method="lora")
    trained = train_changed(recipe, Change(), seed=1, folder=tmp_path)
    assert trained.model is not None

    def refuse(_self: Checkpoint) -> AbstractContextManager[None]:
        raise AssertionError("the base was opened")

    monkeypatch.setattr(Checkpoint, "base", refuse)
    table, loss = Measurer(diagnosed)(trained.model)
    assert loss is None
    assert table["sample_id"].to_pylist() == diagnosed.evaluation["sample_id"].to_pylist()
    threshold = diagnosed.settings.detection.threshold
    assert table["unlearned"].to_pylist() == [rate < threshold for rate in table["p_correct"].to_pylist()]
    shell: Any = trained.model
    merged = shell.merge_and_unload()
    again, _ = Measurer(diagnosed)(merged)
    for name in ("p_correct", "p_cloze", "p_paraphrase"):
        for one, other in zip(table[name].to_pylist(), again[name].to_pylist(), strict=True):
            assert (one is None) == (other is None)
            assert one is None or one == pytest.approx(other, abs=1e-4)


def test_samples_with_other_words_are_asked_with_them_among_the_same_options(diagnosed: Diagnosed) -> None:
    own, _ = Measurer(diagnosed).original()
    asked = {sample.sample_id for sample in diagnosed.prepared.samples if sample.paraphrases}
    assert 0 < len(asked) < len(diagnosed.prepared.samples)
    assert set(own.filter(pc.is_valid(own["p_paraphrase"]))["sample_id"].to_pylist()) == asked
    same = {sample.sample_id: (sample.prompt,) for sample in diagnosed.prepared.samples}
    table, _ = Measurer(diagnosed, paraphrases=same).original()
    assert table["p_paraphrase"].to_pylist() == pytest.approx(table["p_correct"].to_pylist(), abs=1e-5)
    assert all(rate is not None and 0 <= rate <= 1 for rate in table["p_cloze"].to_pylist())
    assert Measurer(diagnosed, paraphrases=same).digest != Measurer(diagnosed).digest
    assert Measurer(diagnosed).digest == Measurer(diagnosed).digest


def test_without_generation_nothing_else_changes(diagnosed: Diagnosed) -> None:
    full, _ = Measurer(diagnosed).original()
    lean, _ = Measurer(diagnosed, generate=False).original()
    assert set(lean["greedy_match"].to_pylist()) == {None}
    assert lean.drop_columns("greedy_match").to_pylist() == full.drop_columns("greedy_match").to_pylist()


def test_held_out_loss_is_the_mean_over_all_tokens() -> None:
    model, tokenizer = tiny_model("llama", num_hidden_layers=1), tiny_tokenizer()
    texts = ["Ada lives in Paris.", "Ben works in Rome and comes home late.", ""]
    total = tokens = 0.0
    for text in texts[:2]:
        ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    found = general_loss(Scorer(model, max_batch_tokens=64), tokenizer, texts, 512)
    assert found is not None
    assert math.isclose(found, total / tokens, rel_tol=1e-4)
    assert general_loss(Scorer(model, max_batch_tokens=64), tokenizer, (), 512) is None


def test_only_the_question_is_asked_in_other_words() -> None:
    context = (Message("user", "Hi?"), Message("assistant", "Yes."), Message("user", "Where?"))
    sample = Sample("a", context, "Rome", True, "all", 0, plain_prompt="### Instruction:\nWhere?\n\n### Response:\n")
    asked = asked_otherwise(sample, "In which place?")
    assert asked.prompt == "In which place?"
    assert asked.context[:2] == context[:2]
    assert asked.plain_prompt == "### Instruction:\nIn which place?\n\n### Response:\n"
