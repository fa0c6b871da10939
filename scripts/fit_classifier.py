"""Fits the built-in meta-classifier on ilp_service/attribution/signals.parquet; after every change of either."""

from __future__ import annotations

from pathlib import Path

from ilp_service.attribution.builtin import write_fitted

write_fitted(Path(__file__).parents[1] / "ilp_service" / "attribution" / "builtin")
