"""A small base model of any supported family, trained from scratch on the text of a data file.

For trying the whole way (base, fine-tuning, registration, diagnosis) on real text without downloading a model:

    python benchmarks/base_from_text.py --data gsm8k.jsonl --family llama --out bases/gsm8k-llama --minutes 3

The tokenizer is a byte-level BPE of the same text. The base sees prompts and responses of the *first half* of the rows
joined as running text, so that it has met the domain and part of the facts, but no instruction form for the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

FAMILIES = ("qwen2", "qwen3", "llama", "olmo2")


def build_tokenizer(texts: list[str], folder: Path, vocabulary: int) -> Any:  # noqa: ANN401
    """Train a byte-level BPE with an end-of-sequence token and save it as a Hugging Face tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|pad|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|pad|>")  # noqa: S106
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_model(family: str, vocabulary: int, width: int, layers: int) -> Any:  # noqa: ANN401
    """A model of the family with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family,
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config)


def main() -> None:
    """Train until the time is over, save, and say how far it came."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="JSONL, JSON or parquet, as for 'ilp diagnose'")
    parser.add_argument("--family", choices=FAMILIES, default="qwen2")
    parser.add_argument("--out", type=Path, required=True, help="folder for the base model")
    parser.add_argument("--minutes", type=float, default=3.0, help="training time")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    import torch

    from ilp_service.samples.reading import read_samples
    from ilp_service.settings import DataSettings
    from ilp_service.training.pretrain import pretrain

    torch.manual_seed(arguments.seed)
    samples = read_samples(arguments.data, DataSettings()).samples
    known = samples[: len(samples) // 2]
    texts = [f"{sample.prompt}\n{sample.response}" for sample in samples]
    documents = [f"{sample.prompt} {sample.response}" for sample in known] + [s.prompt for s in samples[len(known) :]]
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(texts, arguments.out, arguments.vocabulary)
    model = build_model(arguments.family, len(tokenizer), arguments.width, arguments.layers)

    trial = 5
    started = time.monotonic()
    pretrain(model, tokenizer, documents, steps=trial, batch_size=16, max_length=256, packed=True, seed=arguments.seed)
    per_step = (time.monotonic() - started) / trial
    steps = max(20, int(arguments.minutes * 60 / per_step))

    def report(step: int, total: int, loss: float) -> None:
        if step % max(1, total // 20) == 0:
            print(f"step {step}/{total}  loss {loss:.3f} nats/token", file=sys.stderr, flush=True)

    losses = pretrain(
        model, tokenizer, documents, steps=steps, batch_size=16, learning_rate=1e-3, max_length=256, packed=True,
        seed=arguments.seed, progress=report,
    )  # fmt: skip
    model.save_pretrained(arguments.out)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{arguments.out}: {arguments.family}, {parameters / 1e6:.1f} M parameters, {steps} steps, "
          f"loss {losses[0]:.2f} -> {sum(losses[-20:]) / 20:.2f} nats/token")  # fmt: skip


if __name__ == "__main__":
    main()
