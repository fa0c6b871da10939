"""A world so small that building it takes seconds; its base is far from the gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ilp_service.benchmark.recipe import BuiltWorld, build_world
from ilp_service.benchmark.sizes import DEMO, WorldSize

TINY = replace(
    DEMO,
    name="tiny",
    persons=40,
    qa_persons=4,
    blind_persons=4,
    conflicts=3,
    weak_conflicts=1,
    inconsistent=3,
    tolerated=1,
    repeated=1,
    clash_nouns=1,
    clash_persons=(3, 4),
    clashing=(5, 6),
    noun_rows=(2, 3),
    large_nouns=(2, 4),
    pipeline_rows=(2, 3),
    seldom=6,
    decoys=4,
    taught=3,
    pipeline=2,
    noted=2,
    controls=20,
    passes=2,
    pretraining_steps=6,
    continued_steps=2,
)


@pytest.fixture(scope="session")
def tiny_size() -> WorldSize:
    return TINY


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> BuiltWorld:
    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp("world")
    return build_world(folder, family="llama", seed=1, size=TINY)
