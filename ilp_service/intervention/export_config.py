"""How to train on an exported data set with TRL, axolotl or LLaMA-Factory, so that what was changed has its effect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ilp_service.changes import Change


def training_notes(
    form: str,
    row_format: str,
    change: Change,
    name: str,
    *,
    chat: bool,
    passes: int | None,
    step_rows: int,
    masked_rows: int = 0,
) -> str:
    """A page with the settings of each trainer that reads the file.

    Args:
        form: ``same`` or the trainer whose form was asked for.
        row_format: Of the data file that it was made of.
        change: What is otherwise.
        name: Of the exported file.
        chat: Whether the rows are conversations.
        passes: Passes over the data in the diagnosed training.
        step_rows: Rows of an optimizer step.
        masked_rows: Rows with a turn that has weight 0; the settings, with which it would be learned, are left out.
    """
    keeps_order = bool(change.apart)
    parts = [f"# Training on {name}", "", *_order(change, step_rows), ""]
    stem = name.rpartition(".")[0]
    if change.documents:
        parts += [*_documents(change, stem), ""]
    if change.epochs is not None:
        parts += [
            f"Add up to {change.epochs.most} passes, and stop when held-out loss rises by more than "
            f"{change.epochs.tolerance:g} nats a token.",
            "",
        ]
    if masked_rows:
        return "\n".join([*parts, *_masked(masked_rows), ""])
    epochs = passes or 3
    for trainer, snippet in _snippets(form, row_format, name, epochs, chat=chat, keeps_order=keeps_order):
        language = {"TRL": "python", "axolotl": "yaml"}.get(trainer, "yaml")
        parts += [f"## {trainer}", "", f"```{language}", *snippet, "```", ""]
        if trainer == "LLaMA-Factory":
            info = json.dumps({stem: _dataset_info(form, row_format, name, chat=chat)}, indent=2)
            parts += ["and in `dataset_info.json`:", "", "```json", info, "```", ""]
    if passes is None:
        parts += ["How many passes the diagnosed training made is not known; put its number in place of 3.", ""]
    return "\n".join(parts)


def _order(change: Change, step_rows: int) -> Iterator[str]:
    if change.apart:
        yield (
            f"**The order matters**: rows that contradict one another are kept apart in steps of {step_rows} rows. "
            f"Switch the trainer's own shuffling and packing off, and make a step of {step_rows} rows (batch size "
            "times accumulation times devices)."
        )
    elif change.shuffled:
        yield "The rows are shuffled together; the trainer may shuffle them anew in every pass."
    else:
        yield "The rows stand in the order of the data file; shuffle, or do not, as in the diagnosed training."
    if change.resampling is not None:
        yield (
            "Subsets whose accuracy falls are drawn more often in `ilp prescribe`; a data file cannot hold that, and "
            "it is not part of this one."
        )


def _masked(rows: int) -> Iterator[str]:
    yield (
        f'**{rows} {"row has" if rows == 1 else "rows have"} turns that are not to be learned** (`"weight": 0`), '
        "such as those that were judged wrong. TRL, axolotl and LLaMA-Factory do not read `weight` in rows of this "
        "form and would train on them, so their settings are not given here. Export again with `--format trl`, "
        "`--format axolotl` or `--format llamafactory`, which write one row a sample, or use a trainer that leaves "
        "turns with weight 0 out of the loss, as `ilp train` does."
    )


def _documents(change: Change, stem: str) -> Iterator[str]:
    share = change.general_share or 0.0
    often = "once" if change.document_passes == 1 else f"{change.document_passes} times"
    yield (
        f"First continue the base's pre-training on `{stem}.documents.jsonl` (column `text`, {often}"
        f"), mixed with general text: {share:.0%} of the tokens. Then fine-tune the result."
    )
    if change.conflicting_documents:
        yield "General text that the ledger names as `general_text` is to be left out of the mix."


def _snippets(
    form: str, row_format: str, name: str, epochs: int, *, chat: bool, keeps_order: bool
) -> Iterator[tuple[str, list[str]]]:
    kind = "parquet" if name.endswith((".parquet", ".pq")) else "json"
    if form == "trl" or (form == "same" and row_format in ("messages", "prompt_response")):
        order = ['    train_sampling_strategy="sequential",  # the file\'s order'] if keeps_order else []
        loss = "    assistant_only_loss=True," if form == "same" and row_format == "messages" else None
        loss = loss or "    completion_only_loss=True,"
        yield (
            "TRL",
            [
                f'train_dataset = load_dataset("{kind}", data_files="{name}", split="train")',
                "SFTConfig(",
                f"    num_train_epochs={epochs},",
                *order,
                loss,
                "    packing=False,",
                ")",
            ],
        )
    if form == "axolotl" or (form == "same" and row_format in ("messages", "sharegpt", "alpaca")):
        yield "axolotl", list(_axolotl(form, row_format, name, kind, epochs, chat=chat, keeps_order=keeps_order))
    if form == "llamafactory" or (form == "same" and row_format in ("messages", "sharegpt", "alpaca")):
        yield (
            "LLaMA-Factory",
            [
                f"dataset: {name.rpartition('.')[0]}",
                f"num_train_epochs: {epochs}.0",
                *(["disable_shuffling: true"] if keeps_order else []),
                *(["mask_history: true"] if form == "llamafactory" and chat else []),
                *(["template: empty"] if form == "llamafactory" and not chat else []),
                "packing: false",
            ],
        )


def _axolotl(
    form: str, row_format: str, name: str, kind: str, epochs: int, *, chat: bool, keeps_order: bool
) -> Iterator[str]:
    yield from ("datasets:", f"  - path: {name}", f"    ds_type: {kind}")
    if form == "same" and row_format == "alpaca":
        yield "    type: alpaca"
    elif form == "same" or chat:
        yield "    type: chat_template"
        column = "conversations" if form == "same" and row_format == "sharegpt" else "messages"
        yield f"    field_messages: {column}"
        if column == "conversations":
            yield from ("    message_property_mappings:", "      role: from", "      content: value")
        yield '    roles_to_train: ["assistant"]'
        if form == "axolotl":
            yield "    message_field_training: train"
    else:
        yield from (
            "    type:",
            "      field_instruction: prompt",
            "      field_output: completion",
            '      format: "{instruction}"',
            '      no_input_format: "{instruction}"',
        )
    yield f"num_epochs: {epochs}"
    yield "sample_packing: false"
    if keeps_order:
        yield from ("shuffle_merged_datasets: false", "curriculum_sampling: true")


def _dataset_info(form: str, row_format: str, name: str, *, chat: bool) -> dict[str, Any]:
    if form == "same" and row_format == "alpaca":
        return {"file_name": name}
    if form == "llamafactory" and not chat:
        return {"file_name": name, "columns": {"prompt": "instruction", "response": "output"}}
    if form == "same" and row_format == "sharegpt":
        return {"file_name": name, "formatting": "sharegpt", "columns": {"messages": "conversations"}}
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    }
    return {"file_name": name, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
