"""The page about data says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ilp_service.samples.formats import FORMATS
from ilp_service.samples.reading import read_samples
from ilp_service.settings import DataSettings

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^#+ (\w+)\n\n```json\n(.+?)\n```", PAGE, flags=re.MULTILINE))


def test_formats_are_described_in_the_order_in_which_they_are_tried() -> None:
    assert [name for name in EXAMPLES if name in FORMATS] == list(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_every_example_is_what_its_heading_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(json.loads(EXAMPLES[name])))
    data = read_samples(path, DataSettings())
    assert (data.format, len(data.samples), data.unused_columns) == (name, 1, ())


def test_the_example_of_probes_has_three(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(EXAMPLES["Probes"])
    (sample,) = read_samples(path, DataSettings()).samples
    assert [probe.answer for probe in sample.probes] == ["London"] * 3


@pytest.mark.parametrize("name", DataSettings.model_fields)
def test_every_setting_of_data_is_on_the_page(name: str) -> None:
    assert f"data.{name}" in PAGE
