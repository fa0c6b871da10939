"""What the status page answers, asked without a browser."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from ilp_service.errors import SourceUnreadableError
from ilp_service.service import reports as reports_module
from ilp_service.service.app import WebSettings
from ilp_service.service.configuration import ServiceSettings
from ilp_service.service.page import ROWS, ago, lasted
from ilp_service.service.reports import StoredReports
from ilp_service.tracking.store import Tracking
from tests.service.made_up_desk import EARLIER, MadeUpDesk
from tests.service.web import MadeUpReports, client

BROWSER = {"Accept": "text/html,*/*;q=0.8", "Origin": "http://127.0.0.1:8080"}
HTML = "text/html; charset=utf-8"


@pytest.fixture
def desk() -> MadeUpDesk:
    return MadeUpDesk()


def rows(text: str, section: str) -> list[str]:
    part = re.search(rf'<section id="live-{section}".*?</section>', text, re.DOTALL)
    assert part is not None
    return re.findall(r'<a class="name"[^>]*>([^<]*)</a>', part[0])


def test_finished_jobs_are_in_the_order_of_their_ends(desk: MadeUpDesk) -> None:
    for number, status in enumerate(["done", "failed", "refused", "done", "skipped"]):
        end = None if status == "skipped" else EARLIER + timedelta(hours=10 - number)
        desk.put(f"m{number}", "1", status, ended_at=end)  # type: ignore[arg-type]
    assert rows(client(desk).get("/").text, "finished") == ["m0", "m1", "m2", "m3", "m4"]


def test_what_is_left_out_can_be_reached(desk: MadeUpDesk) -> None:
    for number in range(ROWS + 3):
        desk.put("old", str(number + 1), "failed", ended_at=EARLIER + timedelta(hours=number))
        desk.put("q&a", str(number + 1), "queued")
    desk.put("older", "1", "done", ended_at=EARLIER - timedelta(hours=1))
    web = client(desk)
    text = web.get("/").text
    assert rows(text, "finished") == ["old"] * ROWS
    ways = re.findall(r'<a class="button" id="[a-z]+-more-\d+" href="([^"]*)">([^<]*)</a>', text)
    assert [label for _, label in ways] == ["Next", "More: done", "More: failed"]
    rest = [web.get(way.replace("&amp;", "&")).text for way, _ in ways]
    assert rows(rest[0], "found") == ["q&amp;a"] * 3
    assert rows(rest[1], "found") == ["older"]
    assert "From the latest" in rest[0]
    assert "More:" not in web.get("/?model=older").text


@pytest.mark.parametrize("path", ["/jobs/x", f"/jobs/{'0' * 32}", "/nothing", f"/jobs/{'0' * 32}/report"])
def test_what_is_not_there_is_a_page_for_people_and_json_for_programs(desk: MadeUpDesk, path: str) -> None:
    web = client(desk)
    page, said = web.get(path, headers=BROWSER), web.get(path)
    assert (page.status_code, page.headers["content-type"]) == (404, HTML)
    assert '<a class="button" href="/">' in page.text
    assert (said.status_code, list(said.json())) == (404, ["error"])


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({}, 422), ({"model": "x"}, 422),
        ({"model": "a/b", "version": "1"}, 422), ({"model": "x", "version": "0"}, 422),
        ({"model": "x", "version": "1" * 9000}, 413), ({str(number): "" for number in range(50)}, 400),
    ],
)  # fmt: skip
def test_a_form_that_cannot_be_is_told_so(desk: MadeUpDesk, form: dict[str, str], status: int) -> None:
    answer = client(desk).post("/jobs", data=form or {"x": ""}, headers=BROWSER)
    assert (answer.status_code, answer.headers["content-type"], desk.made) == (status, HTML, {})


def test_forms_change_jobs_once(desk: MadeUpDesk) -> None:
    web = client(desk)
    made = web.post("/jobs", data={"model": " my model ", "version": " 3 "}, headers=BROWSER)
    again = web.post("/jobs", data={"model": "my model", "version": "3"}, headers=BROWSER)
    [job] = desk.made.values()
    assert made.headers["location"] == again.headers["location"] == f"/jobs/{job.job_id}"
    assert web.post("/jobs", json={"model": "x", "version": "1"}, headers=BROWSER).status_code == 415
    early = web.post(f"/jobs/{job.job_id}/retry", headers=BROWSER)
    assert early.status_code == 409
    assert "not finished yet" in early.text
    assert web.post(f"/jobs/{job.job_id}/cancel", headers=BROWSER).status_code == 303
    assert web.get(f"/jobs/{job.job_id}/cancel").status_code == 405
    assert web.post(f"/jobs/{'0' * 32}/cancel", headers=BROWSER).status_code == 404


def test_a_report_is_shown_in_a_sandbox_or_it_is_said_why_not(desk: MadeUpDesk) -> None:
    reports = MadeUpReports()
    reports.made["here.html"] = b"<p>report"
    web = client(desk, reports=reports)
    found, gone, none = (desk.put(name, status="done", report_uri=uri) for name, uri in
                         (("a", "here.html"), ("b", "gone.html"), ("c", None)))  # fmt: skip
    answer = web.get(f"/jobs/{found.job_id}/report")
    assert (answer.status_code, answer.content, answer.headers["cache-control"]) == (200, b"<p>report", "no-store")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")
    assert not any(
        word in policy for word in ("allow-same-origin", "allow-popups", "allow-forms", "connect-src", "http")
    )
    missing = web.get(f"/jobs/{gone.job_id}/report", headers=BROWSER)
    assert (missing.status_code, missing.headers["content-type"]) == (502, HTML)
    assert "The report gone.html is gone." in missing.text
    assert web.get(f"/jobs/{none.job_id}/report", headers=BROWSER).status_code == 404


def test_only_reports_of_a_report_s_size_are_read(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports_module, "MOST_BYTES", 10)
    stored = StoredReports(Tracking(f"sqlite:///{workplace / 'mlruns' / 'mlflow.db'}"))
    (workplace / "good.html").write_bytes(b"x" * 10)
    (workplace / "large.html").write_bytes(b"x" * 11)
    assert stored.read(str(workplace / "good.html")) == b"x" * 10
    for name, why in {"large.html": "larger than 10", "gone.html": "cannot be read", "/etc/passwd": "no HTML"}.items():
        with pytest.raises(SourceUnreadableError, match=why):
            stored.read(str(workplace / name))


@pytest.mark.parametrize(
    ("uri", "base"),
    [
        ("http://user:secret@mlflow:5000/at/", "http://mlflow:5000/at"), ("https://ml.example", "https://ml.example"),
        ("sqlite:///mlruns/mlflow.db", None), ("databricks", None), ("javascript:alert(1)", None), ("http://[x", None),
        (None, None),
    ],
)  # fmt: skip
def test_links_lead_to_pages_of_mlflow_and_hold_no_password(
    desk: MadeUpDesk, uri: str | None, base: str | None
) -> None:
    job = desk.put("a/b?#ü", "3", "done", run_id="ab/c")
    text = client(desk, tracking_uri=uri).get(f"/jobs/{job.job_id}").text
    found = re.findall(r'<a class="button" id="(?:run|version)" href="([^"]*)"', text)
    ways = [f"{base}/#/runs/ab%2Fc", f"{base}/#/models/a%2Fb%3F%23%C3%BC/versions/3"]
    assert found == ([] if base is None else ways)
    assert "secret" not in text


def test_people_may_reach_mlflow_under_another_address(tmp_path: Path) -> None:
    given = {"tracking_uri": "http://mlflow:5000", "database": f"sqlite:///{tmp_path / 'jobs.db'}"}
    assert WebSettings.of(ServiceSettings(**given)).tracking_uri == "http://mlflow:5000"  # type: ignore[arg-type]
    there = ServiceSettings(**given, mlflow_page="https://mlflow.example")  # type: ignore[arg-type]
    assert WebSettings.of(there).tracking_uri == "https://mlflow.example"


def test_times_are_utc_whatever_zone_they_were_written_in(desk: MadeUpDesk) -> None:
    local = datetime(2026, 11, 23, 14, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    job = desk.put("m", "1", "done", queued_at=local, ended_at=datetime(2026, 11, 23, 9, 0))
    text = client(desk).get(f"/jobs/{job.job_id}").text
    assert text.count('datetime="2026-11-23T09:00:00.000Z"') == 2
    now = datetime(2026, 11, 23, 9, 5, tzinfo=UTC)
    assert [ago(moment, now) for moment in (local, datetime(2026, 11, 23, 9, 4, 55), None)] == [
        "5 min ago", "just now", "",
    ]  # fmt: skip
    assert ago(now + timedelta(hours=1), now) == "just now"
    spans = {-5: "0 s", 119: "119 s", 120: "2 min", 7200: "2 h 0 min", 100_000: "27 h 46 min", 400_000: "4 days"}
    assert {seconds: lasted(timedelta(seconds=seconds)) for seconds in spans} == spans


def test_a_ledger_that_is_out_of_reach_is_told_to_people_too(desk: MadeUpDesk) -> None:
    desk.full = True
    answer = client(desk).post("/jobs", data={"model": "x", "version": "1"}, headers=BROWSER)
    assert (answer.status_code, answer.headers["retry-after"], answer.headers["content-type"]) == (503, "5", HTML)


def test_a_defect_shows_people_nothing_of_itself(desk: MadeUpDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> None:
        raise RuntimeError("inner/path")

    monkeypatch.setattr(desk, "counts", breaks)
    answer = client(desk).get("/", headers=BROWSER)
    assert (answer.status_code, answer.headers["content-type"]) == (500, HTML)
    assert "inner" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
