"""A tiny model that was trained, registered and diagnosed once for all tests, in a folder of its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from ilp_service.diagnosis.request import DiagnosisRequest
from ilp_service.diagnosis.run import diagnose
from ilp_service.settings import load_settings
from ilp_service.tracking.store import Tracking
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


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory, _store_template: Path) -> Place:
    folder = tmp_path_factory.mktemp("diagnosed")
    (folder / "mlruns").mkdir()
    shutil.copy(_store_template, folder / "mlruns" / "mlflow.db")
    # Made before any test's own clean environment, perhaps after a test that named a store for good.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        data = folder / "sft.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
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
            points=6,
        )
        trained = train(request, tracking)
        assert trained.model_uri is not None
        found = diagnose(
            DiagnosisRequest(trained.model_uri, data, load_settings({}, SET)), lambda _line: None, progress=False
        )
    return Place(folder, str(found.summary["run_id"]), trained.model, folder / "base", data, corpus)


@pytest.fixture
def place(_made: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The working folder with the diagnosed model; tests leave the diagnosis as it is."""
    monkeypatch.chdir(_made.folder)
    return _made
