"""A real Chromium; `scripts/install-chromium` installs it.

Tests that use one are in modules of their own: while it is open, an event loop runs in the thread of the tests, which
others do not expect.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


# A machine that does other things as well may take longer than the five seconds that are usual.
expect.set_options(timeout=20_000)


def watched(page: Page) -> list[str]:
    """What goes wrong in a page from now on: errors, warnings of the console, dialogs."""
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def asked(dialog: Dialog) -> None:
        wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("dialog", asked)
    return wrong


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module alone."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("chromium is not on PATH; run scripts/install-chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a wide window that fails the test on anything that went wrong in the console or left the page."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    wrong = watched(page)
    yield page
    context.close()
    assert not wrong
