"""Checkpoints of every form, registered in an embedded store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from ilp_service.checkpoints.loading import Checkpoint
from ilp_service.checkpoints.reference import ModelReference, resolve
from ilp_service.settings import ScoringSettings
from ilp_service.tracking import Tracking
from tests.tiny import save_tiny, tiny_adapter, tiny_model, tiny_tokenizer

IDS = torch.tensor([[38, 287, 226, 22, 23, 24, 60, 61, 62, 63]])
CPU = ScoringSettings(device="cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits of a model at ``IDS``, shape ``(1, time, vocab)``."""
    with torch.inference_mode():
        return model(input_ids=IDS.to(model.device)).logits.float().cpu()


@pytest.fixture
def find(workplace: Path) -> Callable[..., ModelReference]:
    """``resolve`` in the embedded store of the test's folder."""

    def go(uri: str | Path, base: str | Path | None = None) -> ModelReference:
        return resolve(
            str(uri),
            base=None if base is None else str(base),
            tracking=Tracking(),
            work_dir=workplace / "mlruns" / "ilp-work",
        )

    return go


@pytest.fixture
def local(tmp_path: Path) -> Callable[..., ModelReference]:
    """``resolve`` of folders, with a store that nothing may touch."""

    def go(uri: str | Path, base: str | Path | None = None) -> ModelReference:
        return resolve(
            str(uri),
            base=None if base is None else str(base),
            tracking=Tracking("http://127.0.0.1:9"),
            work_dir=tmp_path / "work",
        )

    return go


def register(
    tracking: Tracking, family: str, adapter: bool, form: str, folder: Path
) -> tuple[str, torch.Tensor, torch.Tensor]:
    """Register a checkpoint; returns its URI and the logits of the tuned and of the base model."""
    base = save_tiny(folder / "base", family, seed=0)
    before = logits(tiny_model(family, seed=0))
    tokenizer = tiny_tokenizer()
    if adapter:
        model = tiny_adapter(tiny_model(family, seed=0), folder / "adapter", base=base)
        saved = folder / "adapter"
    else:
        model = tiny_model(family, seed=7)
        saved = save_tiny(folder / "tuned", family, seed=7)
    with tracking.run("fine-tuning") as run:
        if form == "transformers":
            made = run.register("bot", model=model, tokenizer=tokenizer, base=base)
        else:
            made = run.register("bot", folder=saved, base=base)
    return f"models:/bot/{made.version}", logits(model), before


def opened(reference: ModelReference) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the tuned and of the base model of a reference."""
    checkpoint = Checkpoint.open(reference, CPU)
    with checkpoint.tuned() as model:
        assert not model.training
        tuned = logits(model)
    with checkpoint.base() as model:
        base = logits(model)
    with checkpoint.tuned() as model:
        assert torch.equal(logits(model), tuned), "the base must leave the tuned model as it was"
    checkpoint.close()
    return tuned, base
