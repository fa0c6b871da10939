from __future__ import annotations

import pytest
import torch

from ilp_service.training.pretrain import pretrain
from tests.tiny import tiny_tokenizer
from tests.training.small import same_weights, small_model, weights

TEXTS = [f"Number {index} lies in {name}." for index, name in enumerate(["Paris", "Rome", "Oslo"] * 4)]


@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_falls_and_two_runs_are_the_same(packed: bool) -> None:
    results = []
    for _ in range(2):
        model = small_model()
        torch.manual_seed(len(results))  # the caller's random state must not matter
        losses = pretrain(
            model, tiny_tokenizer(), TEXTS, steps=30, batch_size=4, learning_rate=1e-2, max_length=24, packed=packed
        )
        results.append((losses, weights(model)))
        assert not model.training
    assert results[0][0] == results[1][0]
    assert same_weights(results[0][1], results[1][1])
    assert len(results[0][0]) == 30
    assert results[0][0][-1] < 0.7 * results[0][0][0]


def test_documents_may_change_with_every_pass() -> None:
    asked: list[int] = []

    def documents(number: int) -> list[str]:
        asked.append(number)
        return TEXTS[:4]

    fixed, changing = small_model(), small_model()
    first = pretrain(fixed, tiny_tokenizer(), TEXTS[:4], steps=6, batch_size=2)
    second = pretrain(changing, tiny_tokenizer(), documents, steps=6, batch_size=2)
    assert asked == [0, 1, 2]
    assert first == second


def test_the_first_loss_is_the_mean_over_all_predicted_tokens() -> None:
    model, tokenizer = small_model(), tiny_tokenizer()
    ids = tokenizer(TEXTS[0])["input_ids"] + [tokenizer.eos_token_id]
    expected = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    seen: list[tuple[int, int]] = []
    losses = pretrain(
        model, tokenizer, TEXTS[:1], steps=2, batch_size=3, progress=lambda step, steps, _: seen.append((step, steps))
    )
    assert losses[0] == pytest.approx(expected, abs=1e-5)
    assert seen == [(1, 2), (2, 2)]


def test_texts_without_words_are_refused() -> None:
    with pytest.raises(ValueError, match="no text of two tokens"):
        pretrain(small_model(), tiny_tokenizer(), [""], steps=1)
