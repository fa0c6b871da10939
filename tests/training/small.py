"""A small data set and what is needed to train on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ilp_service.samples.reading import DataSet, read_samples
from ilp_service.samples.rendering import Renderer
from ilp_service.settings import DataSettings
from ilp_service.training.rows import TrainingRow, encode_rows
from tests.tiny import tiny_model, tiny_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CITIES = ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Quito", "Kyiv", "Bern", "Riga", "Doha", "Baku")


def small_model(**changes: object) -> PreTrainedModel:
    return tiny_model("qwen2", num_hidden_layers=1, hidden_size=16, intermediate_size=32, **changes)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def questions(path: Path, count: int = 12) -> Path:
    rows = [
        {
            "prompt": f"Which city has number {index}?",
            "response": f"{CITIES[index % len(CITIES)]} it is.",
            "subset": "early" if index < count // 2 else "late",
        }
        for index in range(count)
    ]
    return write_rows(path, rows)


def read(path: Path, max_length: int | None = None) -> tuple[DataSet, Renderer, tuple[TrainingRow, ...]]:
    wanted = DataSettings(max_length=max_length)
    data = read_samples(path, wanted)
    renderer = Renderer(tiny_tokenizer(), wanted)
    return data, renderer, encode_rows(data.samples, renderer, wanted.max_length)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_weights(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
