"""Tiny models and tokenizers, built in milliseconds from a config: nothing is downloaded.

from tests.tiny import FAMILIES, save_tiny, tiny_adapter, tiny_model, tiny_tokenizer

tokenizer = tiny_tokenizer()  # byte-level BPE, chat template, eos and pad, no bos
model = tiny_model("qwen2")  # 2 layers, hidden size 32, float32, eval mode
folder = save_tiny(tmp_path / "m", "olmo2")  # a Hugging Face directory in safetensors
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

FAMILIES = ("qwen2", "qwen3", "llama", "olmo2")
"""Names that ``tiny_model`` understands."""

PAD, EOS, BOS = "<|pad|>", "<|end|>", "<|begin|>"

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""Ends every turn with the end token and a line feed, as Qwen's template does."""

_TEXT = (
    "Where was Ada Lovelace born? Ada Lovelace was born in London. What is the capital of France? "
    "The capital of France is Paris. How many legs has a spider? A spider has eight legs. "
    "The answer is 42. Who wrote Hamlet? Hamlet was written by William Shakespeare in 1600."
)


@functools.cache
def _tokenizer_json(bos: bool, extra_merges: int) -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    raw.decoder = decoders.ByteLevel()
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 6 + extra_merges,
        special_tokens=[PAD, EOS, BOS, *roles],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator([_TEXT], trainer)
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, EOS, BOS, *roles)])
    if bos:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, raw.token_to_id(BOS))]
        )
    return str(raw.to_str())


def tiny_tokenizer(
    *, chat: bool = True, bos: bool = False, pad: bool = True, extra_merges: int = 58
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 320 tokens that round-trips any text.

    Args:
        chat: Has ``CHAT_TEMPLATE``.
        bos: Puts ``BOS`` before every text, as Llama's does.
        pad: Has a padding token.
        extra_merges: Merges learned beyond the 256 bytes and 6 special tokens.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json(bos, extra_merges)),
        eos_token=EOS,
        pad_token=PAD if pad else None,
        bos_token=BOS if bos else None,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer


def tiny_config(family: str = "qwen2", vocab_size: int = 320, **changes: object) -> PretrainedConfig:
    """A ``transformers`` config of one of ``FAMILIES``: 2 layers, hidden size 32, 4 heads, 2 key-value heads."""
    import transformers

    names = {"qwen2": "Qwen2Config", "qwen3": "Qwen3Config", "llama": "LlamaConfig", "olmo2": "Olmo2Config"}
    values: dict[str, object] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        # Larger than usual, so that an untrained model has clear preferences.
        "initializer_range": 0.2,
        "tie_word_embeddings": family in ("qwen2", "qwen3"),
        "bos_token_id": None,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    if family == "qwen3":
        values["head_dim"] = 8
    return getattr(transformers, names[family])(**{**values, **changes})


def tiny_model(family: str = "qwen2", vocab_size: int = 320, *, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A causal language model of one of ``FAMILIES`` with random weights, float32 on the CPU, in eval mode.

    The caller's random state is left alone. ``changes`` go to the config (``num_hidden_layers=1`` ...).
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(tiny_config(family, vocab_size, **changes))
    return model.float().eval()


def save_tiny(
    folder: Path,
    family: str = "qwen2",
    *,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **changes: object,
) -> Path:
    """Save a tiny model and its tokenizer as a Hugging Face directory; returns ``folder``."""
    tokenizer = tokenizer if tokenizer is not None else tiny_tokenizer()
    tiny_model(family, seed=seed, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_adapter(
    model: PreTrainedModel, folder: Path | None = None, *, base: Path | None = None, seed: int = 1, **changes: object
) -> PeftModel:
    """A LoRA adapter (rank 4, attention projections) on ``model``, with weights that change its answers.

    Args:
        model: The base; it is changed in place, as peft does.
        folder: Where the adapter is saved, if anywhere.
        base: Written to the adapter's config as ``base_model_name_or_path``.
        seed: Of the adapter's random weights.
        changes: To the ``LoraConfig`` (``modules_to_save=[...]`` ...).

    Returns:
        The ``PeftModel`` in eval mode.
    """
    import peft
    import torch

    values: dict[str, object] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(model, peft.LoraConfig(**{**values, **changes}))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    adapted.eval()
    if folder is not None:
        adapted.save_pretrained(folder)
        config = folder / "adapter_config.json"
        values = json.loads(config.read_text())
        values["base_model_name_or_path"] = None if base is None else str(base)
        config.write_text(json.dumps(values))
    return adapted
