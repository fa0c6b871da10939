from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ilp_service.errors import AdapterKeysError, IlpWarning
from ilp_service.scoring.attention import FlatLayout
from ilp_service.scoring.batching import Piece
from ilp_service.scoring.engine import Scorer
from ilp_service.scoring.head import rows_at_once
from ilp_service.scoring.parts import ModelParts
from ilp_service.scoring.requests import OptionScores, ScoringRequest
from ilp_service.scoring.routes import RUNNERS, Reads
from tests.scoring.families import FLAT, PADDED, make_requests, plain, tiny_model


def scores(
    model: nn.Module, requests: list[ScoringRequest], max_batch_tokens: int = 200, pad: int = 0
) -> list[OptionScores]:
    return list(Scorer(model, max_batch_tokens=max_batch_tokens, pad_token_id=pad).score(requests))


def largest_difference(left: list[OptionScores], right: list[OptionScores]) -> float:
    assert [one.key for one in left] == [one.key for one in right]
    return max(np.abs(one.logprobs - two.logprobs).max() for one, two in zip(left, right, strict=True))


def check_against_plain(model: nn.Module, answers: list[OptionScores], requests: list[ScoringRequest]) -> None:
    for request, answer in zip(requests, answers, strict=True):
        tokens = plain(model, request)
        np.testing.assert_allclose(answer.logprobs, np.nansum(tokens, axis=1), atol=1e-4, rtol=0)
        last = [row[len(option) - 1] for row, option in zip(tokens, request.options, strict=True)]
        np.testing.assert_allclose(answer.last_logprobs, last, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FLAT)
def test_every_family_gives_the_numbers_of_a_plain_forward(family: str) -> None:
    model, requests = tiny_model(family), make_requests(12)
    before = model.config._attn_implementation
    scorer = Scorer(model, max_batch_tokens=200)
    assert scorer.route == "flat"
    check_against_plain(model, list(scorer.score(requests)), requests)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("family", PADDED)
def test_a_family_that_needs_the_slow_way_says_so_and_is_right(family: str) -> None:
    model, requests = tiny_model(family), make_requests(8)
    with pytest.warns(IlpWarning, match="slow way"):
        scorer = Scorer(model, max_batch_tokens=200, pad_token_id=3)
    assert scorer.route == "padded"
    check_against_plain(model, list(scorer.score(requests)), requests)


def test_a_head_that_is_not_understood_is_left_to_the_model() -> None:
    model, requests = tiny_model("Llama"), make_requests(6)
    own = model.forward

    def forward(input_ids: torch.Tensor, use_cache: bool, logits_to_keep: int | torch.Tensor = 0) -> object:
        output = own(input_ids=input_ids, use_cache=use_cache, logits_to_keep=logits_to_keep)
        output.logits = output.logits * 0.5
        return output

    model.forward = forward
    with pytest.warns(IlpWarning, match="whole"):
        scorer = Scorer(model, max_batch_tokens=200)
    check_against_plain(model, list(scorer.score(requests)), requests)


