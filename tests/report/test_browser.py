from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Frame, Page, expect

from ilp_service.report.html import render_report
from tests.report.inputs import HOSTILE, report_input


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(report_input(200, 70)), encoding="utf-8")
    return path.as_uri()


def in_sandbox(page: Page, html: str) -> tuple[Frame, list[str]]:
    """Show a document as MLflow's artifact view does; also returns every address that was asked for."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.route("http://mlflow.test/", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html"))
    page.goto("http://mlflow.test/")
    page.evaluate(
        """html => { const frame = document.createElement("iframe"); frame.sandbox = "allow-scripts";
        frame.style.cssText = "width:1300px;height:900px";
        frame.src = URL.createObjectURL(new Blob([html], {type: "text/html"})); document.body.append(frame); }""",
        html,
    )
    expect(page.frame_locator("iframe").locator("#tools")).to_be_visible()
    return page.frames[1], asked


def test_filters_narrow_the_table_and_clear_restores_it(page: Page, report: str) -> None:
    page.goto(report)
    expect(page.locator("#status")).to_have_text("1–25 of 70")
    page.get_by_label("Cause").select_option("missing_knowledge")
    found = page.locator("#rows .tag")
    assert set(found.all_text_contents()) == {"missing knowledge"}
    count = int(page.locator(".bar[data-cause=missing_knowledge] .count").inner_text())
    expect(page.locator("#status")).to_contain_text(f"of {count} (70 in all)")
    expect(page.locator(".bar[data-cause=missing_knowledge]")).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Subset").select_option("=logbook")
    assert set(page.locator("#rows td[data-label=Subset]").all_text_contents()) <= {"logbook"}
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("View").select_option("both")
    expect(page.locator("#rows")).to_contain_text("No sample matches")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#status")).to_have_text("1–25 of 70")


def test_a_bar_filters_by_its_cause(page: Page, report: str) -> None:
    page.goto(report)
    page.locator(".bar[data-cause=left_side_forgetting]").click()
    assert set(page.locator("#rows .tag").all_text_contents()) == {"left side forgetting"}
    expect(page.get_by_label("Cause")).to_have_value("left_side_forgetting")


def test_search_finds_text_anywhere_in_a_sample(page: Page, report: str) -> None:
    page.goto(report)
    page.get_by_role("searchbox").fill("NUMBER 0042")
    expect(page.locator("#rows .row")).to_have_count(1)
    page.get_by_role("searchbox").press("Enter")
    expect(page.locator("#rows .row")).to_have_count(1)
    page.get_by_role("searchbox").fill("nowhere at all")
    expect(page.locator("#rows")).to_contain_text("No sample matches")


def test_pages_and_sorting(page: Page, report: str) -> None:
    page.goto(report)
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#status")).to_have_text("26–50 of 70")
    page.locator("th[data-key=confidence] button").click()
    expect(page.locator("th[data-key=confidence]")).to_have_attribute("aria-sort", "descending")
    expect(page.locator("#page")).to_have_text("Page 1 of 3")
    shown = [float(text) for text in page.locator("#rows td[data-label=Confidence]").all_text_contents()]
    assert shown == sorted(shown, reverse=True)
    page.locator("th[data-key=confidence] button").click()
    shown = [float(text) for text in page.locator("#rows td[data-label=Confidence]").all_text_contents()]
    assert shown == sorted(shown)


def test_a_sample_opens_with_its_evidence_by_keyboard_alone(page: Page, report: str) -> None:
    page.goto(report)
    page.get_by_label("Cause").select_option("left_side_forgetting")
    first = page.locator(".toggle").first
    first.focus()
    page.keyboard.press("Enter")
    expect(first).to_have_attribute("aria-expanded", "true")
    expect(first).to_be_focused()
    detail = page.locator("#detail")
    expect(detail.locator("h3")).to_contain_text(["Why it was not learned", "Prompt", "Probability of each cause"])
    expect(detail.locator("svg.spark")).to_have_attribute("aria-label", re.compile("Loss from .* at step 0"))
    own = detail.locator("details[open]")
    expect(own).to_have_count(1)
    expect(own).to_contain_text("peak drop")
    expect(own).to_contain_text("↑ speaks for")
    expect(own).to_contain_text("nats")
    expect(detail.locator(".options tr.right")).to_have_count(1)
    chances = [float(text) for text in detail.locator(".chance .num").all_text_contents()]
    assert sum(chances) == pytest.approx(1, abs=0.04)
    page.keyboard.press("Enter")
    expect(detail).to_have_count(0)


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_sticks_out_at_either_width(page: Page, report: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(report)
    page.locator(".toggle").nth(3).click()
    expect(page.locator("#detail")).to_be_visible()
    for summary in page.locator("#detail summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [400, 1400])
def test_groups_fit_at_either_width(page: Page, tmp_path: Path, width: int) -> None:
    file = tmp_path / "report.html"
    file.write_text(render_report(report_input(hostile=True, groups=True)), encoding="utf-8")
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(file.as_uri())
    groups = page.locator(".groups > article")
    expect(groups).to_have_count(2)
    for group in groups.all():
        box = group.bounding_box()
        assert box is not None
        assert 0 <= box["x"] < box["x"] + box["width"] <= width
        assert group.evaluate("node => node.scrollWidth <= node.clientWidth + 1")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.harmed") is None


def test_everything_has_a_name_for_those_who_do_not_see_it(page: Page, report: str) -> None:
    page.goto(report)
    page.locator(".toggle").first.click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, [role=img], nav, section")]
        .filter(node => !(node.getAttribute("aria-label") || node.getAttribute("aria-labelledby") || node.innerText
        || node.closest("label"))).map(node => node.outerHTML.slice(0, 80))"""
    )
    assert nameless == []


