"""What a version was trained on, who may say so, and which versions are left out."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from ilp_service.diagnosis.request import DiagnosisRequest
from ilp_service.service.child import Line, Task, perform
from ilp_service.service.configuration import ModelDefaults, ServiceSettings
from ilp_service.service.filters import Filters
from ilp_service.service.inputs import Inputs, NeedsDataError, find_inputs
from ilp_service.tracking.artifacts import plain
from ilp_service.tracking.watch import LoggedData, Version


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "sft.jsonl").write_text("{}")
    (tmp_path / "secret.jsonl").write_text("{}")
    return folder


def find(opened: Path, tags: dict[str, str], *logged: LoggedData, defaults: ModelDefaults | None = None) -> Inputs:
    version = Version("bot", "3", 0, tags=tags, run_id="r" if logged else None)
    return find_inputs(version, defaults or ModelDefaults(), lambda: logged, [opened])


def test_the_tag_comes_before_the_run_and_the_run_before_the_settings(opened: Path) -> None:
    data = str(opened / "sft.jsonl")
    logged = LoggedData(data, "training")
    defaults = ModelDefaults(data="/anywhere/x.jsonl", base="the/base")
    assert find(opened, {"ilp.data": "sft.jsonl"}, logged, defaults=defaults).data_from == "the tag ilp.data"
    assert find(opened, {}, logged, defaults=defaults).data == data
    assert plain(find(opened, {}, LoggedData("s3://x/y.jsonl", "training"), logged).data) == "s3://x/y.jsonl"
    found = find(opened, {}, defaults=defaults)
    assert (found.data, found.base) == ("/anywhere/x.jsonl", "the/base")
    # The tag of the base is looked up by the diagnosis itself.
    assert find(opened, {"ilp.base_model": "b"}, defaults=defaults).base is None


def test_what_a_run_was_tested_on_is_not_what_it_was_trained_on(opened: Path) -> None:
    tested = LoggedData(str(opened / "sft.jsonl"), "eval")
    with pytest.raises(NeedsDataError, match="Nothing says"):
        find(opened, {}, tested)


@pytest.mark.parametrize(
    "named",
    [
        "/etc/passwd",
        "../secret.jsonl",
        "file:///etc/passwd",
        "{opened}/../secret.jsonl",
        "link.jsonl",
        "http://169.254.169.254/latest",
        "https://example.org/x.jsonl",
        "runs:/1/../../x",
        "runs:/1/%2e%2e/x",
        "runs://evil.host/1/x.jsonl",
        "mlflow-artifacts://evil.host:8000/x.jsonl",
        "mlflow-artifacts://evil.host\\@mlflow/x.jsonl",
        "sqlite:///x.db",
        "",
        "nowhere.jsonl",
        "{opened}",
    ],
)
def test_a_version_names_no_file_outside_of_the_open_folders(opened: Path, named: str) -> None:
    (opened / "link.jsonl").symlink_to(opened.parent / "secret.jsonl")
    with pytest.raises(NeedsDataError):
        find(opened, {"ilp.data": named.format(opened=opened)})
    if named:
        with pytest.raises(NeedsDataError):
            find(opened, {"ilp.data": "sft.jsonl", "ilp.trajectory": named.format(opened=opened)})


def test_the_training_record_is_handed_on_as_it_was_checked(opened: Path) -> None:
    """So that the diagnosis needs to follow no tag, which may be one of the run."""
    data, record = {"ilp.data": "sft.jsonl"}, opened / "record.jsonl"
    record.write_text("{}")
    tagged = find(opened, {**data, "ilp.trajectory": "record.jsonl"}, defaults=ModelDefaults(trajectory="/other"))
    assert tagged.trajectory == f"optional:{record}"
    assert find(opened, data, defaults=ModelDefaults(trajectory="/other")).trajectory == "/other"
    assert find(opened, data).trajectory is None
    remote = find(opened, {**data, "ilp.trajectory": "runs:/1/t.parquet"}).trajectory
    assert remote is not None
    assert plain(remote) == "optional:runs:/1/t.parquet"


@pytest.mark.parametrize(("named", "asked"), [(None, "optional:"), ("/t", "/t"), ("optional:/t", "optional:/t")])
def test_a_job_looks_up_no_tag_by_itself(
    opened: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, asked: str
) -> None:
    requests: list[DiagnosisRequest] = []
    monkeypatch.setattr("ilp_service.diagnosis.run.diagnose", lambda request, *_, **__: requests.append(request))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    task = Task("j", "models:/m/1", "sqlite:///x.db", "ilp", "r", str(opened), None, named, {}, (), 1, 1)
    assert perform(task, Line(io.StringIO())) == 0
    assert [request.trajectory for request in requests] == [asked]


def test_every_job_looks_at_remote_data_anew(opened: Path) -> None:
    tags = {"ilp.data": "s3://bucket/x.jsonl"}
    assert find(opened, tags).data != find(opened, tags).data
    defaults = ModelDefaults(data="s3://bucket/x.jsonl")
    assert find(opened, {}, defaults=defaults).data != find(opened, {}, defaults=defaults).data


def filters(**changes: object) -> Filters:
    given: dict[str, object] = changes
    return Filters(ServiceSettings.model_validate(given))


def test_filters_by_name_tag_and_alias() -> None:
    assert filters().reason("bot", {}, {}, ()) is None
    assert filters().reason("ilp-meta-classifier", {}, {}, ())
    assert filters(names=("a*",)).reason("b", {}, {}, ())
    assert filters(names=("a*",), exclude=("*x",)).reason("ax", {}, {}, ())
    assert filters().reason("bot", {"ilp.enabled": "False"}, {}, ())
    assert filters().reason("bot", {}, {"ilp.enabled": "false"}, ())
    # The version's word counts more than its model's.
    assert filters(opt_in=True).reason("bot", {"ilp.enabled": "true"}, {"ilp.enabled": "false"}, ()) is None
    assert filters(opt_in=True).reason("bot", {}, {"ilp.enabled": "true"}, ()) is None
    assert "opt_in" in str(filters(opt_in=True).reason("bot", {}, {}, ()))
    assert filters(aliases=("prod",)).reason("bot", {}, {}, ("prod", "x")) is None
    assert filters(aliases=("prod",)).reason("bot", {}, {}, ("x",))


def test_defaults_of_the_first_pattern_that_fits() -> None:
    found = filters(models={"bot-*": {"data": "a"}, "*": {"data": "b"}})
    assert [found.defaults(name).data for name in ("bot-x", "other")] == ["a", "b"]
    assert filters().defaults("x") == ModelDefaults()
