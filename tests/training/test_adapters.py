"""An adapter is trained again in the shape in which it was saved, or refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from ilp_service.errors import SettingsError
from ilp_service.training.adapters import LoraOptions, add_lora, saved_lora
from tests.tiny import tiny_model


def shape(model: peft.PeftModel) -> list[tuple[str, tuple[int, ...], str]]:
    """All that is trained, and how every adapted layer is scaled."""
    trained = [(name, tuple(one.shape), "") for name, one in model.named_parameters() if one.requires_grad]
    scaled = [(name, (), str(one.scaling)) for name, one in model.named_modules() if hasattr(one, "scaling")]
    return sorted(trained + scaled)


def saved(folder: Path, **options: Any) -> peft.PeftModel:  # noqa: ANN401 (options of PEFT)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options})
    adapter = peft.get_peft_model(tiny_model("llama", num_hidden_layers=2), config)
    assert isinstance(adapter, peft.PeftModel)
    adapter.save_pretrained(str(folder))
    return adapter


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "v_proj"], "use_rslora": True},
        {"target_modules": ["q_proj"], "use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        {
            "target_modules": ["q_proj", "embed_tokens"],
            "lora_bias": False,
            "exclude_modules": ["layers.0.self_attn.q_proj"],
        },
        {"target_modules": r".*self_attn\.(q|v)_proj"},
        {"target_modules": ["self_attn.q_proj"], "bias": "lora_only"},
        {"target_modules": ["v_proj"], "trainable_token_indices": [3, 5], "init_lora_weights": "gaussian"},
    ],
)
def test_a_saved_adapter_is_trained_again_in_its_own_shape(tmp_path: Path, options: dict[str, Any]) -> None:
    was = saved(tmp_path, **options)
    again = add_lora(tiny_model("llama", num_hidden_layers=2), saved_lora(tmp_path), base="base", seed=0)
    assert shape(again) == shape(was)
    again.save_pretrained(str(tmp_path / "again"))
    assert saved_lora(tmp_path / "again") == saved_lora(tmp_path)


def test_a_plain_adapter_is_known_by_four_numbers_alone(tmp_path: Path) -> None:
    saved(tmp_path, target_modules=["v_proj", "q_proj"], lora_dropout=0.1)
    assert saved_lora(tmp_path) == LoraOptions(4, 8.0, 0.1, ("q_proj", "v_proj"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_qalora": True}, "with use_qalora = True"),
        ({"init_lora_weights": "pissa"}, "with init_lora_weights = 'pissa'"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "with layer_replication = "),
        ({"an_option_to_come": 1}, "with an_option_to_come = 1"),
        ({"peft_type": "IA3"}, "of type IA3"),
    ],
)
def test_an_adapter_that_is_not_trained_here_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    saved(tmp_path, target_modules=["q_proj"])
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(SettingsError, match=f"{re.escape(said)}.*not trained here; .*--recipe"):
        saved_lora(tmp_path)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("attn.q_proj",), "no linear layer named 'attn.q_proj'; .* q_proj"),
        ((r".*\.query",), "no linear layer named"),
        (("(q_proj",), "as a regular expression it cannot be read"),
        (("self_attn",), "No adapter on self_attn can be put around the base"),
    ],
)
def test_layers_that_are_none_are_refused(targets: tuple[str, ...], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        add_lora(tiny_model("llama"), LoraOptions(targets=targets), base="base", seed=0)


def test_a_refused_adapter_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    with pytest.raises(SettingsError):
        add_lora(tiny_model("llama"), LoraOptions(targets=("self_attn",)), base="base", seed=0)
    assert torch.equal(before, torch.get_rng_state())
