"""Every form in which people register, for every family: the same logits as the model that was saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ilp_service.checkpoints.loading import Checkpoint
from ilp_service.checkpoints.reference import ModelReference
from ilp_service.tracking import Tracking
from tests.checkpoints.conftest import CPU, logits, opened, register
from tests.tiny import FAMILIES, save_tiny, tiny_adapter, tiny_model, tiny_tokenizer

Find = Callable[..., ModelReference]


@pytest.mark.parametrize("family", FAMILIES)
def test_registered_forms_load_to_equal_logits(workplace: Path, find: Find, family: str) -> None:
    tracking = Tracking()
    forms = [(adapter, form) for adapter in (False, True) for form in ("transformers", "directory")]
    for number, (adapter, form) in enumerate(forms, start=1):
        folder = workplace / str(number)
        uri, tuned, base = register(tracking, family, adapter, form, folder)
        reference = find(uri)
        assert reference.kind == ("adapter" if adapter else "full")
        assert (reference.name, reference.version, reference.resolved) == ("bot", str(number), uri)
        assert (reference.base_from, reference.base_dir) == ("tag", folder / "base")
        ours_tuned, ours_base = opened(reference)
        torch.testing.assert_close(ours_tuned, tuned, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours_base, base, rtol=0, atol=1e-5)
        assert not torch.allclose(tuned, base, atol=1e-2), "the test must be able to tell them apart"


@pytest.mark.parametrize("family", FAMILIES)
def test_local_folders_load_without_a_store(tmp_path: Path, local: Find, family: str) -> None:
    base = save_tiny(tmp_path / "base", family, seed=0)
    tuned = save_tiny(tmp_path / "tuned", family, seed=7)
    adapted = tiny_adapter(tiny_model(family, seed=0), tmp_path / "adapter", base=base)
    full = local(tuned, base=base)
    assert (full.base_from, full.run_id, full.version) == ("--base", None, None)
    torch.testing.assert_close(opened(full)[0], logits(tiny_model(family, seed=7)), rtol=0, atol=1e-5)
    adapter = local(tmp_path / "adapter")
    assert adapter.base_from == "adapter"
    assert adapter.tokenizer_dir == base, "an adapter without a tokenizer uses its base's"
    torch.testing.assert_close(opened(adapter)[0], logits(adapted), rtol=0, atol=1e-5)


def test_sharded_weights_load(tmp_path: Path, local: Find) -> None:
    model = tiny_model("llama", seed=3)
    model.save_pretrained(tmp_path / "m", max_shard_size="40KB")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors.index.json").is_file()
    with Checkpoint.open(local(tmp_path / "m"), CPU).tuned() as loaded:
        assert torch.equal(logits(loaded), logits(model))


def test_alias_run_and_logged_model_uris_lead_to_the_same_files(workplace: Path, find: Find) -> None:
    tracking = Tracking()
    uri, *_ = register(tracking, "qwen2", False, "transformers", workplace)
    tracking.set_alias("bot", "1", "prod")
    by_version, by_alias = find(uri), find("models:/bot@prod")
    assert (by_alias.alias, by_alias.resolved, by_alias.uri) == ("prod", "models:/bot/1", "models:/bot@prod")
    by_model = find(f"models:/{by_version.model_id}")
    by_run = find(f"runs:/{by_version.run_id}/checkpoint")
    assert {r.digest for r in (by_version, by_alias, by_model, by_run)} == {by_version.digest}
    assert by_version.model_id is not None
    assert {r.run_id for r in (by_version, by_alias, by_model, by_run)} == {by_version.run_id}


def test_local_store_is_never_written(workplace: Path, find: Find) -> None:
    uri, *_ = register(Tracking(), "qwen2", True, "transformers", workplace)
    artifacts = workplace / "mlruns" / "artifacts"
    before = {path: path.stat().st_mtime_ns for path in artifacts.rglob("*")}
    reference = find(uri)
    opened(reference)
    assert reference.downloads == ()
    assert {path: path.stat().st_mtime_ns for path in artifacts.rglob("*")} == before
