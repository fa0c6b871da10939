"""From the queue to the report in a real Chromium, with `ilp serve`, an MLflow server and a diagnosis that are real."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Browser, Page, expect

from benchmarks.service_kills import ROWS
from benchmarks.service_parts import Server, mlflow_server, service_server
from tests.browser import watched
from tests.service.test_page_in_browser import WIDTHS, sticks_out
from tests.service.web import TOKEN
from tests.tiny import save_tiny

LONG, SHORT = "takes-long", "support-bot"


@pytest.fixture
def servers(tmp_path: Path, _store_template: Path) -> Iterator[tuple[Server, Server]]:
    """MLflow, and the service with one worker."""
    (tmp_path / "mlflow").mkdir()
    shutil.copy(_store_template, tmp_path / "mlflow" / "mlflow.db")
    mlflow = mlflow_server(tmp_path / "mlflow")
    settings: dict[str, Any] = {"interval": 1, "grace": 3, "data_dirs": tmp_path, "backfill": True, "token": TOKEN}
    service = service_server(tmp_path / "service", mlflow.address, **settings)
    try:
        # Side by side: each takes seconds to import what it needs.
        mlflow.start(wait=False)
        service.start()
        mlflow.wait()
        yield mlflow, service
    finally:
        service.stop()
        mlflow.stop()


def register(client: MlflowClient, folder: Path) -> None:
    """Two versions of which the first to come takes long."""
    save_tiny(folder / "base", "llama", seed=0)
    save_tiny(folder / "tuned", "llama", seed=1)
    run_id = str(client.create_run("0").info.run_id)
    client.log_artifacts(run_id, str(folder / "tuned"), "checkpoint")
    for name, times in ((LONG, 200), (SHORT, 1)):
        rows = [{**row, "prompt": f"{number} {row['prompt']}"} for number in range(times) for row in ROWS]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tags = {"ilp.data": str(folder / f"{name}.jsonl"), "ilp.base_model": str(folder / "base")}
        client.create_registered_model(name)
        client.create_model_version(name, f"runs:/{run_id}/checkpoint", run_id, tags, await_creation_for=0)


def ask(service: Server, model: str) -> dict[str, Any]:
    """The job of a model by the API."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(f"{service.address}/api/jobs?model={model}", headers=headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        (job,) = json.load(answer)["items"]
    return dict(job)


def tab_to(page: Page, element: str) -> None:
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == element:
            return
    raise AssertionError(element)


def steps_until_done(page: Page) -> list[tuple[str, float]]:
    """What a job's page shows of its progress until it is done, each change once."""
    seen: list[tuple[str, float]] = []
    deadline = time.monotonic() + 300
    while "done" not in (page.locator("#live-job").get_attribute("class") or ""):
        assert time.monotonic() < deadline, page.locator("#live-job").inner_text()
        # In one go: the page renews itself at any moment.
        at = page.evaluate(
            """() => { const step = document.querySelector(".steps .now"), bar = document.querySelector("progress");
            return step && bar ? [step.innerText, bar.value] : null; }"""
        )
        if at is not None and tuple(at) not in seen:
            seen.append((str(at[0]), float(at[1])))
        page.wait_for_timeout(500)
    return seen


@pytest.mark.timeout(600)
def test_from_the_queue_to_the_report_of_a_real_diagnosis(
    browser: Browser, servers: tuple[Server, Server], tmp_path: Path
) -> None:
    mlflow, service = servers
    contexts = [browser.new_context(viewport={"width": width, "height": 900}) for width in (*WIDTHS, WIDTHS[-1])]
    narrow, wide, keys = (context.new_page() for context in contexts)
    wrong = [watched(page) for page in (narrow, wide, keys)]
    for page in (narrow, wide, keys):
        page.goto(service.address)
        expect(page.get_by_label("Token")).to_be_focused()
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#live-queue")).to_contain_text("Nothing is waiting.")
    client = MlflowClient(mlflow.address)
    register(client, tmp_path)

    # Nobody reloads anything from here on.
    for page in (narrow, wide, keys):
        expect(page.locator("#live-running")).to_contain_text(LONG)
        expect(page.locator("#live-queue")).to_contain_text(SHORT)
        assert sticks_out(page) == []
    job_id = ask(service, SHORT)["job_id"]
    wide.locator("#live-queue").get_by_role("link", name=SHORT).click()
    tab_to(keys, f"queue-job-{job_id}")
    keys.keyboard.press("Enter")
    for page in (wide, keys):
        expect(page).to_have_url(f"{service.address}/jobs/{job_id}")
        expect(page.locator("#live-job")).to_contain_text("waiting")
    narrow.get_by_role("button", name=f"Cancel {LONG} version 1").click()
    expect(narrow.locator("#live-job")).to_contain_text("cancelled")
    narrow.get_by_role("link", name="Diagnoses").click()
    expect(narrow.locator("#live-running progress")).to_be_visible()
    assert sticks_out(narrow) == []

    seen = steps_until_done(wide)
    assert [value for _, value in seen] == sorted(value for _, value in seen)
    assert len({step for step, _ in seen}) >= 2, seen
    job = ask(service, SHORT)
    rate = f"{100 * job['unlearned_rate']:.1f} %"
    assert (job["status"], job["attempts"]) == ("done", 1)
    expect(narrow.locator("#live-finished")).to_contain_text(f"{rate} unlearned")
    for page in (wide, keys):
        expect(page.locator("#live-job")).to_contain_text(f"{rate} unlearned")
    for page in (narrow, wide, keys):
        assert sticks_out(page) == []

    wide.get_by_role("link", name="Open the report").click()
    narrow.get_by_role("link", name=f"Report on {SHORT} version 1").click()
    tab_to(keys, "report")
    keys.keyboard.press("Enter")
    for page in (narrow, wide, keys):
        expect(page).to_have_url(f"{service.address}/jobs/{job_id}/report")
        expect(page.locator(".figure").first).to_have_text(rate)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for page in (narrow, wide):
        page.locator(".toggle").first.click()
        expect(page.locator("#detail")).to_be_visible()
    for context in contexts:
        context.close()
    assert wrong == [[], [], []]

    # What people saw is what MLflow was told.
    ends = {SHORT: ("done", "FINISHED"), LONG: ("cancelled", "KILLED")}
    deadline = time.monotonic() + 20
    while True:
        tags = {name: client.get_model_version(name, "1").tags for name in ends}
        told = {name: (tag["ilp.status"], _run_status(client, tag["ilp.run_id"])) for name, tag in tags.items()}
        if told == ends:
            break
        assert time.monotonic() < deadline, told
        time.sleep(0.2)


def _run_status(client: MlflowClient, run_id: str) -> str:
    return str(client.get_run(run_id).info.status)
