"""What a job may have: memory, and none of the service's secrets."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from ilp_service.service.configuration import ServiceSettings
from ilp_service.service.supervision import surroundings
from ilp_service.service.work import memory_limit
from tests.deploy.test_deploy_files import SECRETS


def test_memory_is_that_of_the_container_where_it_has_less(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    group = tmp_path / "memory.max"
    assert memory_limit(ServiceSettings(), group) == int(total * 0.8)
    group.write_text("max\n")
    assert memory_limit(ServiceSettings(workers=2), group) == int(total * 0.8) // 2
    group.write_text(f"{512 << 20}\n")
    assert memory_limit(ServiceSettings(), group) == int((512 << 20) * 0.8)
    group.write_text(f"{2 * total}\n")
    assert memory_limit(ServiceSettings(), group) == int(total * 0.8)
    assert memory_limit(ServiceSettings(memory_mb=300), group) == 300 << 20


def test_a_job_gets_no_secret_but_those_for_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {*SECRETS, "ILP_SERVICE_TOKEN_FILE", "ILP_SERVICE_DATABASE", "PGPASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD"}
    needed = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "ILP_SCORING__DEVICE", "AWS_ACCESS_KEY_ID"}
    for name in ours | needed:
        monkeypatch.setenv(name, "x")
    given = set(surroundings())
    assert not ours & given
    assert needed <= given
