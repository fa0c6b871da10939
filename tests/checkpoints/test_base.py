"""Where the base comes from, and that an adapter and its base share one copy of the weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ilp_service.checkpoints.digest import Digests
from ilp_service.checkpoints.loading import Checkpoint
from ilp_service.checkpoints.reference import ModelReference
from ilp_service.errors import AdapterBaseError, ModelNotFoundError
from ilp_service.tracking import Tracking
from tests.checkpoints.conftest import CPU, logits, opened
from tests.tiny import save_tiny, tiny_adapter, tiny_model, tiny_tokenizer

Find = Callable[..., ModelReference]


def test_order_is_flag_tag_adapter_mlmodel(workplace: Path, find: Find) -> None:
    bases = {name: save_tiny(workplace / name, "qwen2", seed=0) for name in ("flag", "tag", "adapter", "mlmodel")}
    tracking = Tracking()
    model = tiny_adapter(tiny_model("qwen2", seed=0))
    with tracking.run("x") as run:
        made = run.register("bot", model=model, tokenizer=tiny_tokenizer(), base=bases["mlmodel"])
    client = tracking.client()
    uri = "models:/bot/1"
    config = Path(made.artifact_uri) / "peft" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(bases["adapter"])}))
    tracking.tag_version("bot", "1", {"ilp.base_model": str(bases["tag"])})

    def who(base: Path | None = None) -> tuple[str | None, Path | None]:
        found = find(uri, base)
        return found.base_from, found.base_dir

    assert who(bases["flag"]) == ("--base", bases["flag"])
    assert who() == ("tag", bases["tag"])
    client.delete_model_version_tag("bot", "1", "ilp.base_model")
    assert who() == ("adapter", bases["adapter"])
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "/gone"}))
    assert who() == ("MLmodel", bases["mlmodel"])
    tracking.tag_version("bot", "1", {"ilp.base_model": "/gone"})
    with pytest.raises(AdapterBaseError, match="tag: There is no folder '/gone'"):
        find(uri)


def test_tags_of_the_run_and_of_the_registered_model_count(workplace: Path, find: Find) -> None:
    base, tuned = save_tiny(workplace / "base", "llama"), save_tiny(workplace / "tuned", "llama", seed=2)
    tracking = Tracking()
    with tracking.run("x") as run:
        run.register("bot", folder=tuned)
    assert (find("models:/bot/1").base, find("models:/bot/1").base_problem) == (None, None)
    tracking.client().set_registered_model_tag("bot", "ilp.base_model", str(base))
    assert find("models:/bot/1").base_dir == base
    tracking.client().set_tag(run.run_id, "ilp.base_model", "/gone")
    problem = find("models:/bot/1").base_problem
    assert problem is not None
    assert "/gone" in problem


def test_base_may_be_registered_too(workplace: Path, find: Find) -> None:
    tracking = Tracking()
    with tracking.run("x") as run:
        run.register("base", model=tiny_model("olmo2"), tokenizer=tiny_tokenizer())
        run.register("bot", folder=save_tiny(workplace / "t", "olmo2", seed=4), base="models:/base/1")
    reference = find("models:/bot/1")
    assert reference.base == "models:/base/1"
    torch.testing.assert_close(opened(reference)[1], logits(tiny_model("olmo2")), rtol=0, atol=1e-5)


def test_full_model_whose_mlmodel_names_itself_has_no_base(workplace: Path, find: Find) -> None:
    from transformers import AutoModelForCausalLM

    tuned = save_tiny(workplace / "tuned", "qwen2")
    with Tracking().run("x") as run:
        run.register("bot", model=AutoModelForCausalLM.from_pretrained(tuned), tokenizer=tiny_tokenizer())
    assert str(tuned) in (Path(find("models:/bot/1").model_dir).parent / "MLmodel").read_text()
    assert find("models:/bot/1").base is None


def test_missing_base_is_no_error_for_a_full_model_unless_the_user_named_it(tmp_path: Path, local: Find) -> None:
    tuned = save_tiny(tmp_path / "tuned", "qwen2")
    checkpoint = Checkpoint.open(local(tuned), CPU)
    assert not checkpoint.has_base
    with pytest.raises(AdapterBaseError, match="--base"), checkpoint.base():
        pass
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        local(tuned, base="./nowhere/at/all")


@pytest.mark.parametrize(
    "changes", [{"modules_to_save": ["embed_tokens", "lm_head"]}, {"target_modules": "all-linear"}]
)
def test_adapter_serves_both_from_one_copy(tmp_path: Path, local: Find, changes: dict[str, object]) -> None:
    base = save_tiny(tmp_path / "base", "llama")
    adapted = tiny_adapter(tiny_model("llama"), base=base, **changes)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter += 0.3
    adapted.save_pretrained(tmp_path / "adapter")
    reference = local(tmp_path / "adapter", base=base)
    tuned, untouched = opened(reference)
    torch.testing.assert_close(tuned, logits(adapted), rtol=0, atol=1e-5)
    torch.testing.assert_close(untouched, logits(tiny_model("llama")), rtol=0, atol=1e-5)
    checkpoint = Checkpoint.open(reference, CPU)
    with checkpoint.tuned() as first:
        weight = first.model.layers[0].mlp.up_proj.weight.data_ptr()
    with checkpoint.base() as second:
        assert second is first
        assert second.model.layers[0].mlp.up_proj.weight.data_ptr() == weight
        with pytest.raises(RuntimeError, match="switched off"), checkpoint.tuned():
            pass


@pytest.mark.parametrize("family", ["qwen2", "llama"], ids=["tied", "untied"])
def test_embeddings_saved_whole_with_the_adapter_leave_the_base_as_it_was(
    tmp_path: Path, local: Find, family: str
) -> None:
    base = save_tiny(tmp_path / "base", family)
    adapted = tiny_adapter(tiny_model(family), tmp_path / "adapter", base=base)
    changed = tiny_model(family).get_input_embeddings().weight + 0.3 * torch.randn(320, 32)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({**load_file(path), "base_model.model.model.embed_tokens.weight": changed.detach()}, path)
    with torch.no_grad():
        adapted.get_base_model().get_input_embeddings().weight.copy_(changed)
    tuned, untouched = opened(local(tmp_path / "adapter"))
    torch.testing.assert_close(tuned, logits(adapted), rtol=0, atol=1e-5)
    torch.testing.assert_close(untouched, logits(tiny_model(family)), rtol=0, atol=1e-5)


def test_two_full_models_are_never_held_at_once_unless_asked(tmp_path: Path, local: Find) -> None:
    reference = local(save_tiny(tmp_path / "t", "qwen2", seed=5), base=save_tiny(tmp_path / "b", "qwen2"))
    checkpoint = Checkpoint.open(reference, CPU)
    with checkpoint.tuned():
        assert list(checkpoint._full) == ["tuned"]
    with checkpoint.base():
        assert list(checkpoint._full) == ["base"]
        with checkpoint.tuned():
            assert sorted(checkpoint._full) == ["base", "tuned"]
    with checkpoint.tuned():
        assert list(checkpoint._full) == ["tuned"]


@pytest.mark.parametrize("family", ["qwen2", "llama"], ids=["tied", "untied"])
def test_base_gets_mean_embeddings_for_tokens_added_in_fine_tuning(tmp_path: Path, local: Find, family: str) -> None:
    base = save_tiny(tmp_path / "base", family)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<tool>", "<call>"])
    tuned = save_tiny(tmp_path / "tuned", family, tokenizer=tokenizer, vocab_size=322)
    with Checkpoint.open(local(tuned, base=base), CPU).base() as model:
        weight = model.get_input_embeddings().weight
        assert weight.shape[0] == 322
        torch.testing.assert_close(weight[320:], weight[:320].mean(dim=0).expand(2, -1))
        torch.testing.assert_close(logits(model)[..., :320], logits(tiny_model(family)), rtol=0, atol=1e-5)


def test_closing_gives_the_memory_back_even_if_the_model_is_still_held(tmp_path: Path, local: Find) -> None:
    checkpoint = Checkpoint.open(local(save_tiny(tmp_path / "m", "qwen2")), CPU)
    with checkpoint.tuned() as model:
        pass
    checkpoint.close()
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_digest_follows_the_bytes_and_not_the_place(tmp_path: Path, local: Find) -> None:
    one, two = save_tiny(tmp_path / "one", "qwen2"), save_tiny(tmp_path / "two", "qwen2")
    assert local(one).digest == local(two).digest
    config = two / "tokenizer_config.json"
    config.write_text(config.read_text() + " ")
    assert local(one).digest != local(two).digest
    assert save_tiny(tmp_path / "three", "qwen2", seed=1)
    assert local(tmp_path / "three").digest != local(one).digest


def test_digests_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    before = Digests(tmp_path / "work").of([("w", file)])
    stamp = file.stat().st_mtime_ns
    file.write_bytes(b"two")
    os.utime(file, ns=(stamp, stamp))
    assert Digests(tmp_path / "work").of([("w", file)]) == before, "same size and time: not read again"
    os.utime(file, ns=(stamp + 1, stamp + 1))
    assert Digests(tmp_path / "work").of([("w", file)]) != before
    (tmp_path / "work" / "digests.json").write_text("damaged")
    assert Digests(tmp_path / "work").of([("w", file)]) != before


def test_sixteen_bit_weights_are_scored_in_full_precision_on_a_cpu(tmp_path: Path, local: Find) -> None:
    tiny_model("qwen2").to(torch.bfloat16).save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    reference = local(tmp_path / "m")
    with Checkpoint.open(reference, CPU).tuned() as model:
        assert model.dtype == torch.float32
    with Checkpoint.open(reference, CPU.model_copy(update={"dtype": "bfloat16"})).tuned() as model:
        assert model.dtype == torch.bfloat16
