"""The report as one HTML file: no network, no sibling files, no storage, so that it shows in a sandboxed frame."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from ilp_service.report.figures import cause_figures, form_figures, forms_disagree, subset_figures, wilson
from ilp_service.report.groups import MOST_GROUPS, group_figures
from ilp_service.report.payload import Sources, build_payload, clip

if TYPE_CHECKING:
    from ilp_service.evidence.collection import Evidence
    from ilp_service.plugin import Cause, Sample
    from ilp_service.settings import Settings

FIRST_ROWS = 25
"""Rows that are written out, for readers without scripts; the script shows as many on a page."""

_QUARANTINED = 12


@dataclass(frozen=True, slots=True)
class ReportInput:
    """All that the report shows.

    Attributes:
        summary: What ``ilp diagnose --json`` prints, and under ``details`` where it came from.
        evaluation: One row a sample.
        evidence: Signals of the unlearned samples, with the status of every cause.
        attributions: One row an unlearned sample, most severe first.
        candidates: Groups of samples that no cause explains (``candidate_causes.parquet``).
        options: Options of the unlearned samples.
        samples: The data set.
        causes: The causes that were asked, in plugin order.
        trajectory: The training record, if there is one.
        quarantine: Refused rows.
        settings: Thresholds that were applied.
    """

    summary: Mapping[str, Any]
    evaluation: pa.Table
    evidence: Evidence
    attributions: pa.Table
    candidates: pa.Table
    options: pa.Table
    samples: Sequence[Sample]
    causes: Sequence[Cause]
    trajectory: pa.Table | None
    quarantine: pa.Table
    settings: Settings


def render_report(given: ReportInput) -> str:
    """One HTML document below 5 MB.

    Whatever the data contains is shown as text: the template escapes it, the script builds nodes by ``textContent``
    only, and a content security policy names the one script that may run.
    """
    figures = cause_figures(list(given.causes), given.evidence, given.attributions)
    sources = Sources(
        given.evaluation,
        given.evidence,
        given.attributions,
        given.options,
        given.samples,
        given.causes,
        given.trajectory,
    )
    payload = build_payload(sources, figures, FIRST_ROWS)
    subsets, more_subsets = subset_figures(given.evaluation)
    disagree, asked_twice = forms_disagree(given.evaluation)
    script = _asset("report.js")
    summary = given.summary
    html: str = (
        _environment()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            details=summary.get("details", {}),
            settings=given.settings,
            rate=wilson(int(summary["unlearned"]), int(summary["samples"])),
            views=_views(summary),
            figures=figures,
            # Bars and the paper's marks share one scale.
            scale=max([0.25, *(f.share for f in figures)]),
            forms=form_figures(given.evaluation, given.settings),
            forms_disagree=disagree,
            forms_asked=asked_twice,
            groups=group_figures(given.candidates, given.samples),
            more_groups=max(0, given.candidates.num_rows - MOST_GROUPS),
            subsets=subsets,
            more_subsets=more_subsets,
            attributed=given.attributions.num_rows,
            shown=payload.shown,
            rows=payload.first,
            has_trajectory=given.trajectory is not None,
            quarantined=_quarantined(given.quarantine),
            style=Markup(_asset("report.css")),  # noqa: S704 - ours, not data
            script=Markup(script),  # noqa: S704 - ours, not data
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            payload=Markup(payload.text),  # noqa: S704 - made inert by inert_json
        )
    )
    return html.encode("utf-8", "replace").decode("utf-8")


def render_page(template: str, **values: object) -> str:
    """Another page of the same look, without a script; everything in ``values`` is shown as text.

    Args:
        template: Its file name in ``templates``.
        values: What it shows.
    """
    style = Markup(_asset("report.css"))  # noqa: S704 - ours, not data
    html: str = _environment().get_template(template).render(style=style, **values)
    return html.encode("utf-8", "replace").decode("utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ilp_service.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["clip"] = clip
    return environment


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _asset(name: str) -> str:
    # Read as a browser will hash it: with line feeds only.
    return files("ilp_service.report").joinpath("templates", name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _views(summary: Mapping[str, Any]) -> Mapping[str, int] | None:
    """The two views side by side, where any sample was measured in both."""
    views = summary.get("details", {}).get("views")
    return views if views and views.get("measured_by_both") else None


def _quarantined(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.slice(0, _QUARANTINED).to_pylist()
    return rows
