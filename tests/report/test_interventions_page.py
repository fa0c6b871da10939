"""The page of interventions in a browser: readable on a phone and on a desk."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from ilp_service.intervention.effects import effects_of
from ilp_service.intervention.text import render_interventions
from tests.intervention.simulated_experiments import CAUSES, experiment


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_screen(page: Page, tmp_path: Path, width: int) -> None:
    given = experiment({f"mend {cause}": {cause: 0.8} for cause in CAUSES})
    path = tmp_path / "interventions.html"
    html = render_interventions(effects_of(*given, seed=0), {"Model": "models:/" + "mine" * 30, "Run": "r" * 32})
    path.write_text(html, encoding="utf-8")
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".matrix .own").count() == 3
    for table in page.locator("table").all():
        box = table.bounding_box()
        assert box is not None
        assert box["width"] <= width
    # On a phone every figure carries the name of its column.
    label = page.locator(".matrix td").first.evaluate("cell => getComputedStyle(cell, '::before').content")
    assert ("inconsistency" in label) == (width == 400)
