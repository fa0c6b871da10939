"""The status page in a real Chromium, served by the service's own server."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ilp_service.report.html import render_report
from ilp_service.service.desk import STATUSES, JobView
from ilp_service.service.reports import StoredReports
from ilp_service.tracking.store import Tracking
from tests.browser import watched
from tests.report.inputs import report_input
from tests.service.made_up_desk import MadeUpDesk
from tests.service.web import TOKEN, MadeUpReports, application, served

LONG = "team.alpha.assistant-" + "x" * 235
MANY = 300
WIDTHS = (400, 1400)


def filled() -> MadeUpDesk:
    """Three hundred finished jobs, and two or more of every status."""
    desk, now = MadeUpDesk(), datetime.now(UTC)
    for number in range(MANY):
        then = now - timedelta(minutes=3 * (MANY - number))
        done = {"started_at": then, "ended_at": then, "attempts": 1, "run_id": "ab" * 16, "report_uri": "r.html"}
        done |= {"unlearned_rate": number / MANY, "top_cause": "missing_knowledge"}
        desk.put(f"archive-{number % 3}", str(number + 1), "done", queued_at=then, **done)
    for status in STATUSES:
        desk.put(f"one-{status}", "1", status, queued_at=now, reason="A sentence that says why. " * 12, run_id="c" * 32)
        desk.put(LONG, str(STATUSES.index(status) + 1), status, queued_at=now, step="evaluate", progress=0.43)
    desk.put("bot", "7", "running", queued_at=now, started_at=now, step="evaluate", progress=0.25)
    return desk


@pytest.fixture
def desk() -> MadeUpDesk:
    return filled()


@pytest.fixture
def address(desk: MadeUpDesk) -> Iterator[str]:
    reports = MadeUpReports()
    reports.made["r.html"] = b"<!doctype html><title>r</title><h1>A report</h1>"
    with served(application(desk, tracking_uri="http://127.0.0.1:5000", reports=reports)) as address:
        yield address


def sticks_out(page: Page) -> list[str]:
    """What reaches beyond the window, or holds text that it cuts off without an ellipsis."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter(node => {
          const box = node.getBoundingClientRect(), style = getComputedStyle(node);
          if (!box.width || node.closest(".unseen, .skip, thead")) return false;
          const hides = style.overflowX !== "visible" && node.tagName !== "INPUT";
          const cut = hides && node.scrollWidth > node.clientWidth + 1;
          return box.left < -0.5 || box.right > innerWidth + 0.5 || cut;
        }).map(node => node.outerHTML.slice(0, 120))"""
    )
    if (width := page.evaluate("document.documentElement.scrollWidth")) > page.evaluate("innerWidth"):
        found.append(f"the page is {width} wide")
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_can_be_read(
    browser: Browser, address: str, desk: MadeUpDesk, width: int, scheme: str, tmp_path: Path
) -> None:
    jobs = [next(job for job in desk.made.values() if job.status == status) for status in STATUSES]
    longest = next(job for job in desk.made.values() if job.model == LONG)
    ways = ["/", "/?status=done", f"/?model={LONG}", *(f"/jobs/{job.job_id}" for job in [*jobs, longest])]
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    wrong = watched(page)
    for way in ways:
        page.goto(address + way)
        assert sticks_out(page) == [], way
        assert pale(page) == [], way
    page.goto(address)
    shot = page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert int.from_bytes(shot[16:20], "big") == width
    context.close()
    assert wrong == []


def pale(page: Page) -> list[str]:
    """Texts with less contrast than 4.5 : 1 (WCAG 2.2, AA)."""
    found: list[str] = page.evaluate(
        """() => {
          const parts = text => (text.match(/[\\d.]+/g) || []).map(Number);
          const light = rgb => { const [r, g, b] = rgb.slice(0, 3).map(v => { v /= 255;
            return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
            return .2126 * r + .7152 * g + .0722 * b; };
          const behind = node => { for (; node; node = node.parentElement) {
            const rgb = parts(getComputedStyle(node).backgroundColor); if (rgb.length === 3 || rgb[3] > 0) return rgb; }
            return [255, 255, 255]; };
          return [...document.querySelectorAll("body *")].filter(node => node.getBoundingClientRect().width > 1
            && [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())).filter(node => {
            const ink = light(parts(getComputedStyle(node).color)), paper = light(behind(node));
            return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05) < 4.5;
          }).map(node => node.outerHTML.slice(0, 120));
        }"""
    )
    return found


def test_from_the_queue_to_the_report(page: Page, workplace: Path) -> None:
    """With a report that a diagnosis wrote, in a real store."""
    tracking = Tracking(f"sqlite:///{workplace / 'mlruns' / 'mlflow.db'}")
    (workplace / "report.html").write_text(render_report(report_input(60, 30)), encoding="utf-8")
    with tracking.run("diagnose", {}) as run:
        uri = run.log_file(workplace / "report.html")
    desk = MadeUpDesk()
    job = desk.put("support-bot", "7")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with served(application(desk, reports=StoredReports(tracking))) as address:
        page.goto(address)
        expect(page.locator("#live-queue")).to_contain_text("support-bot")
        desk.put("support-bot", "7", "done", report_uri=uri, run_id=run.run_id, unlearned_rate=0.5, top_cause="none")
        # The page finds out by itself.
        expect(page.locator("#live-finished")).to_contain_text("50.0 % unlearned", timeout=10_000)
        expect(page.locator("#live-queue")).to_contain_text("Nothing is waiting.")
        page.get_by_role("link", name="support-bot", exact=True).click()
        page.get_by_role("link", name="Open the report").click()
        expect(page.locator(".figure")).to_have_text("50.0 %")
        page.locator(".bar").first.click()
        page.locator(".toggle").first.click()
        expect(page.locator("#detail")).to_be_visible()
        assert page.url == f"{address}/jobs/{job.job_id}/report"
        page.go_back()
        page.go_back()
        expect(page).to_have_url(f"{address}/")
        assert {url.removeprefix(address).partition("?")[0] for url in asked} <= {
            "/", "/static/service.css", "/static/service.js", "/static/icon.svg", f"/jobs/{job.job_id}",
            f"/jobs/{job.job_id}/report",
        }  # fmt: skip


def names(page: Page, section: str) -> list[str]:
    return page.locator(f"#live-{section} .row th .name").all_text_contents()


def test_filters_by_model_and_status(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_label("Model", exact=True).fill("ARCHIVE-1")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("model=ARCHIVE-1"))
    assert set(names(page, "finished")) == {"archive-1"}
    # The tiles count what is shown, and lead to it.
    expect(page.locator("#count-done .figure")).to_have_text("100")
    assert page.locator("#live-counts .figure").all_text_contents().count("0") == len(STATUSES) - 1
    expect(page.locator("#live-running")).to_contain_text("No job matches.")
    expect(page.get_by_label("Model", exact=True)).to_have_value("ARCHIVE-1")
    page.get_by_role("combobox").select_option("failed")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#live-found")).to_contain_text("No job matches.")
    page.get_by_role("link", name="Clear").click()
    expect(page).to_have_url(f"{address}/")
    page.locator("#count-failed").click()
    expect(page).to_have_url(f"{address}/?status=failed")
    assert names(page, "found") == [LONG, "one-failed"]
    expect(page.locator("#count-failed")).to_have_attribute("aria-current", "true")


def test_hundreds_of_jobs_are_paged_each_once(page: Page, address: str, desk: MadeUpDesk) -> None:
    page.goto(address)
    assert len(names(page, "finished")) == 25
    with page.expect_navigation():
        page.get_by_role("link", name="More: done").click()
    seen: list[str] = []
    while True:
        links = page.locator("#live-found .row th a").evaluate_all("all => all.map(one => one.pathname)")
        seen += [str(link).rpartition("/")[2] for link in links]
        following = page.get_by_role("link", name="Next")
        if following.count() == 0:
            break
        with page.expect_navigation():
            following.click()
    done = [job.job_id for job in desk.made.values() if job.status == "done"]
    assert seen == list(reversed(done))
    page.get_by_role("link", name="From the latest").click()
    expect(page).to_have_url(f"{address}/?status=done")


def test_the_keyboard_alone_reaches_everything(page: Page, address: str, desk: MadeUpDesk) -> None:
    page.goto(f"{address}/?model=bot")
    expect(page.locator("#refresh")).to_be_visible()
    page.get_by_role("button", name="Pause updates").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_have_text("updates are paused")
    page.locator(".skip").focus()
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("a[href], button, input, select")]
        .filter(node => node.getBoundingClientRect().width).length"""
    )
    reached = 0
    while reached <= wanted:
        at = page.evaluate(
            """() => { const node = document.activeElement, box = node.getBoundingClientRect();
            return [node.tagName, getComputedStyle(node).outlineStyle, box.left >= 0 && box.width > 0]; }"""
        )
        if at[0] == "BODY":
            break
        assert at[1:] == ["solid", True], at
        reached += 1
        page.keyboard.press("Tab")
    assert reached == wanted
    page.get_by_role("link", name="bot", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("bot")
    page.get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#live-job")).to_contain_text("cancelled")
    page.get_by_role("button", name="Retry").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#live-job")).to_contain_text("queued")
    assert next(job for job in desk.made.values() if job.model == "bot").status == "queued"


def test_the_focus_stays_while_the_page_renews_itself(page: Page, address: str, desk: MadeUpDesk) -> None:
    job = next(job for job in desk.made.values() if job.model == "bot")
    page.goto(f"{address}/?model=bot")
    page.locator(f"#running-cancel-{job.job_id}").focus()
    desk.made[job.job_id] = dataclasses.replace(job, progress=0.5)
    expect(page.locator("#live-running")).to_contain_text("50 %", timeout=10_000)
    expect(page.locator(f"#running-cancel-{job.job_id}")).to_be_focused()
    desk.made[job.job_id] = dataclasses.replace(job, status="done", ended_at=datetime.now(UTC))
    expect(page.locator("#live-finished")).to_contain_text("bot", timeout=10_000)
    expect(page.locator("#main")).to_be_focused()


def test_without_scripts_everything_works(browser: Browser, address: str, desk: MadeUpDesk) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    wrong = watched(page)
    page.goto(address)
    expect(page.locator("#refresh")).to_be_hidden()
    page.get_by_label("Model", exact=True).fill("archive-2")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name="archive-2", exact=True).first.click()
    page.get_by_role("link", name="Open the report").click()
    expect(page.locator("h1")).to_have_text("A report")
    page.goto(address)
    page.get_by_label("Registered model").fill("handed in")
    page.get_by_label("Version", exact=True).fill("12")
    page.get_by_role("button", name="Diagnose").click()
    expect(page.locator("#live-job")).to_contain_text("queued")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#live-job")).to_contain_text("cancelled")
    made = [job for job in desk.made.values() if job.model == "handed in"]
    assert [(job.version, job.status, job.via) for job in made] == [("12", "cancelled", "api")]
    context.close()
    assert wrong == []


