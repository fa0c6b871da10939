from __future__ import annotations

from pathlib import Path

import torch

from ilp_service.training.rows import IGNORED, ResponseCollator
from tests.tiny import tiny_model
from tests.training.small import questions, read


def test_rows_are_the_rendering_of_the_diagnosis(tmp_path: Path) -> None:
    data, renderer, rows = read(questions(tmp_path / "d.jsonl"))
    for sample, row in zip(data.samples, rows, strict=True):
        rendered = renderer.render(sample)
        assert row.input_ids == rendered.prompt_ids + rendered.response_ids
        assert row.trained_tokens == len(rendered.response_ids)


def test_a_cut_row_trains_fewer_tokens_and_one_filled_by_its_prompt_none(tmp_path: Path) -> None:
    path = questions(tmp_path / "d.jsonl")
    _, _, whole = read(path)
    _, _, cut = read(path, max_length=whole[0].prompt_tokens + 2)
    assert cut[0].trained_tokens == 2
    _, _, filled = read(path, max_length=whole[0].prompt_tokens - 1)
    assert filled[0].trained_tokens == 0
    assert len(filled[0].input_ids) == whole[0].prompt_tokens - 1


def test_the_loss_sees_responses_alone_and_no_padding(tmp_path: Path) -> None:
    _, _, rows = read(questions(tmp_path / "d.jsonl"))
    batch = ResponseCollator(0)(rows[:4])
    for row, labels in zip(rows, batch["labels"].tolist(), strict=False):
        kept = [token for token in labels if token != IGNORED]
        assert tuple(kept) == row.input_ids[row.prompt_tokens :]
    model = tiny_model()
    together = model(**batch).loss
    sums = [(model(**ResponseCollator(0)([row])).loss * row.trained_tokens, row.trained_tokens) for row in rows[:4]]
    alone = sum(loss for loss, _ in sums) / sum(count for _, count in sums)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