@pytest.mark.parametrize("broken", ["branch_mask", "positions"])
def test_a_fast_way_that_is_wrong_is_noticed_before_it_is_used(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def all_see_all(layout: FlatLayout, number: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        segment = layout.segments[number]
        return like.new_zeros(segment.end - segment.branch, segment.end - segment.start)

    def counted_through(
        parts: ModelParts, tokens: torch.Tensor, positions: torch.Tensor, mask: object = None
    ) -> object:
        return parts.decoder(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state

    if broken == "branch_mask":
        monkeypatch.setattr(FlatLayout, "branch_mask", all_see_all)
    else:
        monkeypatch.setattr(ModelParts, "hidden", counted_through)
    model, requests = tiny_model("Qwen2"), make_requests(5)
    with pytest.warns(IlpWarning, match="off by"):
        scorer = Scorer(model, max_batch_tokens=200)
    assert scorer.route == "padded"
    check_against_plain(model, list(scorer.score(requests)), requests)


def test_windows_hide_what_the_model_hides_beyond_one_block_of_queries() -> None:
    model = tiny_model("Mistral", max_position_embeddings=2048, sliding_window=100)
    rng = np.random.default_rng(3)
    ids = tuple(int(token) for token in rng.integers(0, 97, 1230))
    requests = [ScoringRequest("long", ids[:1100], (ids[1100:1210], ids[1210:]))]
    check_against_plain(model, scores(model, requests, max_batch_tokens=64), requests)


@pytest.mark.parametrize("max_batch_tokens", [1, 60, 350, 100_000])
def test_batch_size_changes_no_number(max_batch_tokens: int) -> None:
    model, requests = tiny_model("Qwen2"), make_requests()
    assert largest_difference(scores(model, requests), scores(model, requests, max_batch_tokens)) < 1e-4


@pytest.mark.parametrize("family", ["Qwen2", "GptOss"])
@pytest.mark.filterwarnings("ignore::ilp_service.errors.IlpWarning")
def test_order_chunking_and_padding_change_no_number(family: str) -> None:
    model, requests = tiny_model(family), make_requests()
    together = scores(model, requests)
    backwards = scores(model, requests[::-1])[::-1]
    scorer = Scorer(model, max_batch_tokens=200)
    in_chunks = [answer for begin in range(0, len(requests), 3) for answer in scorer.score(requests[begin : begin + 3])]
    other_filler = scores(model, requests, pad=5)
    for other in (backwards, in_chunks, other_filler):
        assert largest_difference(together, other) < 1e-4
        assert all((one.greedy == two.greedy).all() for one, two in zip(together, other, strict=True))


def test_the_same_run_repeats_itself_to_the_bit() -> None:
    model, requests = tiny_model("Qwen2"), make_requests()
    assert largest_difference(scores(model, requests), scores(model, requests)) == 0


def test_greedy_is_what_the_model_would_write() -> None:
    model = tiny_model("Qwen3")
    context = (4, 8, 15)
    ids = list(context)
    for _ in range(5):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    written = tuple(ids[3:])
    other = (*written[:-1], (written[-1] + 1) % 97)
    [answer] = scores(model, [ScoringRequest("one", context, (written, other, written[:2]))])
    assert answer.greedy.tolist() == [True, False, True]


def test_an_option_that_another_one_begins_with_keeps_its_own_number() -> None:
    model = tiny_model("Llama")
    request = ScoringRequest("prefix", (3, 4), ((5, 6, 7), (5, 6), (5,), (5, 6, 7)))
    [answer] = scores(model, [request])
    check_against_plain(model, [answer], [request])
    assert answer.logprobs[0] == answer.logprobs[3]


def test_bfloat16_is_finite_and_near() -> None:
    requests = make_requests()
    exact = scores(tiny_model("Qwen2"), requests)
    rough = scores(tiny_model("Qwen2").to(torch.bfloat16), requests)
    assert all(np.isfinite(answer.logprobs).all() for answer in rough)
    assert largest_difference(exact, rough) < 3.0


def test_an_adapter_counts_and_can_be_switched_off() -> None:
    requests = make_requests(8)
    bare = scores(tiny_model("Qwen2"), requests)
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "lm_head"], init_lora_weights=False)
    wrapped = get_peft_model(tiny_model("Qwen2"), config).eval()
    tuned = scores(wrapped, requests)
    check_against_plain(wrapped, tuned, requests)
    assert largest_difference(bare, tuned) > 1e-2
    with wrapped.disable_adapter():
        assert largest_difference(bare, scores(wrapped, requests)) < 1e-5


def test_a_batch_that_does_not_fit_into_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = tiny_model("Qwen2"), make_requests()
    scorer, expected = Scorer(model, max_batch_tokens=500), scores(model, requests)
    flat, sizes = RUNNERS["flat"], []

    def small_device(parts: ModelParts, pieces: Sequence[Piece], max_tokens: int) -> list[Reads]:
        sizes.append(len(pieces))
        if len(pieces) > 2:
            raise torch.OutOfMemoryError
        return flat(parts, pieces, max_tokens)

    monkeypatch.setitem(RUNNERS, "flat", small_device)
    assert largest_difference(expected, list(scorer.score(requests))) < 1e-4
    assert max(sizes) > 2
    monkeypatch.setitem(
        RUNNERS, "flat", lambda parts, pieces, max_tokens: small_device(parts, [*pieces] * 3, max_tokens)
    )
    with pytest.raises(torch.OutOfMemoryError):
        list(scorer.score(requests))


def test_a_learned_prompt_is_refused_by_name() -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(AdapterKeysError, match="PROMPT_TUNING"):
        Scorer(get_peft_model(tiny_model("Qwen2"), config), max_batch_tokens=100)


def test_training_mode_is_left_as_it_was() -> None:
    model = tiny_model("Llama", attention_dropout=0.5)
    calm = scores(model, make_requests(4))
    model.train()
    assert largest_difference(calm, scores(model, make_requests(4))) == 0
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (ScoringRequest("none", (), ((1,),)), "prompt has no token"),
        (ScoringRequest("empty", (1,), ((1,), ())), "option has no token"),
        (ScoringRequest("long", (1,) * 120, ((1,), (2,) * 9)), "129 tokens are more than the 128"),
        (ScoringRequest("foreign", (1, 97), ((1,),)), "Token id 97"),
        (ScoringRequest("foreign option", (1,), ((1,), (-1,))), "Token id -1"),
    ],
)
def test_a_request_that_cannot_be_scored_gets_nan_and_a_reason(request_: ScoringRequest, reason: str) -> None:
    good = make_requests(2)
    scorer = Scorer(tiny_model("Qwen2"), max_batch_tokens=200)
    assert reason in str(scorer.refusal(request_))
    first, refused, last = scorer.score([good[0], request_, good[1]])
    assert refused.key == request_.key
    assert np.isnan(refused.logprobs).all()
    assert np.isnan(refused.last_logprobs).all()
    assert len(refused.logprobs) == len(request_.options)
    assert not refused.greedy.any()
    assert np.isfinite(first.logprobs).all()
    assert np.isfinite(last.logprobs).all()
    assert scorer.refusal(good[0]) is None