def test_an_empty_desk_says_so(page: Page) -> None:
    with served(application()) as address:
        page.goto(address)
        for section, sentence in {"running": "running", "queue": "waiting", "finished": "finished yet"}.items():
            expect(page.locator(f"#live-{section} .empty")).to_contain_text(sentence)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert sticks_out(page) == []
        assert page.locator(".figure").all_text_contents() == ["0"] * len(STATUSES)


def test_everything_has_a_name_for_those_who_do_not_see_it(page: Page, address: str) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(address)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("a, button, select, input, nav, section, progress, table")]
        .filter(node => !(node.getAttribute("aria-label") || node.getAttribute("aria-labelledby") || node.innerText
        || node.closest("label"))).map(node => node.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    # A row of blocks is still a row of a table.
    row = page.get_by_role("row").filter(has_text="one-running")
    expect(row.get_by_role("cell").first).to_contain_text("running")
    assert page.get_by_role("table").count() == 3
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map(node => node.id)).size") == page.evaluate(
        "document.querySelectorAll('[id]').length"
    )


def test_people_sign_in_and_out_and_come_back_to_where_they_were(browser: Browser, desk: MadeUpDesk) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 800})
    page = context.new_page()
    failed: JobView = next(job for job in desk.made.values() if job.model == "one-failed")
    with served(application(desk, token=TOKEN)) as address:
        page.goto(f"{address}/jobs/{failed.job_id}")
        expect(page.locator("h1")).to_have_text("Sign in")
        assert sticks_out(page) == []
        expect(page.get_by_label("Token")).to_be_focused()
        page.keyboard.type("something else entirely")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{address}/jobs/{failed.job_id}")
        [cookie] = context.cookies()
        assert (cookie.get("httpOnly"), cookie.get("sameSite")) == (True, "Strict")
        assert TOKEN not in str(cookie.get("value"))
        # A session that ends while the page is open leads back to the form, and does nothing.
        context.clear_cookies()
        page.get_by_role("button", name="Retry").click()
        expect(page.locator("h1")).to_have_text("Sign in")
        assert desk.made[failed.job_id].status == "failed"
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{address}/jobs/{failed.job_id}")
        page.goto(address)
        page.get_by_role("button", name="Sign out").click()
        page.goto(f"{address}/?model=bot")
        expect(page).to_have_url(re.compile(r"/login\?next=/%3Fmodel%3Dbot$"))
    context.close()
