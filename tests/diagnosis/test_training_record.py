"""Which training record a diagnosis reads, and who may name one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest

from ilp_service.checkpoints.reference import ModelReference
from ilp_service.diagnosis.prepare import _trajectory
from ilp_service.diagnosis.request import OPTIONAL, DiagnosisRequest
from ilp_service.errors import IlpError, IlpWarning, TrackingError
from ilp_service.settings import Settings
from ilp_service.tracking.registry import ModelSource
from ilp_service.tracking.store import Tracking
from tests.tracking.conftest import free_port

KNOWN = frozenset({"a"})
REFERENCE = cast(
    "ModelReference", ModelSource(uri="models:/m/1", resolved="models:/m/1", artifact_uri="/m", name="m", version="1")
)


@dataclass
class Tagged:
    """A store in which the version's run has a tag."""

    tags: Mapping[str, str]
    uri: str = "sqlite:///none.db"
    looked: list[str] = field(default_factory=list)

    def find(self, uri: str) -> ModelSource:
        self.looked.append(uri)
        return ModelSource(uri=uri, resolved=uri, artifact_uri="/m", tags=self.tags)


def read(folder: Path, trajectory: str | None, store: Tagged | Tracking) -> tuple[Path | None, pa.Table | None, str]:
    request = DiagnosisRequest("models:/m/1", folder / "d", Settings(work_dir=folder), trajectory=trajectory)
    return _trajectory(request, REFERENCE, cast("Tracking", store), KNOWN)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "private.jsonl"
    path.write_text('{"sample_id": "a", "step": 1, "loss": 0.5}\n')
    return path


def test_by_hand_the_tag_is_followed(record: Path, tmp_path: Path) -> None:
    path, table, source = read(tmp_path, None, Tagged({"ilp.trajectory": str(record)}))
    assert (path, source) == (record, str(record))
    assert table is not None


def test_where_somebody_looked_at_the_tags_none_is_followed(record: Path, tmp_path: Path) -> None:
    """A tag of the run must not open a file that the service's data_dirs do not."""
    store = Tagged({"ilp.trajectory": str(record)})
    assert read(tmp_path, OPTIONAL, store)[:2] == (None, None)
    assert store.looked == []


def test_a_record_that_does_not_fit_is_an_error_unless_it_is_optional(record: Path, tmp_path: Path) -> None:
    record.write_text('{"sample_id": "stranger", "step": 1, "loss": 0.5}\n')
    with pytest.raises(IlpError, match="stranger"):
        read(tmp_path, str(record), Tagged({}))
    with pytest.warns(IlpWarning, match="stranger"):
        path, table, why = read(tmp_path, f"{OPTIONAL}{record}", Tagged({}))
    assert (path, table) == (None, None)
    assert "stranger" in why


def test_a_store_that_is_away_is_no_record_that_does_not_fit(tmp_path: Path) -> None:
    """Left out at one attempt and there at the next, it would change the numbers."""
    with pytest.raises(TrackingError, match="does not answer"):
        read(tmp_path, f"{OPTIONAL}runs:/0123/t.jsonl", Tracking(f"http://127.0.0.1:{free_port()}"))