def test_no_options_is_an_empty_answer() -> None:
    [answer] = scores(tiny_model("Qwen2"), [ScoringRequest("bare", (1, 2), ())])
    assert answer.logprobs.shape == (0,)


def test_requests_are_read_as_they_are_needed() -> None:
    read = 0

    def stream() -> Iterator[ScoringRequest]:
        nonlocal read
        for index in range(400):
            read += 1
            yield ScoringRequest(str(index), (1, 2, 3, 4, 5, 6, 7, 8), ((9, 10),))

    answers = Scorer(tiny_model("Qwen2"), max_batch_tokens=20).score(stream())
    assert next(answers).key == "0"
    assert read <= 20
    assert [answer.key for answer in answers] == [str(index) for index in range(1, 400)]


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation gave."""

    cells = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.cells = max(self.cells, result.numel())
        return result


def test_a_large_vocabulary_never_makes_a_large_tensor() -> None:
    vocabulary = 150_000
    model = tiny_model("Qwen2", vocabulary, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    scorer = Scorer(model, max_batch_tokens=1000)
    options = tuple(tuple(range(start, start + 60)) for start in (10, 200, 1000))
    with LargestTensor() as seen:
        [answer] = scorer.score([ScoringRequest("wide", (1, 2, 3), options)])
    assert np.isfinite(answer.logprobs).all()
    needed = 178  # positions whose scores are read
    assert vocabulary <= seen.cells <= rows_at_once(vocabulary) * vocabulary < needed * vocabulary / 3
