"""What is exported reads back as what was planned, untouched rows stay to the byte, and the ledger tells it all."""

from __future__ import annotations

import errno
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilp_service.changes import (
    Change,
    ConflictingStatement,
    Correction,
    EpochIncrement,
    Resampling,
    TeachingDocument,
)
from ilp_service.errors import SettingsError, StorageError
from ilp_service.intervention import export as exporting
from ilp_service.intervention.export import FORMS, Form, copies_of, export
from ilp_service.samples.reading import DataSet, read_samples
from ilp_service.samples.sample import content_key
from ilp_service.settings import DataSettings

SETTINGS = DataSettings()


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def talk(number: int, turns: int) -> list[dict[str, Any]]:
    return [
        message
        for turn in range(turns)
        for message in (said("user", f"Question {number}.{turn}?"), said("assistant", f"Answer {number}.{turn}."))
    ]


def rows_of(row_format: str) -> list[dict[str, Any]]:
    """Twelve rows in two subsets, with a column that nobody knows; conversations have one to three turns."""
    made = []
    for number in range(12):
        rest = {"id": f"r{number}", "subset": "ab"[number // 6], "origin": {"page": number}}
        question, answer = f"What is {number}?", f"It is {number}."
        row: dict[str, Any] = {
            "messages": {"messages": [said("system", "Be brief."), *talk(number, 1 + number % 3)]},
            "sharegpt": {
                "conversations": [
                    {"from": {"user": "human", "assistant": "gpt"}[one["role"]], "value": one["content"]}
                    for one in talk(number, 1 + number % 3)
                ]
            },
            "prompt_response": {"prompt": question, "completion": answer},
            "alpaca": {"instruction": question, "input": "" if number % 2 else "Think.", "output": answer},
            "multiple_choice": {"prompt": question, "choices": [answer, "It is not.", "Who knows."], "gold_index": 0},
        }[row_format]
        made.append({**row, **rest})
    return made


ROW_FORMATS = ("messages", "sharegpt", "prompt_response", "alpaca", "multiple_choice")


def written(folder: Path, rows: list[dict[str, Any]], ending: str) -> Path:
    path = folder / f"data{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == ".json":
        path.write_text(json.dumps({"version": 3, "data": rows}), encoding="utf-8")
    else:
        # Spaces that nobody would write by chance: a row that is written anew would lose them.
        path.write_text("".join(json.dumps(row, separators=(" ,  ", ":  ")) + "\n" for row in rows), encoding="utf-8")
    return path


def planned(data: DataSet, change: Change, seed: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for sample in data.samples:
        key = sample.sample_id
        if key not in change.removed:
            response = change.corrected[key].response if key in change.corrected else sample.response
            found[content_key(sample.context, response)] += copies_of(change.exposures.get(key, 1.0), key, seed)
    return found


def contents(data: DataSet) -> Counter[str]:
    return Counter(content_key(sample.context, sample.response) for sample in data.samples)


def everything(data: DataSet) -> Change:
    ids = [sample.sample_id for sample in data.samples]
    return Change(
        removed={ids[1]: "Judged wrong.", ids[4]: "Judged wrong."},
        corrected={ids[2]: Correction("It is better.", "Known better."), ids[6]: Correction("Better.", "So.")},
        contested={ids[7]: (Correction("a", "One."), Correction("b", "Two."))},
        exposures={ids[3]: 3.0, ids[5]: 2.5, ids[8]: 1.5, ids[2]: 2.0},
        apart=frozenset({(ids[0], ids[9])}),
        documents=(TeachingDocument("A text.", (ids[0],), ("missing_knowledge",), ("corpus",)),),
        conflicting_documents=frozenset({ConflictingStatement("It", "less", ids[0])}),
        resampling=Resampling(10, 0.05, 2.0),
        epochs=EpochIncrement(2, 0.01),
    )


def ledger_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("row_format", ROW_FORMATS)
@pytest.mark.parametrize("together", [False, True], ids=["in order", "shuffled"])
def test_reading_the_export_gives_exactly_what_was_planned(
    row_format: str, ending: str, together: bool, tmp_path: Path
) -> None:
    data = read_samples(written(tmp_path, rows_of(row_format), ending), SETTINGS)
    change = everything(data)
    if together:
        change = Change(**{name: getattr(change, name) for name in Change.__dataclass_fields__} | {"shuffled": True})
    done = export(data, change, tmp_path / f"out{ending}", seed=3, step_rows=4)
    again = read_samples(done.data, SETTINGS)
    assert again.quarantine.num_rows == 0
    assert again.format == row_format
    assert contents(again) == planned(data, change, 3)
    assert done.rows == again.rows
    assert done.samples == len(again.samples)
    assert {sample.subset for sample in again.samples} == {"a", "b"}


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_nothing_changes_nothing_to_the_byte(row_format: str, tmp_path: Path) -> None:
    path = written(tmp_path, rows_of(row_format), ".jsonl")
    done = export(read_samples(path, SETTINGS), Change(), tmp_path / "out.jsonl")
    assert done.data.read_bytes() == path.read_bytes()
    assert done.ledger.read_bytes() == b""
    assert done.documents is None


@pytest.mark.parametrize("row_format", ROW_FORMATS)
def test_rows_that_are_not_changed_stay_to_the_byte(row_format: str, tmp_path: Path) -> None:
    path = written(tmp_path, rows_of(row_format), ".jsonl")
    path.write_bytes(
        path.read_bytes().replace(b"\n", b"\r\n", 1) + b"\n{broken\n" + b'{"' + row_format.encode() + b'":1}'
    )
    data = read_samples(path, SETTINGS)
    change = everything(data)
    done = export(data, change, tmp_path / "out.jsonl", step_rows=4)
    before, after = path.read_bytes().splitlines(), done.data.read_bytes().splitlines()
    touched = {sample.line for sample in data.samples if sample.sample_id in change.sample_ids}
    touched -= {
        sample.line for sample in data.samples if {sample.sample_id} & {key for pair in change.apart for key in pair}
    }
    for number, line in enumerate(before, start=1):
        if line and number not in touched:
            assert line in after
    assert sum(b"{broken" in line for line in after) == 1


def test_columns_that_nobody_knows_go_with_every_copy_which_gets_an_id_of_its_own(tmp_path: Path) -> None:
    data = read_samples(written(tmp_path, rows_of("prompt_response"), ".jsonl"), SETTINGS)
    change = Change(exposures={data.samples[3].sample_id: 3.0})
    rows = ledger_of(export(data, change, tmp_path / "out.jsonl").data)
    mine = [row for row in rows if row["prompt"] == "What is 3?"]
    assert sorted(row["id"] for row in mine) == ["r3", "r3#2", "r3#3"]
    assert all(row["origin"] == {"page": 3} for row in mine)
    places = [number for number, row in enumerate(rows) if row["prompt"] == "What is 3?"]
    assert max(places) < 8  # further rows stay within their subset


def test_parquet_keeps_its_schema_and_a_masked_turn_gets_a_weight(tmp_path: Path) -> None:
    path = written(tmp_path, rows_of("messages"), ".parquet")
    data = read_samples(path, SETTINGS)
    plain = export(data, Change(removed={data.samples[0].sample_id: "Wrong."}), tmp_path / "plain.parquet").data
    assert pq.read_schema(plain) == pq.read_schema(path)
    second = next(sample for sample in data.samples if sample.turn == 1)
    masked = export(data, Change(removed={second.sample_id: "Wrong."}), tmp_path / "masked.parquet").data
    row = next(row for row in pq.read_table(masked).to_pylist() if row["id"] == f"r{second.line - 1}")
    assert [message.get("weight") for message in row["messages"]].count(0) == 1
    assert row["messages"][-1]["weight"] == 0


def test_a_turn_in_the_middle_is_masked_and_a_corrected_one_gets_a_row_of_its_own(tmp_path: Path) -> None:
    rows = [{"messages": talk(0, 3)}]
    data = read_samples(written(tmp_path, rows, ".jsonl"), SETTINGS)
    first, second, third = (sample.sample_id for sample in data.samples)
    change = Change(removed={first: "Wrong."}, corrected={second: Correction("Right.", "Known.")}, exposures={third: 2})
    done = export(data, change, tmp_path / "out.jsonl")
    weights = [
        [one.get("weight") for one in row["messages"] if one["role"] == "assistant"] for row in ledger_of(done.data)
    ]
    assert sorted(weights, key=len) == [[0, None], [0, 0, None], [0, 0, None]]
    assert contents(read_samples(done.data, SETTINGS)) == planned(data, change, 0)
    assert {entry["id"]: entry["action"] for entry in ledger_of(done.ledger) if entry["id"]} == {
        first: "masked",
        second: "corrected",
        third: "repeated",
    }


def test_the_ledger_tells_what_is_repeated_to_mend_it_from_what_is_only_kept(tmp_path: Path) -> None:
    data = read_samples(written(tmp_path, rows_of("alpaca"), ".jsonl"), SETTINGS)
    mended, kept = (sample.sample_id for sample in data.samples[:2])
    causes = {mended: "insufficient_optimization"}
    done = export(data, Change(exposures={mended: 5.0, kept: 2.0}), tmp_path / "out.jsonl", causes=causes)
    told = {entry["id"]: (entry["cause"], entry["reason"]) for entry in ledger_of(done.ledger) if entry["id"]}
    assert told == {
        mended: ("insufficient_optimization", "Shown 5 times as often."),
        kept: (None, "Shown 2 times as often, so that it is not forgotten."),
    }


def test_the_ledger_has_every_change_with_its_cause(tmp_path: Path) -> None:
    data = read_samples(written(tmp_path, rows_of("alpaca"), ".jsonl"), SETTINGS)
    change = everything(data)
    causes = {sample.sample_id: "data_inconsistency" for sample in data.samples[:3]}
    done = export(data, change, tmp_path / "out.jsonl", causes=causes, step_rows=4)
    entries = ledger_of(done.ledger)
    assert {entry["id"] for entry in entries if entry["id"]} == set(change.sample_ids)
    removed = next(entry for entry in entries if entry["action"] == "removed")
    assert removed == {
        "id": data.samples[1].sample_id,
        "line": 2,
        "turn": 0,
        "action": "removed",
        "cause": "data_inconsistency",
        "reason": "Judged wrong.",
        "before": "It is 1.",
        "after": None,
    }
    corrected = [entry for entry in entries if entry["action"] == "corrected"]
    assert [(entry["before"], entry["after"]) for entry in corrected] == [
        ("It is 2.", "It is better."),
        ("It is 6.", "Better."),
    ]
    assert done.actions == dict(Counter(entry["action"] for entry in entries))
    assert {"contested", "kept_apart", "not_in_data", "general_text"} <= set(done.actions)
    assert ledger_of(done.documents or Path()) == [
        {
            "text": "A text.",
            "sample_ids": [data.samples[0].sample_id],
            "causes": ["missing_knowledge"],
            "sources": ["corpus"],
        }
    ]


def test_the_order_is_told_and_contradicting_rows_share_no_step(tmp_path: Path) -> None:
    data = read_samples(written(tmp_path, rows_of("prompt_response"), ".jsonl"), SETTINGS)
    ids = [sample.sample_id for sample in data.samples]
    change = Change(shuffled=True, apart=frozenset({(ids[0], ids[1]), (ids[0], ids[2])}))
    done = export(data, change, tmp_path / "out.jsonl", step_rows=4, seed=5)
    lines = next(entry["after"] for entry in ledger_of(done.ledger) if entry["action"] == "reordered")
    assert sorted(lines) == list(range(1, 13))
    prompts = [row["prompt"] for row in ledger_of(done.data)]
    assert prompts == [f"What is {line - 1}?" for line in lines]
    for start in range(0, 12, 4):
        step = set(lines[start : start + 4])
        assert not (1 in step and step & {2, 3})
    other = export(data, change, tmp_path / "other.jsonl", step_rows=4, seed=6)
    assert other.data.read_bytes() != done.data.read_bytes()
    assert "The order matters" in done.training.read_text()


def test_fractions_are_rounded_by_a_seed_to_the_right_number_on_average() -> None:
    counts = [copies_of(2.3, str(number), 7) for number in range(4000)]
    assert set(counts) == {2, 3}
    assert sum(counts) / 4000 == pytest.approx(2.3, abs=0.03)
    assert counts == [copies_of(2.3, str(number), 7) for number in range(4000)]
    assert counts != [copies_of(2.3, str(number), 8) for number in range(4000)]
    assert copies_of(5.0, "x", 1) == 5


@pytest.mark.parametrize("row_format", ROW_FORMATS)
@pytest.mark.parametrize("form", [form for form in FORMS if form != "same"])
def test_other_forms_teach_the_same_samples(row_format: str, form: Form, tmp_path: Path) -> None:
    data = read_samples(written(tmp_path, rows_of(row_format), ".jsonl"), SETTINGS)
    change = everything(data)
    plain = None if row_format in ("messages", "sharegpt") else lambda sample, said: (f"{sample.prompt}\n", said)
    done = export(data, change, tmp_path / "out.jsonl", form=form, plain=plain)
    rows = ledger_of(done.data)
    wanted: Counter[str] = Counter()
    for sample in data.samples:
        key = sample.sample_id
        response = change.corrected[key].response if key in change.corrected else sample.response
        turns = [*((one.role, one.content) for one in sample.context), ("assistant", response)]
        shown = json.dumps(turns if sample.chat else [f"{sample.prompt}\n", response])
        wanted[shown] += 0 if key in change.removed else copies_of(change.exposures.get(key, 1.0), key, 0)
    found: Counter[str] = Counter()
    for row in rows:
        if row_format in ("messages", "sharegpt"):
            messages = row.get("messages") or [*row["prompt"], *row["completion"]]
            if form == "axolotl":
                assert [one["train"] for one in messages] == [False] * (len(messages) - 1) + [True]
            found[json.dumps([(one["role"], one["content"]) for one in messages])] += 1
        else:
            found[
                json.dumps([row.get("instruction", row.get("prompt")), row.get("output", row.get("completion"))])
            ] += 1
    assert found == +wanted
    notes = done.training.read_text()
    assert {"trl": "completion_only_loss", "axolotl": "field_", "llamafactory": "dataset_info"}[form] in notes
    assert {"trl": "sequential", "axolotl": "curriculum_sampling", "llamafactory": "disable_shuffling"}[form] in notes


def test_nothing_is_overwritten_unasked_and_never_the_data_itself(tmp_path: Path) -> None:
    path = written(tmp_path, rows_of("alpaca"), ".jsonl")
    data = read_samples(path, SETTINGS)
    ids = [sample.sample_id for sample in data.samples]
    first = Change(documents=(TeachingDocument("Text.", (ids[0],), ("missing_knowledge",)),))
    export(data, first, tmp_path / "out.jsonl")
    with pytest.raises(SettingsError, match="--overwrite"):
        export(data, Change(), tmp_path / "out.jsonl")
    export(data, Change(), tmp_path / "out.jsonl", overwrite=True)
    assert not (tmp_path / "out.documents.jsonl").exists()
    with pytest.raises(SettingsError, match="data file itself"):
        export(data, Change(), path, overwrite=True)
    with pytest.raises(SettingsError, match=r"expected '\.jsonl'"):
        export(data, Change(), tmp_path / "out.parquet")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = read_samples(written(tmp_path, rows_of("alpaca"), ".jsonl"), SETTINGS)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(exporting, "write_new", full)
    with pytest.raises(StorageError, match="full"):
        export(data, Change(shuffled=True), tmp_path / "out.jsonl")
    assert sorted(tmp_path.iterdir()) == before
