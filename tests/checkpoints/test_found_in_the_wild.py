"""Checkpoints as other people's code leaves them: MLflow called directly, the hub cache, odd folders."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import torch
import yaml
from huggingface_hub import constants

from ilp_service.checkpoints.reference import ModelReference
from ilp_service.errors import AdapterBaseError, ModelNotFoundError, UnsafeWeightsError
from ilp_service.tracking import Tracking
from tests.checkpoints.conftest import logits, opened
from tests.tiny import save_tiny, tiny_adapter, tiny_model, tiny_tokenizer

Find = Callable[..., ModelReference]
PINS = ["torch", "transformers"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a tiny model into a local Hugging Face cache under a name."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def put(name: str, **arguments: int) -> Path:
        home = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("abc")
        return save_tiny(home / "snapshots" / "abc", "qwen2", **arguments)

    return put


def test_log_model_with_registered_name(workplace: Path, find: Find) -> None:
    """The usual call; MLflow gives such a version no model id, and its webhook no run id."""
    Tracking().client()
    with mlflow.start_run(experiment_id=Tracking().experiment_id()) as run:
        mlflow.transformers.log_model(
            {"model": tiny_model("qwen3"), "tokenizer": tiny_tokenizer()},
            name="model",
            task="llm/v1/completions",
            registered_model_name="bot",
            pip_requirements=PINS,
        )
    reference = find("models:/bot/1", base=save_tiny(workplace / "base", "qwen3", seed=3))
    assert reference.run_id == run.info.run_id
    assert str(reference.model_id).startswith("m-")
    torch.testing.assert_close(opened(reference)[0], logits(tiny_model("qwen3")), rtol=0, atol=1e-5)
    assert find(f"runs:/{run.info.run_id}/model").digest == reference.digest


def test_wrong_copy_of_the_base_beside_an_adapter_is_not_used(workplace: Path, find: Find) -> None:
    """What MLflow writes when it is not told the base's folder: a ``model/`` with keys that fit nothing."""
    from transformers import AutoModelForCausalLM

    base = save_tiny(workplace / "base", "llama")
    model = tiny_adapter(AutoModelForCausalLM.from_pretrained(base).eval())
    tuned = logits(model)
    Tracking().client()
    with mlflow.start_run(experiment_id=Tracking().experiment_id()):
        mlflow.transformers.log_model(
            {"model": model, "tokenizer": tiny_tokenizer()},
            name="model",
            task="text-generation",
            registered_model_name="bot",
            pip_requirements=PINS,
        )
    reference = find("models:/bot/1")
    assert (reference.kind, reference.base_from, reference.base_dir) == ("adapter", "adapter", base)
    assert (reference.model_dir.parent / "model").is_dir(), "MLflow wrote the copy that this test is about"
    ours, ours_base = opened(reference)
    torch.testing.assert_close(ours, tuned, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours_base, logits(tiny_model("llama")), rtol=0, atol=1e-5)


def test_hub_ids_come_from_the_local_cache(tmp_path: Path, local: Find, hub: Callable[..., Path]) -> None:
    folder = hub("owner/base")
    assert local("owner/base").model_dir == folder
    assert local("owner/base").resolved == "owner/base"
    tiny_adapter(tiny_model("qwen2"), tmp_path / "adapter", base=Path("owner/base"))
    reference = local(tmp_path / "adapter")
    assert (reference.base, reference.base_dir) == ("owner/base", folder)
    assert local(save_tiny(tmp_path / "tuned", "qwen2", seed=2), base="owner/base").base_dir == folder
    with pytest.raises(ModelNotFoundError, match="not in the local Hugging Face cache, and HF_HUB_OFFLINE"):
        local("owner/other")


def test_hub_model_without_safetensors(local: Find, hub: Callable[..., Path]) -> None:
    folder = hub("owner/old")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises((UnsafeWeightsError, ModelNotFoundError), match="safetensors"):
        local("owner/old")


def test_flavour_that_only_names_a_hub_model(workplace: Path, find: Find, hub: Callable[..., Path]) -> None:
    hub("owner/base")
    saved = workplace / "saved"
    tiny_tokenizer().save_pretrained(saved / "components" / "tokenizer")
    (saved / "MLmodel").write_text(yaml.safe_dump({"flavors": {"transformers": {"source_model_name": "owner/base"}}}))
    reference = find(saved)
    assert reference.tokenizer_dir == saved / "components" / "tokenizer"
    from ilp_service.checkpoints.loading import Checkpoint
    from tests.checkpoints.conftest import CPU

    with Checkpoint.open(reference, CPU).tuned() as model:
        assert torch.equal(logits(model), logits(tiny_model("qwen2")))


def test_registering_never_asks_the_hub(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", lambda _self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address) or [])
    model = tiny_model("qwen2")
    model.name_or_path = "owner/base"
    with Tracking().run("x") as run:
        run.register("bot", model=model, tokenizer=tiny_tokenizer())
    assert asked == []
    assert constants.HF_HUB_OFFLINE is False


def test_adapter_in_transformers_form_needs_the_folder_of_its_base(workplace: Path) -> None:
    model = tiny_adapter(tiny_model("qwen2"))

    def go(base: str | None) -> None:
        with Tracking().run("x") as run:
            run.register("bot", model=model, tokenizer=tiny_tokenizer(), base=base)

    for base in (None, "owner/base"):
        with pytest.raises(AdapterBaseError, match="local folder"):
            go(base)


def test_source_that_was_deleted(workplace: Path, find: Find) -> None:
    from ilp_service.errors import SourceUnreadableError

    with Tracking().run("x") as run:
        made = run.register("bot", folder=save_tiny(workplace / "m", "qwen2"))
    shutil.rmtree(made.artifact_uri)
    with pytest.raises(SourceUnreadableError, match=r"models:/bot/1 says its files are at .*gone"):
        find("models:/bot/1")
