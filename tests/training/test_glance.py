from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ilp_service.training.glance import glance
from ilp_service.training.rows import TrainingRow
from tests.training.small import questions, read, small_model


def test_loss_and_said_are_those_of_each_row_alone(tmp_path: Path) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    model = small_model()
    # A row whose response greedy decoding goes on with for two tokens, and then not.
    ids = list(rows[0].input_ids)
    with torch.no_grad():
        for _ in range(3):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    ids[-1] = (ids[-1] + 1) % 320
    rows = (*rows, TrainingRow("greedy", tuple(ids), len(ids) - 3))
    together, alone = glance(model, rows, 5), glance(model, rows, 1)
    for row, one, other in zip(rows, together, alone, strict=True):
        assert one.tokens == other.tokens == row.trained_tokens
        assert one.said == other.said
        labels = torch.tensor([[-100] * row.prompt_tokens + list(row.input_ids[row.prompt_tokens :])])
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([row.input_ids]), labels=labels).loss.item()
        assert one.loss / one.tokens == pytest.approx(expected, abs=1e-5)
        assert other.loss == pytest.approx(one.loss, abs=1e-4)
    assert together[-1].said == pytest.approx(2 / 3)


def test_a_look_leaves_the_model_and_the_random_state_as_they_were(tmp_path: Path) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    model = small_model(attention_dropout=0.5).train()
    part = model.get_input_embeddings()
    part.train(mode=False)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = glance(model, rows, 4), glance(model, rows, 4)
    assert first == second
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert not part.training
    assert all(parameter.grad is None for parameter in model.parameters())
