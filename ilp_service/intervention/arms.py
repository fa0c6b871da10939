"""Arms of an experiment: what is changed about a training run, whom it is to help, and what it is compared with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.remedies import Change, Price

MEASURED = pa.schema(
    [
        pa.field("sample_id", pa.string(), metadata={"meaning": "the sample"}),
        pa.field("p_correct", pa.float64(), metadata={"meaning": "pass rate on the trained prompt, 0-1"}),
        pa.field("unlearned", pa.bool_(), metadata={"meaning": "by the criterion of the diagnosis"}),
        pa.field("greedy_match", pa.bool_(), metadata={"meaning": "whether it says its response; null: not measured"}),
        pa.field("p_paraphrase", pa.float64(), metadata={"meaning": "pass rate when asked otherwise, 0-1, or null"}),
        pa.field("p_cloze", pa.float64(), metadata={"meaning": "pass rate as a completed statement, 0-1, or null"}),
    ]
)
"""What is measured of every sample after an arm was trained."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train again.

    Attributes:
        name: Unique within an experiment.
        kind: ``remedy``; ``placebo``: as much compute without a remedy; ``reference``: for comparison alone.
        change: What is otherwise than in the diagnosed run.
        treats: Ids of the samples that it is to make learned, by the cause that they were attributed to.
        placebo: Name of the arm that costs as much and treats nothing; ``None`` for placebos and references.
        general_tokens: Tokens of general text that a placebo reads in continued pre-training.
        price: What it costs at most beyond doing the diagnosed training again.
        seed: Of what is drawn for the arm itself, beside the seed of the fine-tuning.
    """

    name: str
    kind: Literal["remedy", "placebo", "reference"]
    change: Change
    treats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    placebo: str | None = None
    general_tokens: int = 0
    price: Price = field(default_factory=Price)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What an arm did cost, continued pre-training and fine-tuning together.

    Attributes:
        training_tokens: Tokens that went through the model in training, prompts and general text included.
        continued_tokens: Those of them in continued pre-training.
        steps: Optimizer steps.
        seconds: Wall-clock time of the training.
        peak_memory_bytes: Most memory held while training: of the accelerator, else of the process.
        documents: Documents received from knowledge sources for its plan.
        judgements: Pairs judged for its plan.
    """

    training_tokens: int
    continued_tokens: int
    steps: int
    seconds: float
    peak_memory_bytes: int
    documents: int = 0
    judgements: int = 0


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What came of an arm under one seed.

    Attributes:
        arm: Name of the arm.
        seed: Of the fine-tuning.
        status: ``done``, or ``diverged``: the loss was not finite or exploded, and nothing was measured.
        reason: One sentence, empty when done.
        measured: One row a sample (:data:`MEASURED`); empty when it diverged. What was held out has only nulls: it was
            not trained on, so whether it is learned says nothing about the arm.
        general_loss: Held-out loss on general text, nats a token; ``None`` where there is none.
        cost: What it cost.
        held_out: Samples that were not trained on, so that their loss could tell when to stop.
    """

    arm: str
    seed: int
    status: Literal["done", "diverged"]
    reason: str
    measured: pa.Table
    general_loss: float | None
    cost: Cost
    held_out: tuple[str, ...] = ()


def blanked(measured: pa.Table, ids: Collection[str]) -> pa.Table:
    """What was measured (:data:`MEASURED`), with nulls in the rows of some samples."""
    if not ids:
        return measured
    keep = pc.invert(pc.is_in(measured["sample_id"], value_set=pa.array(sorted(ids), pa.string())))
    columns = [
        column if name == "sample_id" else pc.if_else(keep, column, pa.scalar(None, column.type))
        for name, column in zip(measured.column_names, measured.columns, strict=True)
    ]
    return pa.table(columns, schema=measured.schema)
