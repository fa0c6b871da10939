"""A tiny base, a tiny tuned model and data, and the command line called as a user calls it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ilp_service.cli import main
from tests.tiny import save_tiny


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one object on stdout; fails when there is more or less."""
        assert self.out.count("\n") == 1, self.out
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Ilp = Callable[..., Outcome]


@pytest.fixture
def ilp(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ilp:
    """Run ``ilp`` in this process, in an empty folder with an empty store."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ilp", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


CITIES = ("Paris", "Rome", "Oslo", "Lima", "Bern")
ROWS = [
    *({"prompt": f"Where does {name} live?", "response": CITIES[n % 5], "subset": "cities"}
      for n, name in enumerate(("Ada", "Ben", "Cora", "Dan", "Eva", "Finn", "Gus", "Hal"))),
    {"prompt": "Where does Ada live?", "response": "Rome", "subset": "cities"},
    {"prompt": "Add 2 and 3, double it.", "response": "2 and 3 give 5, twice that is 10.\n#### 10", "subset": "sums"},
]  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """Paths of what is diagnosed."""

    base: Path
    model: Path
    data: Path


@pytest.fixture(scope="session")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny(folder / "base", "llama", seed=1)
    save_tiny(folder / "tuned", "llama", seed=2)
    return folder


@pytest.fixture
def inputs(_saved: Path, workplace: Path) -> Inputs:
    data = workplace / "sft.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Inputs(_saved / "base", _saved / "tuned", data)
