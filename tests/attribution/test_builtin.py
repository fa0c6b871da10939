"""The classifier that comes with the package: what its table gives, loaded; fitted anew where that would be another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ilp_service.attribution import builtin, registration
from ilp_service.attribution.builtin import FITTED, SIGNALS, builtin_meta, shipped
from ilp_service.attribution.meta import MetaClassifier, train_meta
from ilp_service.attribution.registration import write_builtin
from ilp_service.attribution.stored import ESTIMATOR, FACTS
from ilp_service.errors import IlpWarning
from tests.attribution.tables import signals_table


def test_what_is_shipped_is_what_its_table_gives() -> None:
    stored = shipped()
    assert stored is not None, "python scripts/fit_classifier.py fits the built-in classifier anew"
    table = pq.read_table(str(SIGNALS))
    anew = train_meta(table, builtin.SEED)
    assert (stored.meta.causes, stored.meta.features) == (anew.causes, anew.features)
    for name in ("low", "high", "known", "sides", "most_weakness"):
        np.testing.assert_allclose(getattr(stored.meta, name), getattr(anew, name), rtol=1e-6)
    # Another processor adds up otherwise, and may split a tree elsewhere.
    kept, found = stored.meta.predict_proba(table), anew.predict_proba(table)
    assert np.abs(kept - found).mean() < 1e-3, "python scripts/fit_classifier.py fits the built-in classifier anew"
    assert (kept.argmax(axis=1) == found.argmax(axis=1)).mean() > 0.99


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what is shipped, to be spoiled."""
    copy = tmp_path / "builtin"
    shutil.copytree(str(FITTED), copy)
    monkeypatch.setattr(builtin, "FITTED", copy)
    assert shipped() is not None
    return copy


def _facts(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        facts = json.loads((folder / FACTS).read_text())
        change(facts)
        (folder / FACTS).write_text(json.dumps(facts))

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(_facts(lambda facts: facts["libraries"].update({"scikit-learn": "1.0"})), id="other library"),
        pytest.param(_facts(lambda facts: facts["signals"].update(digest="0")), id="other table"),
        pytest.param(_facts(lambda facts: facts["check"]["array"].__setitem__(0, 0.5)), id="other answers"),
        pytest.param(lambda folder: (folder / ESTIMATOR).unlink(), id="no estimator"),
        pytest.param(lambda folder: (folder / ESTIMATOR).write_bytes(b"PK"), id="damaged estimator"),
        pytest.param(lambda folder: (folder / FACTS).write_text("{"), id="damaged facts"),
    ],
)
def test_it_is_fitted_anew_where_what_is_shipped_would_be_another(
    spoil: Callable[[Path], None], folder: Path, meta: MetaClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(folder)
    monkeypatch.setattr(builtin, "train_meta", lambda _table, _seed: meta)
    assert shipped() is None
    assert builtin_meta.__wrapped__() is meta


def test_what_is_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "signals.parquet"
    table = signals_table()
    pq.write_table(table, path)
    for module in (builtin, registration):
        monkeypatch.setattr(module, "SIGNALS", path)
    monkeypatch.setattr(builtin, "FITTED", tmp_path / "builtin")
    monkeypatch.setattr(builtin, "signals_digest", builtin.signals_digest.__wrapped__)
    write_builtin(tmp_path / "builtin")
    monkeypatch.setattr(builtin, "train_meta", None)
    found, wanted = builtin_meta.__wrapped__(), train_meta(table, builtin.SEED)
    assert repr(found.predict_proba(table).tolist()) == repr(wanted.predict_proba(table).tolist())


def test_without_the_table_the_rules_stand_in_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "SIGNALS", tmp_path / "nowhere.parquet")
    monkeypatch.setattr(builtin, "signals_digest", builtin.signals_digest.__wrapped__)
    with pytest.warns(IlpWarning, match="every cause's own rule stands in"):
        assert builtin_meta.__wrapped__().causes == ()
