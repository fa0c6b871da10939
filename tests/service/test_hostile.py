"""Registered checkpoints that mean harm end as refused, with a reason, and touch nothing outside of their folder."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ilp_service.checkpoints.reference import resolve
from ilp_service.errors import IlpError, SourceUnreadableError, TrackingError
from ilp_service.service.configuration import ServiceSettings
from ilp_service.service.endings import ending_of
from ilp_service.service.jobs import Jobs
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


def linked_beside(model: Path, outside: Path) -> None:
    (outside / "secrets.txt").write_text("secret")
    (model / "notes.txt").symlink_to(outside / "secrets.txt")


def linked_device(model: Path, _outside: Path) -> None:
    (model / "merges.txt").symlink_to("/dev/zero")


def piped_weights(model: Path, _outside: Path) -> None:
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "model.safetensors")


def piped_config(model: Path, _outside: Path) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")


def odd_name(model: Path, _outside: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / os.fsdecode(b"\xff\n<b>.bin")).write_bytes(pickle.dumps(Trap()))


def large_config(model: Path, _outside: Path) -> None:
    with (model / "config.json").open("r+b") as stream:
        stream.truncate(1 << 40)


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


def zip_bomb(model: Path, _outside: Path) -> None:
    """A thousand times as large when it is unpacked, once as a file of PyTorch and once as it is."""
    (model / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.zip"):
        with zipfile.ZipFile(model / name, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            with archive.open("archive/data.pkl", "w") as stream:
                for _ in range(64):
                    stream.write(bytes(1 << 20))
            archive.writestr("../../../pwned", "x")


def zipped_alone(model: Path, outside: Path) -> None:
    zip_bomb(model, outside)
    (model / "pytorch_model.bin").unlink()


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
    linked_beside,
    linked_device,
    piped_weights,
    piped_config,
    odd_name,
    large_config,
    many_files,
    huge_file,
    huge_header,
    deep_config,
    bomb_of_aliases,
    zip_bomb,
    zipped_alone,
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
    assert len(ending.reason.encode()) > 20
    assert listing(outside) | listing(model) == before
    assert not list(workplace.rglob("pwned"))


def test_the_service_refuses_them_for_good_and_leaves_nothing_behind(whole: Path, workplace: Path) -> None:
    """Through real jobs with their subprocesses, up to the tags in the registry."""
    (workplace / "data.jsonl").write_text('{"prompt": "Where?", "response": "Here."}\n')
    store = f"sqlite:///{workplace / 'mlruns' / 'mlflow.db'}"
    client = MlflowClient(store)
    outside = workplace / "outside"
    outside.mkdir()
    harms = (odd_name, many_files)
    for harm in harms:
        shutil.copytree(whole, workplace / "models" / harm.__name__)
        harm(workplace / "models" / harm.__name__, outside)
        client.create_registered_model(harm.__name__)
        path = str(workplace / "models" / harm.__name__)
        client.create_model_version(harm.__name__, path, tags={"ilp.data": "data.jsonl"})
    before = listing(outside) | listing(workplace / "models")
    jobs = Jobs(ServiceSettings(workers=2, max_files=60, time_limit=120))
    jobs.start()
    try:
        found = {harm.__name__: jobs.submit(harm.__name__, "1", via="api").job_id for harm in harms}
        deadline = time.monotonic() + 150
        while any(jobs.job(job_id).status in {"queued", "running"} for job_id in found.values()):
            assert time.monotonic() < deadline, [jobs.job(job_id) for job_id in found.values()]
            time.sleep(0.2)
        views = {name: jobs.job(job_id) for name, job_id in found.items()}
    finally:
        jobs.stop()
    assert {name: (job.status, job.attempts) for name, job in views.items()} == dict.fromkeys(views, ("refused", 1))
    for name, job in views.items():
        version = client.get_model_version(name, "1")
        assert (version.tags["ilp.status"], version.tags["ilp.reason"]) == ("refused", job.reason)
        assert client.get_run(str(job.run_id)).info.status == "FAILED"
    assert "60 files" in str(views["many_files"].reason)
    assert listing(outside) | listing(workplace / "models") == before
    assert not list(workplace.rglob("pwned"))
    assert not list((workplace / "mlruns" / "ilp-work" / "jobs").glob("*"))


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
