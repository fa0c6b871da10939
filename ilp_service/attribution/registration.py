"""Putting a classifier with its card into a tracking store, as a logged model and as a registered version."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.attribution.builtin import SEED, SIGNALS
from ilp_service.attribution.card import card, provenance
from ilp_service.attribution.chosen import ChosenClassifier
from ilp_service.attribution.estimator import TRUSTED_TYPES
from ilp_service.attribution.meta import KEYS, MetaClassifier, train_meta
from ilp_service.attribution.outcomes import Outcomes
from ilp_service.attribution.stored import CARD, ESTIMATOR, FACTS, SignalsFacts, facts_of, middle, restore
from ilp_service.errors import DataFormatError, DataNotFoundError
from ilp_service.samples.reading import file_digest
from ilp_service.tracking.classifier import register_classifier
from ilp_service.tracking.registry import ModelSource
from ilp_service.tracking.run import Run
from ilp_service.tracking.store import Tracking

BUILT_IN_NAME = "meta-classifier"
"""Of the logged model that a run keeps of the classifier it used."""


@dataclass(frozen=True, slots=True)
class Signals:
    """A table of signals with the facts about its file."""

    table: pa.Table
    facts: SignalsFacts


def read_signals(path: Path | None) -> Signals:
    """A table of signals; without a path the one that comes with the package.

    Raises:
        DataNotFoundError: There is no such file.
        DataFormatError: It is no parquet file, or not a table of signals.
    """
    if path is None:
        with as_file(SIGNALS) as built_in:
            return read_signals(built_in)
    if not path.is_file():
        raise DataNotFoundError(f"There is no table of signals {path}; make one with 'ilp benchmark table'.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataFormatError(f"{path} cannot be read ({error}); expected a parquet file of signals.") from error
    missing = [name for name in KEYS if name not in table.column_names]
    if missing:
        raise DataFormatError(f"{path} has no column {missing[0]!r}; expected {', '.join(KEYS)} and signals.")
    for name in KEYS:
        kind = table.schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataFormatError(f"{path} has {kind} in column {name!r}; expected text.")
    return Signals(table, SignalsFacts(file_digest(path), table.num_rows, provenance(table)))


def read_card(path: Path) -> str:
    """A markdown file.

    Raises:
        DataNotFoundError: It cannot be read.
        DataFormatError: It is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataNotFoundError(f"{path} cannot be read ({error.strerror}); expected a markdown file.") from error
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{path} is not UTF-8 text; expected a markdown file.") from error


def description(chosen: ChosenClassifier) -> dict[str, Any]:
    """What ``ilp classifier show`` tells about a classifier, without loading the built-in one."""
    if chosen.stored is None:
        if not SIGNALS.is_file():
            return {"rows": 0, "worlds": []}
        signals = read_signals(None).facts
        return {"rows": signals.rows, "worlds": sorted(signals.provenance.get("worlds", {}))}
    stored = chosen.stored
    return {
        "rows": stored.facts["signals"].get("rows"),
        "worlds": sorted(stored.facts["signals"].get("provenance", {}).get("worlds", {})),
        "causes": list(stored.meta.causes),
        "features": len(stored.meta.features),
        "seed": stored.facts.get("seed"),
        "made_with": stored.facts.get("ilp_service"),
        **{f"outcome_{name}": stored.facts.get("outcomes", {}).get(name, 0) for name in ("rows", "weight")},
    }


def train(signals: Signals, seed: int, outcomes: Outcomes | None = None) -> MetaClassifier:
    """Fit the classifier, with outcomes of interventions beside the table where there are any.

    Raises:
        DataFormatError: The table is not one of signals, or has too few causes or worlds.
    """
    try:
        return train_meta(signals.table, seed, outcomes)
    except ValueError as error:
        raise DataFormatError(f"No classifier can be trained: {error}.") from error


def log_classifier(run: Run, meta: MetaClassifier, facts: Mapping[str, Any], text: str) -> str:
    """Log a classifier with its facts and its card; returns the URI of the logged model, ``models:/m-…``."""
    with tempfile.TemporaryDirectory(prefix="ilp-") as name:
        folder = Path(name)
        (folder / FACTS).write_text(json.dumps(facts, allow_nan=False), encoding="utf-8")
        (folder / CARD).write_text(text, encoding="utf-8")
        files = [folder / FACTS, folder / CARD]
        return run.log_sklearn(meta.estimator, BUILT_IN_NAME, meta.frame(middle(meta)), TRUSTED_TYPES, files)


def log_builtin(run: Run, meta: MetaClassifier) -> str:
    """Log the built-in classifier, so that it can be looked at and named in ``attribution.classifier``."""
    if not SIGNALS.is_file():
        return run.log_sklearn(meta.estimator, BUILT_IN_NAME, meta.frame(middle(meta)), TRUSTED_TYPES)
    signals = read_signals(None)
    return log_classifier(run, meta, facts_of(meta, signals.facts, SEED), card(signals.table))


def write_builtin(folder: Path) -> None:
    """Fit the built-in classifier and write it down, as :func:`ilp_service.attribution.builtin.shipped` reads it."""
    import skops.io

    signals = read_signals(None)
    meta = train(signals, SEED)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts_of(meta, signals.facts, SEED), allow_nan=False)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")
    skops.io.dump(meta.estimator, folder / ESTIMATOR, compression=zipfile.ZIP_DEFLATED, compresslevel=9)


def register(
    tracking: Tracking,
    signals: Signals,
    *,
    seed: int,
    text: str,
    downloads: Path,
    metrics: Mapping[str, float],
    outcomes: Outcomes | None = None,
) -> ModelSource:
    """Train a classifier, log it and register it, once it has been read back to the same probabilities.

    Args:
        tracking: The store.
        signals: What it is trained from.
        seed: Of the training.
        text: Its card, markdown.
        downloads: Folder for the copy that is read back from a store that is not on this machine.
        metrics: Scores to record with the run.
        outcomes: Rows of interventions that it is trained from besides.

    Raises:
        DataFormatError: The table cannot be trained from.
        SourceUnreadableError: What was logged does not read back to the same probabilities.
        TrackingError: The store is down or refuses.
    """
    meta = train(signals, seed, outcomes)
    learned = outcomes.facts(signals.table) if outcomes else None
    with tracking.run("register the meta-classifier", {"ilp.kind": "classifier"}) as run:
        run.log_params({"seed": seed, "signals_digest": signals.facts.digest, "rows": signals.facts.rows,
                        "causes": ", ".join(meta.causes), "features": len(meta.features)})  # fmt: skip
        if learned:
            run.log_params({"outcome_rows": learned["rows"], "outcome_weight": learned["weight"]})
        run.log_metrics(metrics)
        uri = log_classifier(run, meta, facts_of(meta, signals.facts, seed, learned), text)
        stored = restore(tracking.fetch(tracking.find(uri), downloads))
        tags = {"ilp.signals_digest": signals.facts.digest, "ilp.digest": stored.digest, "ilp.run_id": run.run_id}
        if learned:
            tags["ilp.outcomes_digest"] = learned["digest"]
        return register_classifier(run, uri, description=text, tags=tags)
