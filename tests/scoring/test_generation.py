from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from ilp_service.errors import IlpWarning
from ilp_service.scoring.generation import Generator
from ilp_service.scoring.requests import GenerationRequest, Generations
from ilp_service.scoring.sampling import draw_tokens, uniforms
from tests.scoring.families import tiny_model

STOP = frozenset({5, 17, 33})


def make_requests(number: int = 15) -> list[GenerationRequest]:
    rng = np.random.default_rng(1)
    lengths = rng.choice([1, 4, 11], number)
    return [
        GenerationRequest(f"r{index}", tuple(rng.integers(0, 97, length).tolist()), int(rng.integers(1, 12)))
        for index, length in enumerate(lengths)
    ]


def generate(
    model: nn.Module,
    requests: list[GenerationRequest],
    max_batch_tokens: int = 400,
    samples: int = 3,
    seed: int = 0,
    temperature: float = 1.0,
) -> list[Generations]:
    generator = Generator(
        model,
        max_batch_tokens=max_batch_tokens,
        stop_ids=STOP,
        temperature=temperature,
        samples=samples,
        seed=seed,
    )
    return list(generator.generate(requests))


def plain_greedy(model: nn.Module, request: GenerationRequest) -> tuple[int, ...]:
    ids = list(request.context)
    for _ in range(request.max_new_tokens):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in STOP:
            break
        ids.append(token)
    return tuple(ids[len(request.context) :])


@pytest.mark.parametrize("family", ["Qwen2", "Qwen2-sliding", "Gemma2", "Bloom"])
def test_greedy_is_a_plain_loop_over_the_model(family: str) -> None:
    model, requests = tiny_model(family), make_requests()
    answers = generate(model, requests, samples=1)
    assert [answer.key for answer in answers] == [request.key for request in requests]
    assert [answer.greedy for answer in answers] == [plain_greedy(model, request) for request in requests]


def test_a_model_without_a_cache_is_continued_the_slow_way() -> None:
    model, requests = tiny_model("Mamba", state_size=4), make_requests(3)
    with pytest.warns(IlpWarning, match="no key-value cache"):
        answers = generate(model, requests)
    assert [answer.greedy for answer in answers] == [plain_greedy(model, request) for request in requests]


def test_an_adapter_writes_its_own_continuations() -> None:
    requests = make_requests(5)
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = get_peft_model(tiny_model("Qwen2"), config).eval()
    tuned = [answer.greedy for answer in generate(wrapped, requests)]
    assert tuned == [plain_greedy(wrapped, request) for request in requests]
    assert tuned != [plain_greedy(tiny_model("Qwen2"), request) for request in requests]


def test_batch_and_order_change_no_continuation() -> None:
    model, requests = tiny_model("Qwen2"), make_requests()
    together = generate(model, requests)
    assert generate(model, requests, max_batch_tokens=1) == together
    assert generate(model, requests[::-1])[::-1] == together
    assert generate(model, requests[4:6]) == together[4:6]


def test_fewer_samples_are_the_first_of_more() -> None:
    model, requests = tiny_model("Qwen2"), make_requests(4)
    more, fewer = generate(model, requests, samples=3), generate(model, requests, samples=1)
    assert [answer.samples[:1] for answer in more] == [answer.samples for answer in fewer]
    assert all(answer.samples == () for answer in generate(model, requests, samples=0))


def test_seed_key_and_draw_each_change_the_noise() -> None:
    first = uniforms(0, "a", 0, 4)
    for other in (uniforms(1, "a", 0, 4), uniforms(0, "b", 0, 4), uniforms(0, "a", 1, 4)):
        assert not np.isclose(first, other).any()
    np.testing.assert_array_equal(first[:2], uniforms(0, "a", 0, 2))


def test_a_cold_sample_is_greedy() -> None:
    model, requests = tiny_model("Qwen2"), make_requests(5)
    for answer in generate(model, requests, temperature=1e-4):
        assert set(answer.samples) == {answer.greedy}


def test_tokens_are_drawn_with_their_probability() -> None:
    logits = torch.tensor([0.0, -torch.inf, 1.0, 2.0]).expand(20_000, -1)
    drawn = draw_tokens(logits, np.random.default_rng(0).random(20_000), temperature=2.0)
    expected = torch.tensor([0.0, -torch.inf, 0.5, 1.0]).softmax(0)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert shares[1] == 0
    torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)


def test_stop_tokens_end_a_continuation_and_are_left_out() -> None:
    answers = generate(tiny_model("Qwen2"), make_requests(), samples=5)
    written = [text for answer in answers for text in (answer.greedy, *answer.samples)]
    assert not any(STOP & set(text) for text in written)
    limits = [request.max_new_tokens for request in make_requests()]
    assert all(len(text) <= limit for answer, limit in zip(answers, limits, strict=True) for text in answer.samples)
    assert any(len(text) == limit for answer, limit in zip(answers, limits, strict=True) for text in answer.samples)


def test_the_model_s_last_position_is_the_end() -> None:
    model = tiny_model("Qwen2")
    near, beyond = GenerationRequest("near", (7,) * 125, 50), GenerationRequest("beyond", (7,) * 128, 5)
    answers = generate(model, [near, beyond, GenerationRequest("empty", (), 5)])
    assert len(answers[0].greedy) <= 3
    assert answers[1:] == [Generations("beyond", (), ()), Generations("empty", (), ())]
    generator = Generator(model, max_batch_tokens=10, stop_ids=STOP, temperature=1.0, samples=0, seed=0)
    assert generator.refusal(near) is None
    assert "129 tokens are more than the 128" in str(generator.refusal(beyond))
