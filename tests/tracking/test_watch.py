"""Ending runs for processes that could not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ilp_service.errors import ModelNotFoundError
from ilp_service.tracking import Tracking, watch


def test_a_run_is_ended_once_and_a_deleted_one_is_gone(workplace: Path) -> None:
    tracking = Tracking()
    client = tracking.client()
    first, second = (client.create_run(tracking.experiment_id()).info.run_id for _ in range(2))
    watch.end_run(tracking, first, "KILLED", {"ilp.status": "cancelled"})
    watch.end_run(tracking, first, "FAILED", {})
    run = client.get_run(first)
    assert (run.info.status, run.data.tags["ilp.status"]) == ("KILLED", "cancelled")
    client.delete_run(second)
    for gone in (second, "0" * 32):
        with pytest.raises(ModelNotFoundError):
            watch.end_run(tracking, gone, "KILLED", {"ilp.status": "cancelled"})
