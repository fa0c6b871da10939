"""The page of the docs holds the figures of the benchmark's report and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ilp_service.attribution.card import put_into
from ilp_service.benchmark.page import BEGIN, END, page

DOCS = Path(__file__).parents[2] / "docs" / "benchmark.md"


@pytest.fixture
def report() -> dict[str, object]:
    shares = {"documents": {"missing_knowledge": 0.875}}
    interval = {"value": 0.9312, "low": 0.9, "high": 0.95, "worlds": 4, "note": None}
    cause = {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "true": 8}
    unknown = {
        "causes": {
            "missing_knowledge": {"grouped": None, "purity": 0.5, "blamed": {"pretraining_conflict": 3, "x": 1}}
        },
        "nothing_left_out": {"groups": 1, "worlds": 4},
    }
    return {
        "trained_on": {"llama": ["qwen2-small-0", "olmo2-small-2"]},
        "worlds": ["llama-small-101"],
        "intervals": {"macro_f1": interval, "ece": {**interval, "value": 0.0234, "low": None, "note": "one world"}},
        "per_cause": {"missing_knowledge": cause},
        "confusion": {"missing_knowledge": {"missing_knowledge": 4, "unattributed": 4}},
        "recovery": shares,
        "recovery_by_family": {"llama": shares},
        "verdicts": {"missing_knowledge": {"verified": 60, "unverified: learned": 30}},
        "verified": {"missing_knowledge": 60},
        "unknown_causes": {"missing_knowledge": interval},
        "unknown_by_family": {"llama": unknown},
        "data_inconsistency": {"classifier": cause},
        "leaks": {"order": 0.25},
        "natural_pooled": {
            "natural_agreement": 0.79,
            "natural_named_share": 0.13,
            "natural_agreement_named": 0.86,
        },
        "natural_labelled": 20,
        "learned_controls_attributed": 0,
        "natural_agreement_by_chance": 0.31,
        "misjudged_controls": {"unlearned": 7, "attributed": 3},
    }


def test_every_figure_of_the_report_is_on_the_page(report: dict[str, object]) -> None:
    text = page(report)
    for told in (
        "0.931",
        "0.900 to 0.950",
        "0.023 | one world",
        "(lower is better)",
        "0.88",
        "60",
        "order 0.25",
        "0.79 (a cause named at random: 0.31)",
        "a cause was named: 0.13; of these, one that they have: 0.86",
        "7; given a cause: 3",
    ):
        assert told in text
    assert "| llama | missing_knowledge | - | 0.50 | pretraining_conflict 3, x 1 |" in text
    assert "1 groups in 4 worlds" in text
    assert page(json.loads(json.dumps(report))) == text


def test_the_page_of_the_docs_can_be_made_anew(report: dict[str, object]) -> None:
    text = put_into(DOCS.read_text(), page(report), BEGIN, END)
    assert "0.900 to 0.950" in text
    assert text.startswith(DOCS.read_text().partition(BEGIN)[0])
