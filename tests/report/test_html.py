from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilp_service.report import payload
from ilp_service.report.figures import cause_figures, subset_figures, wilson
from ilp_service.report.html import render_report
from ilp_service.report.payload import inert_json
from tests.report.inputs import HOSTILE, enlarged, report_input

LIMIT = 5_000_000


def data_of(html: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    loaded: dict[str, object] = json.loads(found[1])
    return loaded


def test_it_is_one_file_that_asks_for_nothing() -> None:
    html = render_report(report_input())
    assert not re.search(r"(?:src|href|action|url)\s*[=(]\s*[\"']?(?!#)[a-z]+[:/]", html)
    assert "localStorage" not in html
    assert "innerHTML" not in html


def test_the_same_diagnosis_gives_the_same_file() -> None:
    assert render_report(report_input()) == render_report(report_input())


def test_hostile_text_cannot_leave_the_data_element() -> None:
    html = render_report(report_input(hostile=True))
    assert html.count("<script") == html.count("</script>") == 2
    assert "<img" not in html
    rows = data_of(html)["rows"]
    assert HOSTILE in rows[0]["prompt"]  # type: ignore[index]


@given(st.text())
def test_data_is_inert_and_comes_back_whole(text: str) -> None:
    encoded = inert_json({"text": text})
    assert not set(encoded) & set("<>&\u2028\u2029")
    assert json.loads(encoded) == {"text": text}


def test_a_lone_surrogate_does_not_break_the_file() -> None:
    given_ = report_input(10, 5)
    broken = replace(given_, samples=tuple(replace(s, response="\ud800" + s.response) for s in given_.samples))
    assert render_report(broken).encode("utf-8")


def test_a_thousand_long_samples_stay_below_five_megabytes() -> None:
    given_ = enlarged(report_input(55, 50), 20, " Ω" * 3000)
    html = render_report(given_)
    assert len(html.encode("utf-8")) < LIMIT
    rows = data_of(html)["rows"]
    assert isinstance(rows, list)
    assert len(rows) == 1000


def test_what_does_not_fit_is_the_least_severe_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "BUDGET", 20_000)
    given_ = report_input(40, 30)
    html = render_report(given_)
    rows = data_of(html)["rows"]
    assert isinstance(rows, list)
    assert 5 < len(rows) < 30
    assert f"{len(rows)} of 30 explained samples are shown here" in html
    ids = [row["id"] for row in rows]
    assert ids == given_.attributions["sample_id"].to_pylist()[: len(ids)]


def test_a_hundred_thousand_samples_are_summed_up_not_listed() -> None:
    given_ = report_input(60, 30)
    rows = np.arange(100_000) % 60
    whole = replace(
        given_,
        evaluation=given_.evaluation.take(pa.array(rows)).set_column(
            0, "sample_id", pa.array([f"x{index}" for index in range(100_000)])
        ),
        summary={**given_.summary, "samples": 100_000, "unlearned": 50_000},
    )
    html = render_report(whole)
    assert len(html) < 1_000_000
    assert "30 of 50,000 unlearned samples were explained" in html


@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("trajectory", [True, False])
def test_what_was_not_measured_is_said_with_its_reason(base: bool, trajectory: bool) -> None:
    given_ = report_input(20, 10, base=base, trajectory=trajectory)
    html = render_report(given_)
    for name, reason in given_.evidence.reasons.items():
        assert f"Not measurable: {name.replace('_', ' ')}" in html
        assert reason.split(";")[0][:60] in html
    assert ("The base model was not measured" in html) == (not base)
    rows = data_of(html)["rows"]
    assert bool(rows[0]["steps"]) == trajectory  # type: ignore[index]


def test_a_failed_cause_and_plugin_are_told() -> None:
    given_ = report_input(20, 10)
    status = dict(given_.evidence.status) | {"data_inconsistency": "failed"}
    failed = replace(given_.evidence, status=status, reasons={"data_inconsistency": "it raised KeyError: 'x'"})
    html = render_report(replace(given_, evidence=failed))
    assert "Failed: data inconsistency" in html
    assert "it raised KeyError" in html


def test_bars_count_every_explained_sample_once() -> None:
    given_ = report_input()
    figures = cause_figures(list(given_.causes), given_.evidence, given_.attributions)
    assert sum(figure.count for figure in figures) == given_.attributions.num_rows
    assert sum(figure.by_rules for figure in figures) == given_.attributions.num_rows
    assert sum(figure.share for figure in figures) == pytest.approx(1)


@given(st.integers(0, 500), st.integers(0, 500))
def test_the_interval_holds_its_rate(count: int, more: int) -> None:
    found = wilson(count, count + more)
    assert 0 <= found.low <= found.rate + 1e-12
    assert found.rate - 1e-12 <= found.high <= 1


def test_subsets_add_up_and_the_worst_come_first() -> None:
    given_ = report_input()
    figures, more = subset_figures(given_.evaluation)
    assert more == 0
    assert sum(figure.samples for figure in figures) == given_.evaluation.num_rows
    assert [f.unlearned for f in figures] == sorted((f.unlearned for f in figures), reverse=True)


def test_groups_that_may_be_causes_are_shown_with_what_sets_them_apart() -> None:
    given_ = report_input(groups=True)
    html = render_report(given_)
    part = html[html.index("groups that may be causes of their own") : html.index('id="samples"')]
    for told in (
        "Group 1: 9 samples",
        "50 % of the unattributed",
        "8.7 are in the group",
        "rarity",
        "emberbond",
        "a part",
    ):
        assert told in part
    by_id = {sample.sample_id: sample for sample in given_.samples}
    for key in given_.candidates["examples"][0].as_py():
        assert by_id[key].response in part
    assert "groups that may be causes of their own" not in render_report(report_input())


def test_hostile_text_in_groups_stays_text() -> None:
    html = render_report(report_input(hostile=True, groups=True))
    assert html.count("<script") == html.count("</script>") == 2
    assert "<img" not in html


def test_more_groups_than_fit_are_said() -> None:
    given_ = report_input(groups=True)
    many = pa.concat_tables([given_.candidates] * 6)
    assert "4 smaller groups are in candidate_causes.parquet" in render_report(replace(given_, candidates=many))
