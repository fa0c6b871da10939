"""The reliability plot and the risk-coverage curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ilp_service.benchmark.metrics import COVERAGE, Verdicts, area_under_risk, calibration_error, reliability
from ilp_service.benchmark.metrics import risk_coverage as curve_of
from ilp_service.tables import atomic_path

_SIZE = (5.0, 4.0)
_DPI = 120


def plot_reliability(verdicts: Verdicts, path: Path) -> None:
    """Accuracy against confidence, ten bins, the number of samples at each; SVG or PNG by the name of the file.

    Raises:
        StorageError: The file could not be written.
    """
    figure, axes = _axes()
    bins = reliability(verdicts)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="calibrated")
    axes.plot([part.confidence for part in bins], [part.accuracy for part in bins], marker="o", color="#1f6f8b")
    for part in bins:
        axes.annotate(
            str(part.samples),
            (part.confidence, part.accuracy),
            textcoords="offset points",
            xytext=(0, -14),
            fontsize=8,
            ha="center",
        )
    axes.set(
        xlabel="confidence in the most probable cause (0-1)",
        ylabel="share of samples that have it (0-1)",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
        title=f"{len(verdicts)} samples, ECE {calibration_error(verdicts):.3f}",
    )
    axes.legend(frameon=False)
    _save(figure, path)


def plot_risk_coverage(methods: Mapping[str, Verdicts], path: Path) -> None:
    """Risk against coverage of several methods on the same samples.

    Raises:
        StorageError: The file could not be written.
    """
    figure, axes = _axes()
    for name, verdicts in methods.items():
        coverage, risk = curve_of(verdicts)
        axes.plot(coverage, risk, linewidth=1.5, label=f"{name}, AURC {area_under_risk(verdicts):.3f}")
    axes.axvline(COVERAGE, color="0.6", linewidth=1, linestyle="--")
    axes.set(
        xlabel="coverage: share of samples answered (0-1)",
        ylabel="risk: share of them not right (0-1)",
        xlim=(0, 1.02),
        ylim=(0, None),
    )
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _axes() -> tuple[Any, Any]:
    # The object interface: pyplot would keep figures and choose a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, path: Path) -> None:  # noqa: ANN401
    import matplotlib as mpl

    # No date and no random ids: the same samples give the same file.
    plain = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "ilp", "svg.fonttype": "none"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=_DPI, metadata=plain)
