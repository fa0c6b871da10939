"""Data files become samples, and nothing bad gets in or is lost in silence."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ilp_service.errors import AllRowsRefusedError, DataEmptyError, DataFormatError, DataNotFoundError, IlpError
from ilp_service.samples.reading import DataSet, read_samples
from ilp_service.samples.sample import Message, Probe
from ilp_service.settings import DataSettings
from ilp_service.tables import QUARANTINE

GOOD = {"prompt": "Where does Ann live?", "response": "Paris"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)


def lines(path: Path, *rows: object) -> Path:
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    return path


def read(path: Path, limit: int | None = None, **values: object) -> DataSet:
    return read_samples(path, DataSettings.model_validate(values), limit)


def refused(data: DataSet) -> dict[int, str]:
    return dict(zip(data.quarantine["line"].to_pylist(), data.quarantine["reason"].to_pylist(), strict=True))


CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
]
SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
FORMAT_ROWS = [
    ("messages", {"messages": CHAT}, True, "Hi", "Yo"),
    ("messages", {"messages": SHARED}, True, "Hi", "Yo"),
    ("sharegpt", {"conversations": SHARED}, True, "Hi", "Yo"),
    ("sharegpt", {"conversations": CHAT}, True, "Hi", "Yo"),
    ("prompt_response", {"prompt": "Hi", "completion": "Yo"}, False, "Hi", "Yo"),
    ("prompt_response", {"prompt": "Hi", "response": "Yo"}, False, "Hi", "Yo"),
    ("prompt_response", {"prompt": CHAT[:2], "completion": CHAT[2:]}, True, "Hi", "Yo"),
    ("prompt_response", {"prompt": CHAT[:2], "response": "Yo"}, True, "Hi", "Yo"),
    ("alpaca", {"instruction": "Add", "input": "1 2", "output": "3"}, False, "Add\n\n1 2", "3"),
    ("alpaca", {"instruction": "Hi", "input": "", "output": "Yo"}, False, "Hi", "Yo"),
    ("multiple_choice", {"prompt": "Hi", "choices": ["No", "Yo"], "gold_index": 1}, False, "Hi", "Yo"),
]


@pytest.mark.parametrize(("name", "row", "chat", "prompt", "response"), FORMAT_ROWS)
@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_every_row_format_in_every_file_format(
    tmp_path: Path, ending: str, name: str, row: dict[str, Any], chat: bool, prompt: str, response: str
) -> None:
    path = tmp_path / f"data.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif ending == "json":
        path.write_text(json.dumps([row]))
    else:
        lines(path, row)
    data = read(path)
    (sample,) = data.samples
    assert (data.format, sample.chat, sample.prompt, sample.response) == (name, chat, prompt, response)
    assert (sample.line, sample.position, sample.turn, sample.subset) == (1, 0, 0, "all")
    assert data.quarantine.num_rows == 0
    assert data.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_gold_choice_is_the_response(tmp_path: Path) -> None:
    row = {"prompt": "Where?", "choices": ["Rome", "Paris"], "gold_index": 1, "subset": "geo"}
    (sample,) = read(lines(tmp_path / "d.jsonl", row)).samples
    assert (sample.choices, sample.gold_index, sample.response, sample.subset) == (("Rome", "Paris"), 1, "Paris", "geo")


def test_one_sample_an_assistant_turn_with_all_before_it(tmp_path: Path) -> None:
    said = ["Hi", "Yo", "And?", "So", "Bye", "Ciao"]
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
    data = read(lines(tmp_path / "d.jsonl", {"messages": messages}))
    assert [(s.turn, s.response, [m.content for m in s.context]) for s in data.samples] == [
        (turn, said[2 * turn + 1], said[: 2 * turn + 1]) for turn in range(3)
    ]
    assert {s.position for s in data.samples} == {0}


def test_turns_without_anything_before_or_with_weight_nought_are_context_only(tmp_path: Path) -> None:
    greeting = {"role": "assistant", "content": "Welcome"}
    unweighted = {"role": "assistant", "content": "Wrong", "weight": 0}
    user, right = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Right"}
    data = read(lines(tmp_path / "d.jsonl", {"messages": [greeting, user, unweighted, user, right]}))
    assert [s.response for s in data.samples] == ["Right"]
    assert data.context_only_turns == 2
    assert len(data.samples[0].context) == 4


def test_earlier_turns_of_a_chat_prompt_are_not_taught(tmp_path: Path) -> None:
    prompt = [*CHAT, {"role": "user", "content": "And?"}]
    (sample,) = read(lines(tmp_path / "d.jsonl", {"prompt": prompt, "completion": CHAT[2:]})).samples
    assert len(sample.context) == 4


def test_the_published_alpaca_text_is_kept_for_plain_rendering(tmp_path: Path) -> None:
    rows = [{"instruction": "Add {input}", "input": "1 {x}", "output": "3"}, {"instruction": "Hi", "output": "Yo"}]
    with_input, without = read(lines(tmp_path / "d.jsonl", *rows)).samples
    assert with_input.plain_prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nAdd {input}\n\n### Input:\n1 {x}"
        "\n\n### Response:"
    )
    assert without.plain_prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nHi\n\n### Response:"
    )


BAD_ROWS = [
    ({"prompt": "Q"}, "'completion' or 'response' is missing."),
    ({"response": "A"}, "'prompt' is missing."),
    ({"prompt": None, "response": "A"}, "'prompt' is missing."),
    ({"prompt": "Q", "response": ""}, "'response' is empty."),
    ({"prompt": "Q", "response": " \n"}, "'response' is empty."),
    ({"prompt": 3, "response": "A"}, "'prompt' is a number, expected text."),
    ({"prompt": "Q", "response": {"a": 1}}, "'response' is an object, expected text."),
    ({"prompt": "Q", "response": "A", "subset": ["x"]}, "'subset' is a list, expected text."),
    ({"prompt": "Q", "response": "A", "id": ["x"]}, "'id' is a list, expected text or a number."),
    ({"prompt": "Q", "response": "A", "id": "first"}, "The id 'first' was used before, on line 1."),
    ({"prompt": "Q", "response": "A", "probes": "Ann"}, "'probes' is text, expected a list."),
    ({"prompt": "Q", "response": "A", "probes": [3]}, "Probe 1 of 'probes' is a number, expected text."),
    ({"prompt": "Q", "response": "A", "probes": ["___ is it"]}, "has its blank elsewhere than at the end."),
    ({"prompt": [{"role": "user", "content": "Q"}], "response": []}, "'response' is an empty list."),
    ({"prompt": "x" * 1_000_000, "response": "A"}, "more than data.max_row_bytes = 262144."),
    (b'{"prompt": "Q", "response": "\xff"}\n', "The line is not valid UTF-8 (byte 30)."),
    (b'{"prompt": "Q", "response": "A"\n', "The line is not valid JSON"),
    (b'{"prompt": "Q", "response": "\\ud800"}\n', "half of a surrogate pair (\\ud800)"),
    (b'{"prompt": "Q", "response": NaN}\n', "'completion' or 'response' is missing."),
    (b"[1, 2]\n", "The row is a list, expected an object"),
    (b'"text"\n', "The row is text, expected an object"),
    (b"[" * 100_000 + b"\n", "it is nested too deeply"),
    (b'{"prompt": ' + b"9" * 5000 + b"}\n", "cannot be read as JSON"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ROWS)
def test_a_bad_row_is_refused_alone_with_its_line_and_reason(tmp_path: Path, bad: object, reason: str) -> None:
    path = lines(tmp_path / "d.jsonl", {**GOOD, "id": "first"}, bad, GOOD)
    data = read(path)
    assert [sample.line for sample in data.samples] == [1, 3]
    assert [sample.position for sample in data.samples] == [0, 2]
    assert data.rows == 3
    (row,) = data.quarantine.to_pylist()
    assert data.quarantine.schema.equals(QUARANTINE)
    assert (row["file"], row["line"]) == (str(path), 2)
    assert reason in row["reason"]
    assert row["reason"].endswith(".")
    assert 0 < len(row["raw"]) <= 200


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("text", "'messages' is text, expected a list of messages."),
        ([], "'messages' is an empty list."),
        (["Hi"], "Message 1 of 'messages' is text, expected an object"),
        ([{"role": "user", "content": "Hi"}], "no assistant turn"),
        ([{"role": "assistant", "content": "Hi"}], "no assistant turn"),
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}], "(assistant) is empty."),
        ([{"role": "pirate", "content": "Hi"}], "has the role 'pirate'"),
        ([{"content": "Hi"}], "The role of message 1 of 'messages' is missing."),
        (
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [1]}],
            "calls a tool",
        ),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "a part that is no text"),
    ],
)
def test_bad_conversations_are_refused(tmp_path: Path, messages: object, reason: str) -> None:
    data = read(lines(tmp_path / "d.jsonl", {"messages": CHAT}, {"messages": messages}))
    assert reason in refused(data)[2]
    assert len(data.samples) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gold_index": 2}, "'gold_index' is 2, expected 0 to 1."),
        ({"gold_index": -1}, "'gold_index' is -1, expected 0 to 1."),
        ({"gold_index": "1"}, "'gold_index' is text, expected a whole number."),
        ({"gold_index": True}, "'gold_index' is true or false, expected a whole number."),
        ({"gold_index": 0.5}, "'gold_index' is a number, expected a whole number."),
        ({"gold_index": None}, "'gold_index' is missing."),
        ({"choices": ["one"]}, "'choices' has 1 entries, expected two or more."),
        ({"choices": ["a", 3]}, "Choice 1 of 'choices' is a number, expected text."),
        ({"choices": ["a", "b", "b"]}, "The right choice stands twice in 'choices'."),
        ({"choices": "ab"}, "'choices' is text, expected a list of texts."),
    ],
)
def test_bad_multiple_choice_rows_are_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    row = {"prompt": "Q", "choices": ["a", "b"], "gold_index": 1}
    data = read(lines(tmp_path / "d.jsonl", row, {**row, **change}))
    assert refused(data) == {2: reason}


def test_content_parts_and_whole_floats_are_accepted(tmp_path: Path) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, CHAT[2]]
    assert read(lines(tmp_path / "a.jsonl", {"messages": parts})).samples[0].prompt == "Hi"
    row = {"prompt": "Q", "choices": ["a", "b"], "gold_index": 1.0}
    assert read(lines(tmp_path / "b.jsonl", row)).samples[0].gold_index == 1


def test_bom_crlf_and_blank_lines_change_nothing(tmp_path: Path) -> None:
    rows = [GOOD, {"prompt": "Wo?", "response": "Köln"}]
    plain = read(lines(tmp_path / "a.jsonl", *rows))
    raw = b"\xef\xbb\xbf" + b"\r\n\r\n  \r\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows)
    windows = read(lines(tmp_path / "b.jsonl", raw))
    assert [s.sample_id for s in windows.samples] == [s.sample_id for s in plain.samples]
    assert [s.position for s in windows.samples] == [0, 1]
    assert [s.line for s in windows.samples] == [1, 4]
    assert windows.rows == 2


def test_broken_utf8_in_a_json_document_refuses_one_row(tmp_path: Path) -> None:
    path = lines(tmp_path / "d.json", b'[{"prompt":"Q","response":"\xff"},{"prompt":"Q","response":"A"}]')
    data = read(path)
    assert refused(data) == {1: "'response' holds the byte 0xff, which is not valid UTF-8."}
    assert data.samples[0].line == 2


def test_broken_utf8_in_parquet_refuses_one_row(tmp_path: Path) -> None:
    texts = pa.array([b"A", b"\xff", b"C"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": ["a", "b", "c"], "response": texts}), tmp_path / "d.parquet")
    data = read(tmp_path / "d.parquet")
    assert [s.response for s in data.samples] == ["A", "C"]
    assert refused(data) == {2: "A text of the row is not valid UTF-8."}


def test_identical_rows_get_ids_by_occurrence_and_the_limit_does_not_change_them(tmp_path: Path) -> None:
    path = lines(tmp_path / "d.jsonl", GOOD, {"prompt": "x", "response": "y"}, GOOD, GOOD)
    whole, part = read(path), read(path, limit=2)
    ids = [s.sample_id for s in whole.samples]
    key = ids[0].removesuffix("-0")
    assert [ids[0], ids[2], ids[3]] == [f"{key}-0", f"{key}-1", f"{key}-2"]
    assert [s.sample_id for s in part.samples] == ids[:2]
    assert part.all_ids == whole.all_ids == frozenset(ids)


def test_explicit_ids_are_kept_beside_the_samples(tmp_path: Path) -> None:
    data = read(lines(tmp_path / "d.jsonl", {**GOOD, "id": 7}, {**GOOD, "id": 7}, {**GOOD, "id": "b", "extra": 1}))
    assert list(data.row_ids.values()) == ["7", "b"]
    assert set(data.row_ids) == {s.sample_id for s in data.samples}
    assert refused(data) == {2: "The id '7' was used before, on line 1."}
    assert data.unused_columns == ("extra",)


def test_probes_in_every_form(tmp_path: Path) -> None:
    probes = [{"text": "Ann lives in", "answer": "Rome"}, "Ann's home is", "Ann is at home in ____.", {"text": "Ann:"}]
    (sample,) = read(lines(tmp_path / "d.jsonl", {**GOOD, "probes": probes})).samples
    assert sample.probes == (
        Probe("Ann lives in", "Rome"),
        Probe("Ann's home is", "Paris"),
        Probe("Ann is at home in", "Paris"),
        Probe("Ann:", "Paris"),
    )


def test_a_set_format_and_subset_column_win_over_detection(tmp_path: Path) -> None:
    path = lines(tmp_path / "d.jsonl", {"messages": CHAT, "instruction": "Hi", "output": "Yo", "part": "p"})
    assert read(path).format == "messages"
    data = read(path, format="alpaca", subset_field="part")
    assert (data.format, data.samples[0].subset, data.unused_columns) == ("alpaca", "p", ("messages",))


def test_the_format_of_most_rows_wins_and_the_others_are_refused(tmp_path: Path) -> None:
    data = read(lines(tmp_path / "d.jsonl", {"messages": CHAT}, GOOD, GOOD))
    assert data.format == "prompt_response"
    assert list(refused(data)) == [1]


@pytest.mark.parametrize("key", ["data", "questions"])
def test_an_object_with_one_list_of_rows(tmp_path: Path, key: str) -> None:
    assert read(lines(tmp_path / "d.json", {"version": 1, key: [GOOD, GOOD]})).rows == 2


def test_json_lines_under_the_wrong_name_and_an_array_under_jsonl(tmp_path: Path) -> None:
    assert len(read(lines(tmp_path / "d.json", GOOD, b"{broken\n", GOOD)).samples) == 2
    assert len(read(lines(tmp_path / "d.jsonl", [GOOD, GOOD])).samples) == 2
    assert len(read(lines(tmp_path / "one.json", {"messages": CHAT})).samples) == 1


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("d.csv", b"a,b\n", DataFormatError, "ends in '.csv', expected .jsonl, .json or .parquet"),
        ("d", b"{}", DataFormatError, "ends in 'nothing'"),
        ("d.jsonl", b"", DataEmptyError, "has no rows"),
        ("d.jsonl", b"\n \r\n", DataEmptyError, "has no rows"),
        ("d.json", b"", DataEmptyError, "has no rows"),
        ("d.json", b"[]", DataEmptyError, "has no rows"),
        ("d.jsonl", gzip.compress(b"{}", mtime=0), DataFormatError, "is gzip-compressed"),
        ("d.jsonl", b"PK\x03\x04rest", DataFormatError, "is a zip archive"),
        ("d.jsonl", b"PAR1rest", DataFormatError, "is a parquet file"),
        ("d.jsonl", "{}".encode("utf-16"), DataFormatError, "is in UTF-16"),
        ("d.jsonl", b"\x7fELF\0\0\0", DataFormatError, "is a binary file"),
        ("d.parquet", b"PAR1 cut off", DataFormatError, "cannot be read as parquet"),
        ("d.json", b'[{"prompt": "Q"', DataFormatError, "is not valid JSON"),
        ("d.json", b"[" * 100_000, DataFormatError, "is not valid JSON"),
        ("d.json", b"3", DataFormatError, "without one list of rows"),
        (
            "d.jsonl",
            b'{"question": "Q", "answer": "A"}\n',
            DataFormatError,
            "has rows with 'answer', 'question', expected",
        ),
        ("d.jsonl", b'{"prompt": "Q", "response": ""}\n', AllRowsRefusedError, "All 1 rows"),
        ("d.jsonl", b"broken\nbroken\n", AllRowsRefusedError, "All 2 rows"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_sentence(
    tmp_path: Path, name: str, content: bytes, error: type[IlpError], says: str
) -> None:
    with pytest.raises(error) as caught:
        read(lines(tmp_path / name, content))
    assert says in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_missing_files_and_folders_and_empty_parquet(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError):
        read(tmp_path / "none.jsonl")
    with pytest.raises(DataFormatError, match="is a folder"):
        read(tmp_path)
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "d.parquet")
    with pytest.raises(DataEmptyError):
        read(tmp_path / "d.parquet")


def test_an_overlong_line_is_never_held_whole(tmp_path: Path) -> None:
    path = lines(tmp_path / "d.jsonl", GOOD, b"x" * 5_000_000 + b"\n", GOOD)
    data = read(path, max_row_bytes=1000)
    assert [s.line for s in data.samples] == [1, 3]
    assert "5000001 bytes" in refused(data)[2]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6))
def test_texts_come_back_the_same_from_every_file_format(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    values = [{"prompt": prompt, "response": response} for prompt, response in rows]
    (tmp_path / "d.json").write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "d.parquet")
    found = [read(lines(tmp_path / "d.jsonl", *values)), read(tmp_path / "d.json"), read(tmp_path / "d.parquet")]
    for data in found:
        assert [(s.context, s.response) for s in data.samples] == [((Message("user", p),), r) for p, r in rows]
        assert [s.sample_id for s in data.samples] == [s.sample_id for s in found[0].samples]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.lists(st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"")), max_size=5))
def test_every_row_is_a_sample_or_in_the_quarantine(tmp_path: Path, junk: list[bytes]) -> None:
    first = json.dumps(GOOD).encode()
    data = read(lines(tmp_path / "d.jsonl", b"\n".join([first, *junk, first]) + b"\n"))
    assert len(data.samples) + data.quarantine.num_rows == data.rows
    assert len(data.samples) >= 2
