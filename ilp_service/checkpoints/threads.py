"""How many threads a model of its size can use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SMALL_BYTES = 100 * 2**20
"""Weights below this are one thread's work: a second one costs more in waiting than it gives."""


@contextmanager
def fitting_threads(model_dir: Path | None) -> Iterator[None]:
    """Use one torch thread while a small model runs on the CPU; ``OMP_NUM_THREADS`` wins where it is set.

    On a busy machine two threads that wait for each other made a model of 0.7 M parameters ten times slower than one.

    Args:
        model_dir: Folder with the model's safetensors; of an adapter, its base's.
    """
    import torch

    size = sum(path.stat().st_size for path in model_dir.glob("*.safetensors")) if model_dir else 0
    if os.environ.get("OMP_NUM_THREADS") or size > SMALL_BYTES:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
