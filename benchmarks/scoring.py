"""Speed and numbers of the scoring engine beside lm-eval's ``HFLM.loglikelihood``, in one process and interleaved.

    python benchmarks/scoring.py            # a table
    python benchmarks/scoring.py --json     # the same for machines
    python benchmarks/scoring.py --quick    # one small model, fewer repetitions

Both sides start from the same strings, tokenise them, and run the same random-weight models on one CPU thread in
float32. HFLM runs at the batch size that was fastest for it in a trial of the same shape. Seconds are processor time of
the process (user and system), which on one thread is the wall time of an idle machine and does not mind other work on
it; with more threads they are wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

VOCABULARY = 32_000


@dataclass(frozen=True)
class Shape:
    """Prompts and options of one kind.

    Attributes:
        name: Short name.
        title: What it stands for.
        key: Its speed-up in the output.
        target: Speed-up that is expected at least.
        prompt: Tokens of a prompt, about.
        option: Smallest and largest number of tokens of an option.
        options: Options a prompt.
        shared: Whether all prompts have the same options.
        first_tokens: How many different tokens the options start with; None for any.
        prompts: Prompts in one measurement.
    """

    name: str
    title: str
    key: str
    target: float
    prompt: int
    option: tuple[int, int]
    options: int
    shared: bool
    first_tokens: int | None
    prompts: int


SHAPES = (
    Shape("S1", "4 options of 51 tokens after 69", "long_options_speedup", 1.7, 69, (46, 56), 4, False, None, 6),
    Shape("S2", "8 options of 20 tokens after 300", "many_options_speedup", 5.0, 300, (17, 23), 8, False, None, 2),
    Shape("S3", "4 single letters after 69", "letters_speedup", 1.1, 69, (1, 1), 4, True, None, 24),
    Shape("S4", "34 labels of 1-3 tokens after 60", "label_set_speedup", 6.0, 60, (1, 3), 34, True, 20, 3),
)


@dataclass(frozen=True)
class Result:
    """One model and shape: medians in seconds, and how far the numbers are apart in nats."""

    model: str
    shape: str
    prompts: int
    hflm_batch_size: int
    hflm_seconds: float
    engine_seconds: float
    speedup: float
    max_abs_difference: float
    tolerance_ratio: float
    greedy_disagreements: int


def make_prompts(shape: Shape, prompts: int, seed: int) -> list[tuple[str, list[str]]]:
    """Random prompts with their options, as text; an option starts with a space."""
    rng = np.random.default_rng(seed)
    openings = rng.integers(10, VOCABULARY, shape.first_tokens or VOCABULARY)

    def text(tokens: int, opening: int | None = None) -> str:
        ids = [int(token) for token in rng.integers(10, VOCABULARY, tokens)]
        return " ".join(f"t{token}" for token in ([opening, *ids[1:]] if opening is not None else ids))

    def options() -> list[str]:
        found: dict[str, None] = {}
        while len(found) < shape.options:
            found[" " + text(int(rng.integers(shape.option[0], shape.option[1] + 1)), int(rng.choice(openings)))] = None
        return list(found)

    common = options()
    spread = shape.prompt // 10
    return [
        (text(shape.prompt + int(rng.integers(-spread, spread + 1))), common if shape.shared else options())
        for _ in range(prompts)
    ]


def make_tokenizer() -> Any:  # noqa: ANN401
    """A tokenizer of 32,000 words without a meaning."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<eos>", "<pad>"]
    words = [*special, *(f"t{token}" for token in range(len(special), VOCABULARY))]
    raw = Tokenizer(models.WordLevel({word: token for token, word in enumerate(words)}, unk_token=special[0]))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    build: Any = PreTrainedTokenizerFast
    return build(tokenizer_object=raw, unk_token=special[0], eos_token=special[1], pad_token=special[2])


def make_model(name: str) -> Any:  # noqa: ANN401
    """A random-weight model: Qwen2 with 28 million parameters (tied head), Llama with 104 million."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    if name == "qwen2-28m":
        size: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4}
        heads: dict[str, Any] = {"num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": True}
        qwen: Any = Qwen2ForCausalLM(Qwen2Config(**common, **size, **heads))
        return qwen.eval()
    size = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 4, "tie_word_embeddings": False}
    llama: Any = LlamaForCausalLM(LlamaConfig(**common, **size, **heads))
    return llama.eval()


class Sides:
    """The two programs that are compared, on one model; each gives ``(log-probability, greedy)`` of every option."""

    def __init__(self, model: Any, tokenizer: Any, max_batch_tokens: int) -> None:  # noqa: ANN401
        from lm_eval.models.huggingface import HFLM

        from ilp_service.scoring.engine import Scorer

        self._tokenizer = tokenizer
        self._hflm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=1024)
        self._scorer = Scorer(model, max_batch_tokens=max_batch_tokens)

    def hflm(self, prompts: Sequence[tuple[str, list[str]]], batch_size: int) -> list[tuple[float, bool]]:
        """One ``loglikelihood`` call with a request for every option."""
        from lm_eval.api.instance import Instance

        instances = [
            Instance(request_type="loglikelihood", doc={}, arguments=(prompt, option), idx=0)
            for prompt, options in prompts
            for option in options
        ]
        self._hflm.batch_size_per_gpu = batch_size
        found: list[tuple[float, bool]] = self._hflm.loglikelihood(instances, disable_tqdm=True)
        return found

    def engine(self, prompts: Sequence[tuple[str, list[str]]]) -> list[tuple[float, bool]]:
        """Tokenise each prompt and option once, and score."""
        from ilp_service.scoring.requests import ScoringRequest

        def ids(text: str) -> tuple[int, ...]:
            return tuple(self._tokenizer.encode(text, add_special_tokens=False))

        requests = (
            ScoringRequest(str(number), ids(prompt), tuple(map(ids, options)))
            for number, (prompt, options) in enumerate(prompts)
        )
        return [
            (float(logprob), bool(greedy))
            for answer in self._scorer.score(requests)
            for logprob, greedy in zip(answer.logprobs, answer.greedy, strict=True)
        ]


def seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Time of one call."""
    begin = clock()
    call()
    return clock() - begin


