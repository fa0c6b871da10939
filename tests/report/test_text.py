from __future__ import annotations

from ilp_service.report.text import summary_text
from tests.report.inputs import report_input


def test_every_cause_has_a_line_with_its_count() -> None:
    summary = dict(report_input(50, 20).summary)
    text = summary_text(summary)
    assert "20 of 50 samples are unlearned: 40.0 %" in text
    lines = {line.strip().split("  ")[0]: line for line in text.splitlines() if line.startswith("  ")}
    for name, count in summary["causes"].items():
        assert str(count) in lines[name.replace("_", " ")].split()
    assert "1 rows were refused" in text or "1 row was refused" in text


def test_what_is_missing_is_said_and_not_counted_as_zero() -> None:
    summary = dict(report_input(50, 20, base=False).summary)
    text = summary_text(summary)
    assert "missing knowledge          not measurable" in text
    assert "--base" in text


def test_it_works_on_the_public_summary_alone() -> None:
    summary = {key: value for key, value in report_input(50, 20).summary.items() if key != "details"}
    summary["artifacts"] = {"report": "mlruns/artifacts/report.html"}
    assert summary_text(summary).endswith("Report: mlruns/artifacts/report.html")


def test_control_characters_never_reach_the_terminal() -> None:
    summary = dict(report_input(50, 20).summary)
    summary["details"] = {"plugin_failures": {"\x1b[31mred": "\x07bell"}}
    assert "\x1b" not in summary_text(summary)
    assert "\x07" not in summary_text(summary)


def test_groups_of_unattributed_samples_are_one_line() -> None:
    text = summary_text(report_input(50, 20, groups=True).summary)
    (line,) = [line for line in text.splitlines() if "causes of their own" in line]
    assert line.startswith("2 groups of unattributed samples")
    assert "9, 9 samples" in line
    assert "causes of their own" not in summary_text(report_input(50, 20).summary)
