"""The tables of an experiment; unit, direction and meaning of every column are in its field's metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ilp_service.intervention.arms import Arm
from ilp_service.intervention.effects import ArmEffect, Cell, Effects
from ilp_service.intervention.estimates import Estimate
from ilp_service.intervention.runs import Runs
from ilp_service.tables import write_table

BETTER, WORSE = "+", "-"
"""Whether a higher value of a column is the better or the worse one."""

_RATE = "0-1"
_DIFFERENCE = "-1 to 1"


def _field(name: str, kind: pa.DataType, meaning: str, unit: str = "", direction: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "direction": direction, "meaning": meaning})


def _estimate_fields(prefix: str, whom: str, direction: str = BETTER, what: str = "learned") -> list[pa.Field]:
    real, whole = pa.float64(), pa.int64()
    return [
        _field(f"{prefix}samples", whole, f"{whom} that were measured in every run that is compared", "count"),
        _field(f"{prefix}share", real, f"share of them that is {what}, mean over seeds", _RATE, direction),
        _field(f"{prefix}placebo", real, "the same under the placebo", _RATE, direction),
        _field(f"{prefix}effect", real, "share minus placebo", _DIFFERENCE, direction),
        _field(f"{prefix}low", real, "lower end of the 95 % interval of the effect", _DIFFERENCE, direction),
        _field(f"{prefix}high", real, "upper end of it", _DIFFERENCE, direction),
    ]


def _estimate_values(prefix: str, found: Estimate | None) -> dict[str, Any]:
    names = ("samples", "share", "placebo", "effect", "low", "high")
    return {f"{prefix}{name}": None if found is None else getattr(found, name) for name in names}


EFFECTS = pa.schema(
    [
        _field("arm", pa.string(), "the remedy"),
        _field("cause", pa.string(), "attributed cause of the samples, or unattributed"),
        _field("own", pa.bool_(), "whether the remedy is for this cause"),
        *_estimate_fields("", "unlearned samples of the cause (of its own cause those that the remedy treats)"),
        _field("questions", pa.int64(), "different questions among them; what the interval draws", "count"),
        _field("seeds", pa.int64(), "seeds under which the remedy and its placebo ended well", "count"),
        _field("p_value", pa.float64(), "of the exact paired sign-flip test, two-sided", _RATE, WORSE),
        _field("q_value", pa.float64(), "of it, corrected over the table (Benjamini and Hochberg)", _RATE, WORSE),
        _field("note", pa.string(), "what the interval lacks, or why there is none; empty otherwise"),
        _field("withdrawn", pa.int64(), "samples of the cause that the remedy removes or corrects", "count"),
        *_estimate_fields("attributed_", "unlearned samples of the cause, treated or not,"),
        *_estimate_fields("refused_", "unlearned samples of its own cause that it does not treat; null for others:"),
        _field("paraphrase_before", pa.float64(), "share right before when asked otherwise", _RATE, BETTER),
        *_estimate_fields("paraphrase_", "the same samples, asked otherwise,", what="right"),
        _field("cloze_before", pa.float64(), "share right before as a completed statement", _RATE, BETTER),
        *_estimate_fields("cloze_", "the same samples, as a completed statement,", what="right"),
    ]
)
"""``effects.parquet``: one row a remedy and a cause."""

ARMS = pa.schema(
    [
        _field("arm", pa.string(), "its name"),
        _field("kind", pa.string(), "remedy, placebo or reference"),
        _field("causes", pa.list_(pa.string()), "what it is a remedy for"),
        _field("treated", pa.int64(), "samples that it treats", "count"),
        _field("placebo_arm", pa.string(), "the arm that it is compared with"),
        _field("seeds", pa.list_(pa.int64()), "seeds under which it ended well"),
        _field(
            "diverged",
            pa.list_(pa.struct([("seed", pa.int64()), ("reason", pa.string())])),
            "the other seeds, and why",
        ),
        *_estimate_fields("controls_", "unlearned samples that were attributed to other causes; null for others:"),
        *_estimate_fields("damage_", "samples that were learned before", WORSE, "unlearned now"),
        _field("general_loss", pa.float64(), "held-out loss on general text, mean over seeds", "nats a token", WORSE),
        _field("general_loss_change", pa.float64(), "of it, from the diagnosed model", "nats a token", WORSE),
        _field("general_loss_effect", pa.float64(), "of it, from the placebo", "nats a token", WORSE),
        _field("general_loss_low", pa.float64(), "smallest such difference of any seed", "nats a token", WORSE),
        _field("general_loss_high", pa.float64(), "largest", "nats a token", WORSE),
        _field("training_tokens", pa.float64(), "tokens through the model in one training", "tokens", WORSE),
        _field("continued_tokens", pa.float64(), "those of them in continued pre-training", "tokens", WORSE),
        _field("steps", pa.float64(), "optimizer steps of one training", "steps", WORSE),
        _field("seconds", pa.float64(), "wall-clock time of one training", "s", WORSE),
        _field("peak_memory_bytes", pa.int64(), "most memory held while training", "bytes", WORSE),
        _field("documents", pa.int64(), "documents received for its plan", "count", WORSE),
        _field("judgements", pa.int64(), "pairs judged for its plan", "count", WORSE),
        _field("price", pa.float64(), "of tokens, documents and judgements", "prices of the settings", WORSE),
        _field(
            "extra_price",
            pa.float64(),
            "of what its plan may add at most to doing the diagnosed training again",
            "prices of the settings",
            WORSE,
        ),
        _field("recovered", pa.float64(), "treated samples learned beyond those under the placebo", "count", BETTER),
        _field("price_per_recovered", pa.float64(), "price by recovered", "prices of the settings", WORSE),
        _field("extra_price_per_recovered", pa.float64(), "extra_price by recovered", "prices of the settings", WORSE),
    ]
)
"""``arms.parquet``: one row an arm."""

RECOVERIES = pa.schema(
    [
        _field("arm", pa.string(), "the arm"),
        _field("kind", pa.string(), "remedy, placebo or reference"),
        _field("seed", pa.int64(), "of the fine-tuning"),
        _field("sample_id", pa.string(), "the sample"),
        _field("cause", pa.string(), "its attributed cause or unattributed; null where none was asked for"),
        _field("treated", pa.bool_(), "whether the arm treats it"),
        _field("p_before", pa.float64(), "pass rate of the diagnosed model on the trained prompt", _RATE, BETTER),
        _field("p_correct", pa.float64(), "pass rate on the trained prompt", _RATE, BETTER),
        _field("unlearned", pa.bool_(), "by the criterion of the diagnosis", "", WORSE),
        _field("p_paraphrase", pa.float64(), "pass rate when asked otherwise, or null", _RATE, BETTER),
        _field("p_cloze", pa.float64(), "pass rate as a completed statement, or null", _RATE, BETTER),
        _field(
            "status",
            pa.string(),
            "recovered, unlearned (still), kept (learned before and after), lost (learned before), withdrawn (the arm "
            "removes or corrects it) or not measured (held out from its training, among others)",
        ),
    ]
)
"""``recoveries.parquet``: one row an arm, a seed and a sample."""

VERDICTS = pa.schema(
    [
        _field("sample_id", pa.string(), "the attributed sample"),
        _field("attributed", pa.string(), "cause that the diagnosis gave it, or unattributed"),
        _field("verdict", pa.string(), "proved, several, not recovered, placebo, withdrawn, learned or not measured"),
        _field("proved", pa.list_(pa.string()), "causes whose remedy recovers it while no placebo does"),
        _field("confirmed", pa.bool_(), "whether the attributed cause is among them; null where nothing is proved"),
        _field("seeds", pa.int64(), "fewest seeds of a remedy that proves something; 0 where nothing is", "count"),
        _field(
            "recovered_by",
            pa.list_(pa.struct([("arm", pa.string()), ("share", pa.float64())])),
            "remedies that make it learned, and under which share of their seeds",
        ),
    ]
)
"""``verdicts.parquet``: one row an attributed sample."""


def effects_table(effects: Effects) -> pa.Table:
    """One row a remedy and a cause (:data:`EFFECTS`)."""
    return pa.Table.from_pylist([_cell(cell) for cell in effects.cells], schema=EFFECTS)


def arms_table(effects: Effects) -> pa.Table:
    """One row an arm (:data:`ARMS`)."""
    return pa.Table.from_pylist([_arm(arm) for arm in effects.arms], schema=ARMS)


def verdicts_table(effects: Effects) -> pa.Table:
    """One row an attributed sample (:data:`VERDICTS`)."""
    rows = [
        {
            "sample_id": one.sample_id,
            "attributed": one.attributed,
            "verdict": one.verdict,
            "proved": list(one.proved),
            "confirmed": one.confirmed,
            "seeds": one.seeds,
            "recovered_by": [{"arm": arm, "share": share} for arm, share in sorted(one.recovered_by.items())],
        }
        for one in effects.verdicts
    ]
    return pa.Table.from_pylist(rows, schema=VERDICTS)


def recoveries_table(effects: Effects) -> pa.Table:
    """One row an arm, a seed and a sample (:data:`RECOVERIES`); runs that diverged have none."""
    runs = effects.runs
    parts = [
        _recoveries(runs, arm, seed) for arm in sorted(runs.arms.values(), key=_name) for seed in runs.done[arm.name]
    ]
    return pa.concat_tables(parts).combine_chunks() if parts else RECOVERIES.empty_table()


TABLES: dict[str, Callable[[Effects], pa.Table]] = {
    "effects": effects_table,
    "arms": arms_table,
    "recoveries": recoveries_table,
    "verdicts": verdicts_table,
}


def write_tables(effects: Effects, folder: Path) -> Sequence[Path]:
    """Write ``effects``, ``arms``, ``recoveries`` and ``verdicts.parquet``, each whole or not at all.

    Raises:
        StorageError: A file could not be written.
    """
    paths = []
    for name, table in TABLES.items():
        path = folder / f"{name}.parquet"
        write_table(table(effects), path)
        paths.append(path)
    return paths


def _name(arm: Arm) -> str:
    return arm.name


def _cell(cell: Cell) -> dict[str, Any]:
    found = cell.recovery
    return {
        **{name: getattr(cell, name) for name in ("arm", "cause", "own", "withdrawn", "q_value")},
        **{name: getattr(found, name) for name in ("questions", "seeds", "p_value", "note")},
        **_estimate_values("", found),
        **_estimate_values("attributed_", cell.attributed),
        **_estimate_values("refused_", cell.refused),
        "paraphrase_before": cell.paraphrase.before,
        **_estimate_values("paraphrase_", cell.paraphrase.estimate),
        "cloze_before": cell.cloze.before,
        **_estimate_values("cloze_", cell.cloze.estimate),
    }


def _arm(arm: ArmEffect) -> dict[str, Any]:
    spent = {field.name: getattr(arm.spent, field.name, None) for field in ARMS if field.name in _SPENT}
    loss = {f"general_loss_{name}": getattr(arm.loss, name, None) for name in ("change", "effect", "low", "high")}
    return {
        **{name: getattr(arm, name) for name in ("arm", "kind", "treated")},
        "causes": list(arm.causes),
        "placebo_arm": arm.placebo,
        "seeds": list(arm.seeds),
        "diverged": [{"seed": seed, "reason": reason} for seed, reason in arm.diverged.items()],
        **_estimate_values("controls_", arm.controls),
        **_estimate_values("damage_", arm.damage),
        "general_loss": getattr(arm.loss, "after", None),
        **loss,
        **spent,
    }


_SPENT = frozenset(ARMS.names[ARMS.names.index("training_tokens") :])


def _recoveries(runs: Runs, arm: Arm, seed: int) -> pa.Table:
    """Made by columns: there may be millions of rows."""
    count = len(runs.ids)
    measured = runs.done[arm.name][seed].measured
    after = runs.after("unlearned", arm.name, (seed,))[:, 0]
    before = runs.unlearned
    status = np.select(
        [runs.withdrawn(arm), np.isnan(after), before & (after == 0), before, after == 0],
        ["withdrawn", "not measured", "recovered", "unlearned", "kept"],
        "lost",
    )
    columns = {
        "arm": pa.array([arm.name]).take(pa.array(np.zeros(count, dtype=np.int64))),
        "kind": pa.array([arm.kind]).take(pa.array(np.zeros(count, dtype=np.int64))),
        "seed": pa.array(np.full(count, seed)),
        "sample_id": pa.array(runs.ids, pa.string()),
        "cause": pa.array(runs.cause, pa.string(), mask=runs.cause == ""),
        "treated": pa.array(runs.where(key for keys in arm.treats.values() for key in keys)),
        "p_before": runs.original["p_correct"].combine_chunks(),
        **{name: measured[name].combine_chunks() for name in ("p_correct", "unlearned", "p_paraphrase", "p_cloze")},
        "status": pa.array(status, pa.string()),
    }
    return pa.table([columns[field.name] for field in RECOVERIES], schema=RECOVERIES)