def test_it_works_in_the_sandboxed_frame_without_any_request(page: Page) -> None:
    frame, asked = in_sandbox(page, render_report(report_input(80, 40)))
    frame.locator(".bar[data-cause=data_inconsistency]").click()
    assert set(frame.locator("#rows .tag").all_text_contents()) == {"data inconsistency"}
    frame.locator("#query").fill("northern")
    frame.locator("#query").press("Enter")
    frame.locator(".toggle").first.click()
    expect(frame.locator("#detail")).to_be_visible()
    assert all(url == "http://mlflow.test/" or url.startswith("blob:") for url in asked)


def test_hostile_text_stays_text(page: Page) -> None:
    frame, _ = in_sandbox(page, render_report(report_input(20, 12, hostile=True)))
    frame.locator(".toggle").first.click()
    for summary in frame.locator("#detail summary").all():
        summary.click()
    assert frame.evaluate("window.harmed") is None
    assert frame.locator("img").count() == 0
    assert frame.locator("script").count() == 2
    expect(frame.locator("#detail .text").first).to_contain_text(HOSTILE.rstrip("\u2028"))
    expect(frame.locator("h1")).to_contain_text("</script><script>")
    expect(frame.locator("h1")).to_contain_text("{{ 7*7 }}")


def test_without_scripts_the_summary_and_the_first_rows_are_there(browser: Browser, report: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    expect(page.locator(".figure")).to_have_text("35.0 %")
    expect(page.locator("#rows .row")).to_have_count(25)
    expect(page.locator("#tools")).to_be_hidden()
    expect(page.locator("#rows .why").first).not_to_be_empty()
    context.close()


def test_dark_and_light_differ_and_stay_readable(browser: Browser, report: str) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(report)
        seen[scheme] = [
            [int(part) for part in page.evaluate(f"getComputedStyle(document.body).{what}")[4:-1].split(",")]
            for what in ("color", "backgroundColor")
        ]
        context.close()
    for ink, paper in seen.values():
        assert abs(sum(ink) - sum(paper)) > 500
    assert seen["light"] != seen["dark"]


def test_nothing_unlearned_says_so(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_report(report_input(30, 0)), encoding="utf-8")
    page.goto(path.as_uri())
    expect(page.locator("#rows")).to_contain_text("There is nothing to explain")
    expect(page.locator(".figure")).to_have_text("0.0 %")