def measure(
    sides: Sides,
    model: str,
    shape: Shape,
    prompts: int,
    batch_sizes: Sequence[int],
    repeats: int,
    clock: Callable[[], float],
) -> Result:
    """Compare both sides on one shape; medians of interleaved runs."""
    work = make_prompts(shape, prompts, seed=7)
    theirs = sides.hflm(work, batch_sizes[0])  # also warms up
    ours = sides.engine(work)
    trial = {size: seconds(lambda size=size: sides.hflm(work, size), clock) for size in batch_sizes}  # type: ignore[misc]
    best = min(trial, key=lambda size: trial[size])
    hflm_times: list[float] = []
    engine_times: list[float] = []
    for _ in range(repeats):
        hflm_times.append(seconds(lambda: sides.hflm(work, best), clock))
        engine_times.append(seconds(lambda: sides.engine(work), clock))
    difference = np.array([abs(left[0] - right[0]) for left, right in zip(theirs, ours, strict=True)])
    allowed = np.array([1e-4 + 1e-6 * abs(left[0]) for left in theirs])
    hflm_median, engine_median = statistics.median(hflm_times), statistics.median(engine_times)
    return Result(
        model=model,
        shape=shape.name,
        prompts=prompts,
        hflm_batch_size=best,
        hflm_seconds=round(hflm_median, 4),
        engine_seconds=round(engine_median, 4),
        speedup=round(hflm_median / engine_median, 3),
        max_abs_difference=float(difference.max()),
        tolerance_ratio=float((difference / allowed).max()),
        greedy_disagreements=sum(left[1] != right[1] for left, right in zip(theirs, ours, strict=True)),
    )


def summarise(results: Sequence[Result]) -> dict[str, object]:
    """The worst model of every shape, and the largest difference of all."""
    summary: dict[str, object] = {
        "max_abs_difference": max(result.max_abs_difference for result in results),
        "tolerance_ratio": max(result.tolerance_ratio for result in results),
        "greedy_disagreements": sum(result.greedy_disagreements for result in results),
    }
    for shape in SHAPES:
        summary[shape.key] = min(result.speedup for result in results if result.shape == shape.name)
    return summary | {"measurements": [asdict(result) for result in results]}


def table(results: Sequence[Result], summary: dict[str, object]) -> str:
    """What a person reads."""
    lines = [
        f"{'model':<11}{'shape':<36}{'HFLM s':>9}{'batch':>6}{'engine s':>9}{'speed-up':>9}{'target':>7}{'diff':>10}"
    ]
    shapes = {shape.name: shape for shape in SHAPES}
    for result in results:
        shape = shapes[result.shape]
        lines.append(
            f"{result.model:<11}{shape.name + ' ' + shape.title:<36}"
            f"{result.hflm_seconds:>9.3f}{result.hflm_batch_size:>6}{result.engine_seconds:>9.3f}{result.speedup:>9.2f}{shape.target:>7.1f}{result.max_abs_difference:>10.1e}"
        )
    lines.append(
        f"Largest difference {summary['max_abs_difference']:.1e} nats, {summary['tolerance_ratio']:.2f} of the allowed "
        f"1e-4 + 1e-6 x |sum|; {summary['greedy_disagreements']} greedy flags differ."
    )
    return "\n".join(lines)


def main() -> int:
    """Run the comparison; 0 when all went well, 2 when lm-eval is missing."""
    parser = argparse.ArgumentParser(description="Compare the scoring engine with lm-eval's HFLM.loglikelihood.")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="one small model, fewer repetitions and batch sizes")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--max-batch-tokens", type=int, default=2048, help="tokens the engine forwards at once")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import lm_eval
    except ImportError:
        sys.stderr.write("lm-eval is not installed, and is what is compared with; pip install 'ilp-service[bench]'\n")
        return 2
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    tokenizer = make_tokenizer()
    plans: list[tuple[str, float, tuple[int, ...], int]] = (
        [("qwen2-28m", 0.5, (1, 8), 3)]
        if arguments.quick
        else [("qwen2-28m", 1.0, (1, 2, 4, 8, 16), 5), ("llama-104m", 0.5, (1, 4, 8), 3)]
    )
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    results: list[Result] = []
    for name, share, batch_sizes, repeats in plans:
        sides = Sides(make_model(name), tokenizer, arguments.max_batch_tokens)
        for shape in SHAPES:
            prompts = max(1, int(shape.prompts * share))
            results.append(measure(sides, name, shape, prompts, batch_sizes, repeats, clock))
            sys.stderr.write(f"{name} {shape.name}: {results[-1].speedup:.2f} times as fast\n")
    summary = summarise(results)
    summary["environment"] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "lm_eval": lm_eval.__version__,
        "threads": arguments.threads,
        "clock": clock.__name__,
        "dtype": "float32",
        "quick": arguments.quick,
    }
    sys.stdout.write((json.dumps(summary, indent=2) if arguments.json else table(results, summary)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
