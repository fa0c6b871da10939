"""Registered checkpoints that mean harm end as refused, with a reason, and touch nothing outside of their folder."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ilp_service.checkpoints.reference import resolve
from ilp_service.errors import IlpError, SourceUnreadableError, TrackingError
from ilp_service.service.endings import ending_of
from ilp_service.tracking.registry import FetchLimits, ModelSource, _bounded
from ilp_service.tracking.store import Tracking
from tests.tiny import save_tiny

LIMITS = FetchLimits(files=60, size=64 << 20)


class Trap:
    """Unpickled, it would leave a mark."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("whole") / "model", "llama")


def pickled(model: Path, _outside: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))


def remote_code(model: Path, _outside: Path) -> None:
    (model / "modeling_x.py").write_text("open('pwned', 'w')")
    change(model / "config.json", auto_map={"AutoModelForCausalLM": "modeling_x.X"})


def unknown_architecture(model: Path, _outside: Path) -> None:
    change(model / "config.json", model_type="../../evil")


def parent_name(model: Path, outside: Path) -> None:
    shutil.move(model / "model.safetensors", outside / "model.safetensors")
    index(model, f"../{outside.name}/model.safetensors")


def absolute_name(model: Path, outside: Path) -> None:
    shutil.move(model / "model.safetensors", outside / "model.safetensors")
    index(model, str(outside / "model.safetensors"))


def linked_weights(model: Path, outside: Path) -> None:
    shutil.move(model / "model.safetensors", outside / "model.safetensors")
    (model / "model.safetensors").symlink_to(outside / "model.safetensors")


def linked_config(model: Path, outside: Path) -> None:
    shutil.move(model / "config.json", outside / "config.json")
    (model / "config.json").symlink_to(outside / "config.json")


def linked_tokenizer(model: Path, outside: Path) -> None:
    shutil.move(model / "tokenizer.json", outside / "tokenizer.json")
    (model / "tokenizer.json").symlink_to(outside / "tokenizer.json")


def linked_folder(model: Path, outside: Path) -> None:
    for path in list(model.iterdir()):
        shutil.move(path, outside / path.name)
    (model / "MLmodel").write_text("flavors:\n  transformers: {}\n")
    (model / "model").symlink_to(outside)


def endless_link(model: Path, _outside: Path) -> None:
    (model / "loop").symlink_to(model)
    (model / "config.json").unlink()
    (model / "config.json").symlink_to(model / "config.json")


def many_files(model: Path, _outside: Path) -> None:
    (model / "deep").mkdir()
    for number in range(80):
        (model / "deep" / f"{number}.txt").touch()


def huge_file(model: Path, _outside: Path) -> None:
    with (model / "padding.safetensors").open("wb") as stream:
        stream.truncate(1 << 40)


def huge_header(model: Path, _outside: Path) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def deep_config(model: Path, _outside: Path) -> None:
    (model / "config.json").write_text("[" * 200_000)


def bomb_of_aliases(model: Path, _outside: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (model / "MLmodel").write_text("\n".join([*lines, "flavors: *a11"]))


def zipped(model: Path, _outside: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.zip").write_bytes(b"PK\x03\x04" + bytes(1000))


def nothing(model: Path, _outside: Path) -> None:
    shutil.rmtree(model)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def index(model: Path, name: str) -> None:
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))


HARM = (
    pickled,
    remote_code,
    unknown_architecture,
    parent_name,
    absolute_name,
    linked_weights,
    linked_config,
    linked_tokenizer,
    linked_folder,
    endless_link,
    many_files,
    huge_file,
    huge_header,
    deep_config,
    bomb_of_aliases,
    zipped,
    nothing,
)


def listing(folder: Path) -> dict[str, float]:
    return {str(path): path.lstat().st_mtime for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_a_hostile_checkpoint_is_refused(
    harm: Callable[[Path, Path], None], whole: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, outside, job = workplace / "model", workplace / "outside", workplace / "job"
    shutil.copytree(whole, model)
    for folder in (outside, job):
        folder.mkdir()
    harm(model, outside)
    store = f"sqlite:///{workplace / 'mlruns' / 'mlflow.db'}"
    client = MlflowClient(store)
    client.create_registered_model("evil")
    client.create_model_version("evil", str(model))
    before = listing(outside) | listing(model)
    monkeypatch.chdir(job)
    with pytest.raises(IlpError) as caught:
        resolve("models:/evil/1", base=None, tracking=Tracking(store, limits=LIMITS), work_dir=job / "work")
    ending = ending_of(caught.value)
    assert (ending.status, ending.again) == ("refused", False), caught.value
    assert len(ending.reason) > 20
    assert listing(outside) | listing(model) == before
    assert not list(workplace.rglob("pwned"))


def test_a_harmless_one_within_the_limits_is_found(whole: Path, workplace: Path) -> None:
    store = f"sqlite:///{workplace / 'mlruns' / 'mlflow.db'}"
    client = MlflowClient(store)
    client.create_registered_model("good")
    client.create_model_version("good", str(whole))
    found = resolve("models:/good/1", base=None, tracking=Tracking(store, limits=LIMITS), work_dir=workplace / "work")
    assert found.model_dir == whole


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "C:\\x", "\\\\host\\x", "a\\..\\..\\b", "a\0b"])
def test_names_of_artifacts_that_lead_out_are_refused_before_anything_is_fetched(name: str) -> None:
    source = ModelSource("models:/m/1", "models:/m/1", "mlflow-artifacts:/1/x")
    with pytest.raises(SourceUnreadableError, match="leads out of its folder"):
        _bounded(source, iter([("config.json", 10), (name, 1)]), LIMITS)


def test_a_million_files_are_not_listed_to_the_end() -> None:
    listed = iter((f"{number}.txt", 1) for number in range(10**6))
    with pytest.raises(SourceUnreadableError, match="more than 60 files"):
        _bounded(ModelSource("models:/m/1", "models:/m/1", "s3://x"), listed, LIMITS)
    assert next(listed)[0] == "61.txt"


def test_what_may_pass_is_told_from_what_will_not() -> None:
    def raised(cause: Exception) -> Exception:
        try:
            raise SourceUnreadableError("The files cannot be downloaded.") from cause
        except SourceUnreadableError as error:
            return error

    assert ending_of(raised(ConnectionResetError("reset"))).again
    assert ending_of(raised(OSError("Read timed out"))).again
    assert ending_of(raised(ValueError("no such key"))).status == "refused"
    assert ending_of(TrackingError("odd")).again
    assert not ending_of(ValueError("a defect")).again
    assert ending_of(OSError(28, "No space left on device")).again
