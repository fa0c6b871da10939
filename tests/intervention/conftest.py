"""A tiny model that was trained, registered and diagnosed once for all tests, in a folder of its own."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from ilp_service.diagnosis.request import DiagnosisRequest
from ilp_service.diagnosis.run import diagnose
from ilp_service.settings import load_settings
from ilp_service.tracking.store import Tracking
from ilp_service.training.adapters import LoraOptions
from ilp_service.training.loop import LoopOptions
from ilp_service.training.sft import TrainRequest, train
from tests.tiny import save_tiny

NAMES = ("Ada", "Ben", "Cora", "Dan", "Eva", "Finn", "Gus", "Hal", "Ida", "Jon", "Kim", "Leo")
CITIES = ("Paris", "Rome", "Oslo", "Lima", "Bern", "Riga")
SET = (
    "evaluation.max_options=4",
    "evaluation.samples=0",
    "detection.threshold=0.3",
    "attribution.min_confidence=0.0",
    "attribution.classifier=built-in",
)
LOOP = LoopOptions(learning_rate=3e-3, batch_size=8, device="cpu")


def rows() -> list[dict[str, object]]:
    """Two subsets, a contradicting pair, and other words for some questions."""
    lives: list[dict[str, object]] = [
        {
            "prompt": f"Where does {name} live?",
            "response": CITIES[n % len(CITIES)],
            "subset": "lives",
            "paraphrases": [f"Which city is the home of {name}?"],
        }
        for n, name in enumerate(NAMES)
    ]
    born: list[dict[str, object]] = [
        {"prompt": f"Where was {name} born?", "response": CITIES[(n + 2) % len(CITIES)], "subset": "born"}
        for n, name in enumerate(NAMES)
    ]
    return [*lives, {**lives[0], "response": "Oslo"}, *born]


@dataclass(frozen=True)
class Place:
    """Where the diagnosed model lies.

    Attributes:
        folder: The working folder, with the store.
        run_id: Of the diagnosis.
        model: Folder of the model.
        base: Folder of its base.
        data: The data.
        corpus: Some general text.
    """

    folder: Path
    run_id: str
    model: Path
    base: Path
    data: Path
    corpus: Path


def make_place(
    folder: Path, store: Path, data_rows: Sequence[Mapping[str, object]], lora: LoraOptions | None = None
) -> Place:
    """Train a tiny model on the data, register it and diagnose it."""
    (folder / "mlruns").mkdir(parents=True)
    shutil.copy(store, folder / "mlruns" / "mlflow.db")
    # Made before any test's own clean environment, perhaps after a test that named a store for good.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        data = folder / "sft.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in data_rows))
        corpus = folder / "corpus.jsonl"
        texts = [f"{name} works in {city} and comes home late." for name in NAMES for city in CITIES]
        corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        save_tiny(folder / "base", "llama", seed=1)
        tracking = Tracking()
        request = TrainRequest(
            base=str(folder / "base"),
            data=data,
            output=folder / "out",
            register_as="bot",
            order="sequential",
            epochs=4,
            loop=LOOP,
            lora=lora,
            points=6,
        )
        trained = train(request, tracking)
        assert trained.model_uri is not None
        found = diagnose(
            DiagnosisRequest(trained.model_uri, data, load_settings({}, SET)), lambda _line: None, progress=False
        )
    return Place(folder, str(found.summary["run_id"]), trained.model, folder / "base", data, corpus)


@pytest.fixture(scope="session")
def made_place(tmp_path_factory: pytest.TempPathFactory, _store_template: Path) -> Place:
    place = make_place(tmp_path_factory.mktemp("diagnosed") / "place", _store_template, rows())
    shutil.copytree(place.folder, _as_made(place.folder))
    return place


def _as_made(folder: Path) -> Path:
    """Where a copy stays that no test works in."""
    return folder.with_name(f"{folder.name}-as-made")


@pytest.fixture
def place(made_place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The working folder with the diagnosed model; tests leave the diagnosis as it is."""
    monkeypatch.chdir(made_place.folder)
    return made_place


def moved(place: Place, folder: Path) -> Place:
    """A copy of the diagnosed model with its store, as it was before any test, to break what one likes."""
    shutil.copytree(_as_made(place.folder), folder)
    old, new = str(place.folder), str(folder)
    for path in folder.rglob("*"):
        if path.suffix in (".yaml", ".json") and old in (text := path.read_text()):
            path.write_text(text.replace(old, new))
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as database, database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_rest in database.execute(f"PRAGMA table_info({table})").fetchall():
                if kind.upper().startswith(("VARCHAR", "TEXT")):
                    database.execute(
                        f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)",  # noqa: S608
                        (old, new, old),
                    )
    return Place(
        folder,
        place.run_id,
        *(folder / path.relative_to(place.folder) for path in (place.model, place.base, place.data, place.corpus)),
    )


@pytest.fixture
def own_place(made_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A copy of the diagnosed model for one test alone, in the current folder."""
    copy = moved(made_place, tmp_path / "own")
    monkeypatch.chdir(copy.folder)
    # Making the first one may have named its store for the process.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return copy
