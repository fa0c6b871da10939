"""Exposures and trained tokens as a user's own Trainer run makes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from ilp_service.errors import IlpWarning
from ilp_service.samples.reading import read_samples
from ilp_service.samples.rendering import Renderer
from ilp_service.settings import DataSettings
from ilp_service.training.rows import IGNORED
from ilp_service.training.trajectory import TrajectoryCallback, read_trajectory, trajectory_facts
from tests.tiny import tiny_tokenizer
from tests.training.small import questions, small_model, write_rows

TOKENIZER = tiny_tokenizer()
Row = dict[str, list[int]]


def pad_right(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    return _pad(rows, left=False)


def pad_left(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    return _pad(rows, left=True)


def no_mask(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    batch = _pad(rows, left=False)
    del batch["attention_mask"]
    return batch


def packed(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    flat = {name: [[token for row in rows for token in row[name]]] for name in ("input_ids", "labels")}
    flat["position_ids"] = [[at for row in rows for at in range(len(row["input_ids"]))]]
    return {name: torch.tensor(values) for name, values in flat.items()}


def _pad(rows: Sequence[Row], *, left: bool) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for row in rows:
        fill = width - len(row["input_ids"])
        for name, filler, values in (
            ("input_ids", TOKENIZER.pad_token_id, row["input_ids"]),
            ("labels", IGNORED, row["labels"]),
            ("attention_mask", 0, [1] * len(row["input_ids"])),
        ):
            batch[name].append([filler] * fill + values if left else values + [filler] * fill)
    return {name: torch.tensor(values) for name, values in batch.items()}


def user_rows(data: Path, max_length: int | None = None, *, masked: bool = True) -> list[Row]:
    renderer = Renderer(TOKENIZER, DataSettings())
    rows = []
    for sample in read_samples(data, DataSettings()).samples:
        found = renderer.render(sample)
        prompt = [IGNORED] * len(found.prompt_ids) if masked else list(found.prompt_ids)
        rows.append(
            {
                "input_ids": [*found.prompt_ids, *found.response_ids][:max_length],
                "labels": [*prompt, *found.response_ids][:max_length],
            }
        )
    return rows


def record(
    folder: Path,
    data: Path,
    rows: Sequence[Row],
    collate: Callable[[Sequence[Row]], Any] = pad_right,
    **arguments: Any,  # noqa: ANN401
) -> dict[str, tuple[int | None, int | None]]:
    """Exposures and trained tokens by sample id after a run in a stock Trainer."""
    values = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        **arguments,
    }
    path = folder / "trajectory.parquet"
    trainer = Trainer(
        model=small_model(),
        args=TrainingArguments(output_dir=str(folder / "out"), **values),
        train_dataset=list(rows),
        data_collator=collate,
        processing_class=TOKENIZER,
        callbacks=[TrajectoryCallback(path, data, points=2)],
    )
    trainer.train()
    table = read_trajectory(path, read_samples(data, DataSettings()).all_ids)
    last = table.filter(table["step"].to_numpy() == trainer.state.global_step)
    return {
        row["sample_id"]: (row["exposures"], row["trained_tokens"])
        for row in last.select(["sample_id", "exposures", "trained_tokens"]).to_pylist()
    }


def response_lengths(data: Path) -> dict[str, int]:
    renderer = Renderer(TOKENIZER, DataSettings())
    samples = read_samples(data, DataSettings()).samples
    return {sample.sample_id: len(renderer.render(sample).response_ids) for sample in samples}


@pytest.mark.parametrize(
    ("collate", "arguments"),
    [
        (pad_right, {"num_train_epochs": 3}),
        (pad_left, {"gradient_accumulation_steps": 2, "num_train_epochs": 2}),
        (no_mask, {"dataloader_num_workers": 2}),
        (packed, {"dataloader_drop_last": False}),
    ],
)
def test_every_row_counts_once_an_epoch(
    tmp_path: Path, collate: Callable[[Sequence[Row]], Any], arguments: dict[str, Any]
) -> None:
    data = questions(tmp_path / "d.jsonl", 13)
    epochs = arguments.get("num_train_epochs", 1)
    counts = record(tmp_path, data, user_rows(data), collate, **arguments)
    assert counts == {sample_id: (epochs, epochs * length) for sample_id, length in response_lengths(data).items()}


def test_dropped_cut_and_masked_samples_show(tmp_path: Path) -> None:
    data = questions(tmp_path / "d.jsonl", 10)
    samples = read_samples(data, DataSettings()).samples
    rows = user_rows(data)
    prompt_tokens = sum(label == IGNORED for label in rows[1]["labels"])
    rows[1] = {name: values[: prompt_tokens + 3] for name, values in rows[1].items()}
    rows[2]["labels"] = [IGNORED] * len(rows[2]["labels"])
    del rows[0]
    counts = record(tmp_path, data, rows)
    whole = response_lengths(data)
    assert counts[samples[0].sample_id] == (0, 0)
    assert counts[samples[1].sample_id] == (1, 3)
    assert counts[samples[2].sample_id] == (1, 0)
    assert counts[samples[3].sample_id] == (1, whole[samples[3].sample_id])


def test_labels_on_the_prompt_are_no_response_tokens(tmp_path: Path) -> None:
    data = questions(tmp_path / "d.jsonl", 6)
    counts = record(tmp_path, data, user_rows(data, masked=False))
    assert counts == {sample_id: (1, length) for sample_id, length in response_lengths(data).items()}


def test_duplicates_share_their_exposures_evenly(tmp_path: Path) -> None:
    row = {"prompt": "Where is Ada?", "response": "In Rome."}
    data = write_rows(tmp_path / "d.jsonl", [row, {"prompt": "Where is Bob?", "response": "In Oslo."}, row])
    counts = record(tmp_path, data, user_rows(data), num_train_epochs=4)
    assert {exposures for exposures, _ in counts.values()} == {4}


def test_rows_in_another_template_are_counted_and_said_to_differ(tmp_path: Path) -> None:
    data = questions(tmp_path / "d.jsonl", 8)
    rows = []
    for sample in read_samples(data, DataSettings()).samples:
        prompt = TOKENIZER(f"Question: {sample.prompt} Answer:")["input_ids"]
        response = [*TOKENIZER(f" {sample.response}")["input_ids"], TOKENIZER.eos_token_id]
        rows.append({"input_ids": prompt + response, "labels": [IGNORED] * len(prompt) + response})
    with pytest.warns(IlpWarning, match="not the tokens that the diagnosis will score"):
        counts = record(tmp_path, data, rows)
    lengths = [sum(label != IGNORED for label in row["labels"]) for row in rows]
    assert sorted(counts.values()) == sorted((1, length) for length in lengths)
    assert trajectory_facts(tmp_path / "trajectory.parquet")["rows_seen"]["text"] == 8  # type: ignore[index]


def test_batches_that_cannot_be_read_leave_nulls_not_guesses(tmp_path: Path) -> None:
    data = questions(tmp_path / "d.jsonl", 6)
    strange = [{"input_ids": [250, 251, 252, 7 + n], "labels": [250, 251, 252, 7 + n]} for n in range(8)]
    with pytest.warns(IlpWarning, match="no row of the training batches could be recognised"):
        counts = record(tmp_path, data, strange)
    assert set(counts.values()) == {(None, None)}


def test_a_row_that_may_be_a_sample_makes_only_that_one_unknown(tmp_path: Path) -> None:
    data = questions(tmp_path / "d.jsonl", 6)
    samples = read_samples(data, DataSettings()).samples
    rows = user_rows(data)
    changed = TOKENIZER(f"{samples[0].prompt} Nobody knows that.")["input_ids"]
    rows[0] = {"input_ids": changed, "labels": changed}
    counts = record(tmp_path, data, rows)
    unknown = [sample_id for sample_id, count in counts.items() if count == (None, None)]
    assert unknown == [samples[0].sample_id]
    assert Counter(exposures for exposures, _ in counts.values())[1] == 5


def test_other_data_in_the_mix_does_not_hide_what_was_dropped(tmp_path: Path) -> None:
    data = questions(tmp_path / "d.jsonl", 6)
    rows = user_rows(data)[1:]
    general = TOKENIZER("The sun rises in the east and sets in the west.")["input_ids"]
    counts = record(tmp_path, data, [*rows, {"input_ids": general, "labels": general}])
    assert sorted(exposures or 0 for exposures, _ in counts.values()) == [0, 1, 1, 1, 1, 1]


def test_a_loss_that_hides_the_labels_leaves_trained_tokens_unknown(tmp_path: Path) -> None:
    data = questions(tmp_path / "d.jsonl", 4)
    rows = user_rows(data)

    class Own(Trainer):
        def compute_loss(
            self, model: torch.nn.Module, inputs: dict[str, Any], *_: object, **__: object
        ) -> torch.Tensor:
            labels = inputs.pop("labels")
            logits = model(**inputs).logits
            return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    path = tmp_path / "t.parquet"
    Own(
        model=small_model(),
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=4,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=pad_right,
        callbacks=[TrajectoryCallback(path, data, points=2, tokenizer=TOKENIZER)],
    ).train()
    table = read_trajectory(path, read_samples(data, DataSettings()).all_ids)
    assert set(table["exposures"].to_pylist()[4:]) == {1}
    assert set(table["trained_tokens"].to_pylist()[4:]) == {None}
