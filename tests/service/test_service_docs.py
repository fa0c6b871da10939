"""The manuals name all that there is: settings with their defaults, statuses, outcomes, metrics, scripts, calls."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from ilp_service.service.configuration import ServiceSettings
from ilp_service.service.desk import STATUSES
from ilp_service.service.meters import OUTCOMES, Meters
from ilp_service.service.openapi import document
from ilp_service.service.webhook_command import webhook
from tests.service.made_up_desk import MadeUpDesk

ROOT = Path(__file__).resolve().parent.parent.parent
GUIDE = (ROOT / "docs" / "service.md").read_text()
MANUAL = (ROOT / "docs" / "operations.md").read_text()


def row(text: str, first: str) -> list[str]:
    """Cells of the only row of a table that begins with something."""
    (found,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", found)[1:-1]]


@pytest.mark.parametrize("name", ServiceSettings.model_fields)
def test_every_setting_has_a_row_with_its_default(name: str) -> None:
    _, default, meaning = row(GUIDE, f"`{name}`")
    assert meaning
    value = ServiceSettings.model_fields[name].default
    if isinstance(value, bool):
        assert default == str(value).lower()
    elif isinstance(value, int | float):
        assert float(default) == value
    elif name in {"host", "experiment"}:
        assert default == value
    elif name in {"names", "exclude"}:
        assert default.strip("`") == ",".join(value)


def test_no_setting_is_made_up() -> None:
    start = GUIDE.index("| setting | default |")
    table = GUIDE[start : GUIDE.index("\n\n", start)]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(ServiceSettings.model_fields)


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_says_what_to_do(status: str) -> None:
    assert all(row(GUIDE, f"`{status}`")[:2])


def test_every_outcome_and_metric_is_explained() -> None:
    for outcome in OUTCOMES:
        assert re.search(rf"`{outcome}`|outcome=\"{outcome}\"", MANUAL), outcome
    meters = Meters(MadeUpDesk())
    meters.reconciled(0)
    families = re.findall(r"^# TYPE (ilp_\w+) \w+", meters.text().decode(), re.MULTILINE)
    assert len(families) >= 7
    for family in families:
        assert family.removesuffix("_created") in MANUAL, family


def test_every_call_and_command_is_named() -> None:
    for path in document()["paths"]:
        assert path.replace("{job_id}", "<id>") in GUIDE, path
    assert isinstance(webhook, click.Group)
    for name in webhook.commands:
        assert f"`ilp webhook {name}" in GUIDE, name


def test_scripts_are_in_the_table() -> None:
    for script in (ROOT / "deploy").iterdir():
        if script.is_file():
            assert f"deploy/{script.name}" in MANUAL, script.name
