"""Fits the built-in meta-classifier on ilp_service/attribution/signals.parquet; after every change of either."""

from __future__ import annotations

from pathlib import Path

from ilp_service.attribution.registration import write_builtin

write_builtin(Path(__file__).parents[1] / "ilp_service" / "attribution" / "builtin")
