"""What is refused, with which error, and that the sentence names what to mend."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ilp_service.checkpoints.loading import Checkpoint
from ilp_service.checkpoints.reference import ModelReference
from ilp_service.errors import (
    AdapterBaseError,
    AdapterKeysError,
    IlpError,
    ModelNotFoundError,
    RemoteCodeError,
    SettingsError,
    SourceUnreadableError,
    TokenizerError,
    UnsafeWeightsError,
)
from ilp_service.settings import ScoringSettings
from ilp_service.tracking import Tracking
from tests.checkpoints.conftest import CPU
from tests.tiny import save_tiny, tiny_adapter, tiny_model, tiny_tokenizer

Find = Callable[..., ModelReference]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model", "qwen2")


@pytest.fixture
def adapter(tmp_path: Path, model: Path) -> Path:
    tiny_adapter(tiny_model("qwen2"), tmp_path / "adapter", base=model)
    return tmp_path / "adapter"


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def load(reference: ModelReference) -> None:
    checkpoint = Checkpoint.open(reference, CPU)
    with checkpoint.tuned():
        pass


def refused(kind: type[IlpError], words: str, action: Callable[[], object]) -> None:
    with pytest.raises(kind, match=words) as caught:
        action()
    assert type(caught.value) is kind or kind is IlpError
    assert "\n" not in str(caught.value)


def test_unknown_names(workplace: Path, find: Find, model: Path) -> None:
    with Tracking().run("x") as run:
        run.register("bot", folder=model)
    for uri, words in {
        "models:/nobody/1": "No model named 'nobody'.*bot",
        "models:/bot/9": "no version 9.*1",
        "models:/bot@prod": "no alias 'prod'",
        "models:/bot/Production": "not a version number",
        "models:/bot": "names no version",
        "models:/m-0123": "No logged model",
        "runs:/0123/model": "No run '0123'",
        f"runs:/{run.run_id}/nothing": "no artifact or model 'nothing'.*checkpoint",
        "s3://bucket/model": "not a URI of a model",
        "./nothing/here": "no folder",
        "nobody/nothing": "HF_HUB_OFFLINE",
        str(model / "config.json"): "is a file",
    }.items():
        refused(ModelNotFoundError, words, lambda uri=uri: find(uri))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.gguf", "pytorch_model-00001-of-00002.bin"])
def test_weights_that_are_not_safetensors(local: Find, model: Path, name: str) -> None:
    (model / "model.safetensors").rename(model / name)
    (model / "training_args.bin").write_bytes(b"never read")
    refused(UnsafeWeightsError, f"{re.escape(name)}.*save_pretrained", lambda: local(model))


def test_index_may_name_safetensors_only(local: Find, model: Path) -> None:
    (model / "model.safetensors").rename(model / "weights.bin")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "weights.bin"}}))
    refused(UnsafeWeightsError, "weights.bin", lambda: local(model))


def test_adapter_weights_that_are_not_safetensors(local: Find, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused(UnsafeWeightsError, "adapter_model.bin", lambda: local(adapter))


def test_no_weights_at_all(local: Find, model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "optimizer.pt").write_bytes(b"")
    refused(SourceUnreadableError, "has no model.safetensors", lambda: local(model))


def test_code_of_its_own_is_never_run(local: Find, model: Path) -> None:
    (model / "modeling.py").write_text("raise SystemExit('this code was run')")
    change(model / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Model"})
    refused(RemoteCodeError, "auto_map", lambda: local(model))
    change(model / "config.json", auto_map=None, model_type="brand_new")
    refused(RemoteCodeError, "brand_new", lambda: local(model))
    change(model / "config.json", model_type="vit")
    refused(SourceUnreadableError, "not a causal language model", lambda: local(model))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(local: Find, model: Path, keep: int) -> None:
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:keep])
    refused(SourceUnreadableError, "truncated or damaged", lambda: local(model))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "qwen2", "hidden_size": "wide"}', '"' * 9])
def test_broken_config(local: Find, model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    refused(SourceUnreadableError, "cannot be read as JSON|not a JSON object|do not load", lambda: load(local(model)))


def test_files_may_not_lead_out_of_the_folder(tmp_path: Path, local: Find, model: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    (model / "model.safetensors").rename(outside)
    (model / "model.safetensors").symlink_to(outside)
    refused(SourceUnreadableError, "leads out of", lambda: local(model))
    (model / "model.safetensors").unlink()
    for name in ("../outside.safetensors", str(outside)):
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        refused(SourceUnreadableError, "leads out of", lambda: local(model))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_links_to_other_files_are_refused(tmp_path: Path, local: Find, model: Path, name: str) -> None:
    shutil.move(model / name, tmp_path / name)
    (model / name).symlink_to(tmp_path / name)
    refused(SourceUnreadableError, "leads out of", lambda: local(model))


def test_the_hub_cache_is_made_of_links_and_fine(tmp_path: Path, local: Find, model: Path) -> None:
    home = tmp_path / "models--owner--name"
    snapshot, blobs = home / "snapshots" / "abc", home / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in model.iterdir():
        shutil.move(file, blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    load(local(snapshot))


def test_missing_shard(local: Find, model: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(SourceUnreadableError, "copy the missing shard", lambda: local(model))


def test_keys_that_are_missing_left_over_or_of_another_shape(local: Find, model: Path) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    cases = {
        "lacks.*up_proj": {key: value for key, value in tensors.items() if key != name},
        "too many.*surplus": {**tensors, "model.layers.0.surplus.weight": torch.zeros(2)},
        "another shape.*up_proj": {**tensors, name: torch.zeros(3, 32)},
        "lacks|too many": {f"wrapped.{key}.base_layer": value for key, value in tensors.items()},
    }
    for words, changed in cases.items():
        save_file(changed, path, metadata={"format": "pt"})
        refused(SourceUnreadableError, words, lambda: load(local(model)))


def test_folder_that_is_no_checkpoint(tmp_path: Path, local: Find, model: Path) -> None:
    refused(SourceUnreadableError, "no checkpoint.*model", lambda: local(tmp_path))
    (model / "MLmodel").write_text("flavors:\n  sklearn: {}\n")
    refused(SourceUnreadableError, "sklearn", lambda: local(model))
    (model / "MLmodel").write_text("flavors: !!python/object/apply:os.getcwd []\n")
    refused(SourceUnreadableError, "cannot be read", lambda: local(model))


def test_adapter_without_its_base(tmp_path: Path, local: Find, model: Path, adapter: Path) -> None:
    shutil.rmtree(model)
    refused(AdapterBaseError, "--base", lambda: local(adapter))
    change(adapter / "adapter_config.json", base_model_name_or_path=None)
    refused(AdapterBaseError, "nothing names its base", lambda: local(adapter))
    change(adapter / "adapter_config.json", base_model_name_or_path="owner/never-cached")
    refused(AdapterBaseError, "HF_HUB_OFFLINE", lambda: local(adapter))
    refused(AdapterBaseError, "itself an adapter", lambda: local(adapter, base=adapter))


def test_adapter_of_another_model(tmp_path: Path, local: Find, adapter: Path) -> None:
    for family, changes, words in (
        ("qwen2", {"hidden_size": 64}, "does not fit its base.*shape"),
        ("qwen2", {"num_hidden_layers": 1}, "no place for"),
        ("qwen2", {"num_hidden_layers": 3}, "lacks"),
    ):
        other = save_tiny(tmp_path / f"{family}-{words[:5]}", family, **changes)
        refused(AdapterKeysError, words, lambda other=other: load(local(adapter, base=other)))


def test_adapter_with_other_keys(local: Find, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    first = min(tensors)
    for words, changed in {
        "lacks.*lora_A": {key: value for key, value in tensors.items() if key != first},
        "no place for.*elsewhere": {**tensors, "base_model.model.elsewhere.lora_A.weight": torch.zeros(4, 32)},
        "shape": {**tensors, first: torch.zeros(9, 32)},
    }.items():
        save_file(changed, path)
        refused(AdapterKeysError, words, lambda: load(local(adapter)))


def test_adapters_without_a_clean_base(local: Find, adapter: Path) -> None:
    config = adapter / "adapter_config.json"
    original = config.read_text()
    for words, changes in {
        "pissa": {"init_lora_weights": "pissa"},
        "learned prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3},
        "rebuilds its base": {"layer_replication": [[0, 2], [1, 2]]},
        "not understood": {"peft_type": "BRAND_NEW"},
    }.items():
        config.write_text(original)
        change(config, **changes)
        refused(AdapterKeysError, words, lambda: load(local(adapter)))


def test_adapter_trained_after_resizing_the_vocabulary(tmp_path: Path, local: Find, model: Path) -> None:
    resized = tiny_model("qwen2")
    resized.resize_token_embeddings(330)
    tiny_adapter(resized, tmp_path / "adapter", base=model, modules_to_save=["embed_tokens"])
    refused(AdapterKeysError, "330 embeddings, this base has 320", lambda: load(local(tmp_path / "adapter")))


def test_tokenizer_larger_than_the_embeddings(local: Find, model: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(model)
    refused(TokenizerError, "ids up to 320.*only 320", lambda: load(local(model)))


def test_base_with_another_vocabulary(tmp_path: Path, local: Find, model: Path) -> None:
    other = save_tiny(tmp_path / "other", "qwen2", tokenizer=tiny_tokenizer(extra_merges=40))
    vocabulary = json.loads((other / "tokenizer.json").read_text())
    words = vocabulary["model"]["vocab"]
    vocabulary["model"]["vocab"] = {word: (number if number < 6 else 307 - number) for word, number in words.items()}
    (other / "tokenizer.json").write_text(json.dumps(vocabulary))
    refused(TokenizerError, "another vocabulary", lambda: load(local(model, base=other)))


def test_device_that_is_not_there(local: Find, model: Path) -> None:
    for device in ("cuda:99", "abacus"):
        settings = ScoringSettings(device=device)
        refused(SettingsError, device, lambda settings=settings: Checkpoint.open(local(model), settings))
