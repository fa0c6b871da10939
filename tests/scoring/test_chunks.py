from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from ilp_service.errors import StorageError
from ilp_service.scoring import chunks
from ilp_service.scoring.chunks import ChunkStore

SCHEMA = pa.schema(
    [pa.field("key", pa.string(), nullable=False), pa.field("size", pa.int64(), metadata={"unit": "rows"})]
)
KEYS = [f"k{number}" for number in range(10)]


class Counted:
    """A computation that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, keys: Sequence[str]) -> pa.Table:
        self.asked.append(list(keys))
        return pa.table({"key": list(keys), "size": [int(key[1:]) for key in keys]}, schema=SCHEMA)


def collect(store: ChunkStore, compute: Counted, keys: Sequence[str] = KEYS, chunk_size: int = 4) -> pa.Table:
    return store.collect("step", keys, compute, chunk_size, progress=False)


def test_a_second_look_computes_nothing_and_reads_the_same(tmp_path: Path) -> None:
    first, second = Counted(), Counted()
    made = collect(ChunkStore(tmp_path, SCHEMA), first)
    read = collect(ChunkStore(tmp_path, SCHEMA), second)
    assert first.asked == [KEYS[:4], KEYS[4:8], KEYS[8:]]
    assert second.asked == []
    assert made.equals(read, check_metadata=True)
    assert read.schema.equals(SCHEMA, check_metadata=True)
    assert read["key"].to_pylist() == KEYS


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "garbage", "delete"])
def test_a_damaged_chunk_is_made_again(tmp_path: Path, damage: str) -> None:
    whole = collect(ChunkStore(tmp_path, SCHEMA), Counted())
    path = sorted(tmp_path.rglob("*.parquet"))[1]
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    else:
        content[10] ^= 0xFF
        kept = {"truncate": content[: len(content) // 2], "empty": b"", "flip": content, "garbage": b"PAR1" * 9}[damage]
        path.write_bytes(kept)
    again = Counted()
    assert collect(ChunkStore(tmp_path, SCHEMA), again).equals(whole)
    assert again.asked == [KEYS[4:8]]


def test_other_keys_other_order_and_other_sizes_are_not_mixed_up(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path, SCHEMA)
    collect(store, Counted())
    again = Counted()
    assert collect(store, again, KEYS[::-1])["key"].to_pylist() == KEYS[::-1]
    assert len(again.asked) == 3
    assert collect(store, Counted(), KEYS[::-1], chunk_size=3)["key"].to_pylist() == KEYS[::-1]


def test_content_names_the_folder(tmp_path: Path) -> None:
    collect(ChunkStore.for_content(tmp_path, {"model": "a", "seed": 0}, SCHEMA), Counted())
    same, other, wider = Counted(), Counted(), Counted()
    collect(ChunkStore.for_content(tmp_path, {"seed": 0, "model": "a"}, SCHEMA), same)
    collect(ChunkStore.for_content(tmp_path, {"model": "b", "seed": 0}, SCHEMA), other)
    assert (len(same.asked), len(other.asked)) == (0, 3)
    extended = SCHEMA.append(pa.field("more", pa.float64()))
    store = ChunkStore.for_content(tmp_path, {"model": "a", "seed": 0}, extended)
    with pytest.raises(ValueError, match="expected key"):
        collect(store, wider)


def test_chunks_come_one_at_a_time_and_are_safe_before_the_next(tmp_path: Path) -> None:
    compute = Counted()
    stream = ChunkStore(tmp_path, SCHEMA).run("step", KEYS, compute, 4, progress=False)
    assert next(stream)["key"].to_pylist() == KEYS[:4]
    assert compute.asked == [KEYS[:4]]
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


def test_no_keys_is_an_empty_table(tmp_path: Path) -> None:
    assert collect(ChunkStore(tmp_path, SCHEMA), Counted(), []).schema == SCHEMA


def test_a_full_disk_leaves_no_half_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(table: pa.Table, path: Path) -> None:
        raise StorageError(f"The disk that holds {path} is full")

    collect(ChunkStore(tmp_path, SCHEMA), Counted(), KEYS[:4])
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "write_table", full)
        with pytest.raises(StorageError):
            collect(ChunkStore(tmp_path, SCHEMA), Counted())
    resumed = Counted()
    collect(ChunkStore(tmp_path, SCHEMA), resumed)
    assert resumed.asked == [KEYS[4:8], KEYS[8:]]


def test_progress_is_shown_on_stderr_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ChunkStore(tmp_path, SCHEMA).collect("scoring", KEYS, Counted(), 4)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "scoring" in captured.err


VICTIM = """
import os, sys, time
from pathlib import Path
import pyarrow as pa
from ilp_service.scoring.chunks import ChunkStore

schema = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("size", pa.int64())])
folder, mark = Path(sys.argv[1]), Path(sys.argv[2])

def compute(keys):
    with mark.open("a") as log:
        log.write(" ".join(keys) + "\\n")
    if sys.argv[3] == "stall" and "k8" in keys:
        time.sleep(600)
    return pa.table({"key": list(keys), "size": [1] * len(keys)}, schema=schema)

table = ChunkStore(folder, schema).collect("step", [f"k{n}" for n in range(12)], compute, 2, progress=False)
print(table.num_rows)
"""


def test_a_run_killed_in_a_chunk_goes_on_with_that_chunk(tmp_path: Path) -> None:
    mark = tmp_path / "computed.txt"
    command = [sys.executable, "-c", VICTIM, str(tmp_path / "work"), str(mark)]
    victim = subprocess.Popen([*command, "stall"])
    deadline = time.monotonic() + 120
    while not (mark.exists() and "k8" in mark.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait(30) == -signal.SIGKILL
    before = mark.read_text().splitlines()
    finished = subprocess.run([*command, "finish"], capture_output=True, text=True, timeout=120, check=True)
    assert finished.stdout.strip() == "12"
    assert before[-1] == "k8 k9"
    assert mark.read_text().splitlines()[len(before) :] == ["k8 k9", "k10 k11"]
