"""Keeps what was said of a family's worlds under the digest of all that could change it."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import ilp_service
from ilp_service.benchmark.crossing import Examined, Fold, Keep
from ilp_service.benchmark.label_quality import installed
from ilp_service.plugin import Cause
from ilp_service.settings import Settings
from ilp_service.stages import stage
from ilp_service.tables import write_table

_LIBRARIES = ("numpy", "scikit-learn")
"""What the classifiers are made with; another release may say something else."""

_CODE = ("attribution", "evidence", "benchmark")
"""Parts of the package that decide what is said, the shipped table of signals included."""


def kept_in(folder: Path, causes: Sequence[Cause], settings: Settings, seed: int) -> Keep:
    """Keeps folds in a folder; one is computed anew when evidence, labels, code, settings or seed changed."""
    code = _code(causes)

    def keep(family: str, others: Sequence[Examined], worlds: Sequence[Examined], compute: Callable[[], Fold]) -> Fold:
        digest = hashlib.sha256(code + repr((seed, installed(), settings.attribution.model_dump())).encode())
        for role, group in (("train", others), ("held out", worlds)):
            for world in group:
                digest.update(f"{role} {world.findings.built.name}".encode())
                for part in _parts(world):
                    digest.update(hashlib.sha256(part).digest())
        place = folder / family
        with stage(place, digest.hexdigest()) as partial:
            if partial is not None:
                _write(compute(), partial)
        return _read(place)

    return keep


def _code(causes: Sequence[Cause]) -> bytes:
    """A digest of everything that is run, plugins included."""
    package = Path(ilp_service.__file__).parent
    files = [path for part in _CODE for path in sorted((package / part).iterdir()) if path.is_file()]
    # A plugin's helpers lie beside it.
    folders = {Path(inspect.getfile(type(cause))).parent for cause in causes}
    files += [path for folder in sorted(folders) for path in sorted(folder.glob("*.py"))]
    digest = hashlib.sha256(repr([(name, version(name)) for name in _LIBRARIES]).encode())
    for path in files:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()


def _parts(world: Examined) -> Iterator[bytes]:
    """Everything of a world that a method looks at."""
    findings = world.findings
    study, evidence = findings.study, findings.evidence
    measured = (study.evaluation, study.options, study.neighbours, study.rendering, study.trajectory)
    for table in (world.labels, findings.truth, evidence.table, *measured):
        # Which of them is lacking counts too.
        yield b"" if table is None else b"a table"
        if table is not None:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table.combine_chunks())
            yield sink.getvalue().to_pybytes()
    for arrays in (evidence.rules, evidence.excluded):
        for name, values in sorted(arrays.items()):
            yield name.encode() + (b"" if values is None else np.ascontiguousarray(values).tobytes())
    yield repr((sorted(evidence.status.items()), study.unlearned, study.has_base, study.file_rows)).encode()
    yield repr(sorted(study.settings.items())).encode()
    for sample in study.samples:
        yield repr(sample).encode()


def _write(fold: Fold, folder: Path) -> None:
    for method, table in fold.predictions.items():
        write_table(table, folder / f"{method}.parquet")
    rest = {
        "methods": list(fold.predictions),
        "trained_on": fold.trained_on,
        "unmeasured": fold.unmeasured,
        "unknown": fold.unknown,
    }
    (folder / "fold.json").write_text(json.dumps(rest))


def _read(folder: Path) -> Fold:
    rest = json.loads((folder / "fold.json").read_text())
    return Fold(
        tuple(rest["trained_on"]),
        {method: pq.read_table(folder / f"{method}.parquet") for method in rest["methods"]},
        {name: tuple(causes) for name, causes in rest["unmeasured"].items()},
        rest["unknown"],
    )
