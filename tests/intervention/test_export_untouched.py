"""What a change does not concern goes through an export as it came, whatever stands in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilp_service.changes import Change, Correction
from ilp_service.errors import DataFormatError
from ilp_service.intervention.export import export
from ilp_service.intervention.export_spans import respelled
from ilp_service.samples.reading import DataSet, read_samples
from ilp_service.settings import DataSettings

SETTINGS = DataSettings()
PAIRS = {"prompt": ["q1?", "q2?", "q3?"], "completion": ["a", "b", "c"]}


def read(path: Path) -> DataSet:
    return read_samples(path, SETTINGS)


def stored(folder: Path, columns: dict[str, Any], schema: pa.Schema | None = None) -> Path:
    path = folder / "data.parquet"
    pq.write_table(pa.table(columns, schema=schema), path)
    return path


def exported(path: Path, change: Change) -> Path:
    return export(read(path), change, path.with_name(f"out{path.suffix}")).data


def ids_of(path: Path) -> list[str]:
    return [sample.sample_id for sample in read(path).samples]


def same_rows(after: pa.Table, before: pa.Table) -> list[int]:
    """Lines of the rows before that a row of the table after is, each once."""
    lines = set()
    for place in range(after.num_rows):
        row = after.slice(place, 1)
        lines |= {line + 1 for line in range(before.num_rows) if before.slice(line, 1).equals(row)} or {0}
    return sorted(lines)


def dialogue(*, weight: object = None, **more: object) -> list[dict[str, Any]]:
    said = [("user", "u"), ("assistant", "a"), ("user", "u2"), ("assistant", "a2")]
    return [
        {"role": role, "content": text, **({} if weight is None else {"weight": weight}), **more} for role, text in said
    ]


def test_a_json_document_keeps_its_bytes_around_what_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    rows = [
        rb'{"prompt": "q1?", "completion" :"a", "score": NaN, "n": 1.50}',
        rb'{"prompt": "q2 \ud83d?", "completion": "b"}',
        b'{"prompt": "q3 \xff?", "completion": "c"}',
        rb'{"prompt": "q4?", "completion": "d", "note": "\ud83d"}',
    ]
    path.write_bytes(b'{"version": 1e400, "data": [\n ' + b",\n ".join(rows) + b'\n], "more": "\\u00e9"}')
    data = read(path)
    assert len(data.samples) == 2
    assert exported(path, Change()).read_bytes() == path.read_bytes()
    change = Change(removed={data.samples[0].sample_id: "Wrong."})
    done = export(data, change, tmp_path / "less.json").data.read_bytes()
    assert done == b'{"version": 1e400, "data": [\n ' + b",\n ".join(rows[1:]) + b'\n], "more": "\\u00e9"}'


def test_a_json_document_of_one_row_stays_one_or_becomes_a_list(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('{"prompt": "q?", "completion": "a", "score": NaN}')
    (key,) = ids_of(path)
    corrected = exported(path, Change(corrected={key: Correction("b", "Known.")}))
    assert corrected.read_text() == '{"prompt": "q?", "completion": "b", "score": NaN}'
    twice = export(read(path), Change(exposures={key: 2.0}), tmp_path / "twice.json").data
    assert [sample.response for sample in read(twice).samples] == ["a", "a"]
    none = export(read(path), Change(removed={key: "Wrong."}), tmp_path / "none.json").data
    assert json.loads(none.read_text()) == []


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
def test_a_rewritten_row_keeps_all_but_what_is_rewritten(ending: str, tmp_path: Path) -> None:
    head = r'{"note" : "x \ud83d", "score":NaN, "n": 1.50, '
    rest = '"prompt": "q1?"}'
    row, other = head + '"completion":"a", ' + rest, '{"prompt": "q2?", "completion": "b"}'
    path = tmp_path / f"data{ending}"
    path.write_text(f"[{row}, {other}]" if ending == ".json" else f"{row}\n{other}\n")
    done = exported(path, Change(corrected={ids_of(path)[0]: Correction("é", "Known.")}))
    wanted = head + '"completion":"é", ' + rest
    assert done.read_text() == (f"[{wanted}, {other}]" if ending == ".json" else f"{wanted}\n{other}\n")


def test_a_masked_turn_is_all_that_changes_in_its_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    messages = '[{"role":"user","content":"u"}, {"role":"assistant","content":"a\\u00e9" }, {"role":"user", "content":"v", "t":NaN}, {"role":"assistant","content":"b"}]'  # noqa: E501
    path.write_text(f'{{"messages":{messages},"n":1.0}}\r\n')
    done = exported(path, Change(removed={ids_of(path)[0]: "Wrong."})).read_bytes().decode()
    assert done == path.read_bytes().decode().replace('"a\\u00e9" }', '"a\\u00e9", "weight": 0 }')


def test_a_corrected_answer_takes_the_place_of_all_parts(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    parts = [{"type": "text", "text": "a", "kept": True}, {"type": "text", "text": "b"}]
    rows = [[{"role": "user", "content": "u"}, {"role": "assistant", "content": said}] for said in (parts, ["a", "b"])]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    done = exported(path, Change(corrected={key: Correction("c", "Known.") for key in ids_of(path)}))
    found = [json.loads(line)["messages"][1]["content"] for line in done.read_text().splitlines()]
    assert found == [[{"type": "text", "text": "c"}], ["c"]]


def test_a_turn_of_several_as_a_row_of_its_own_ends_there(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"messages": dialogue(t=float("nan"))}) + "\n")
    first, _ = ids_of(path)
    done = exported(path, Change(exposures={first: 2.0}))
    lines = done.read_text().splitlines()
    assert path.read_text().splitlines()[0] in lines
    (short,) = [line for line in lines if '"u2"' not in line]
    assert short.endswith('{"role": "assistant", "content": "a", "t": NaN}]}')


def test_boolean_weights_of_a_conversation_stay_boolean(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"messages": dialogue(weight=True)}) + "\n")
    done = exported(path, Change(removed={ids_of(path)[0]: "Wrong."}))
    found = [one["weight"] for one in json.loads(done.read_text())["messages"]]
    assert json.dumps(found) == "[true, false, true, true]"


def test_boolean_weights_of_parquet_stay_boolean(tmp_path: Path) -> None:
    path = stored(tmp_path, {"messages": [dialogue(weight=True)] * 2})
    done = exported(path, Change(removed={ids_of(path)[0]: "Wrong."}))
    assert pq.read_schema(done) == pq.read_schema(path)
    first, second = pq.read_table(done)["messages"].to_pylist()
    assert [one["weight"] for one in first] == [True, False, True, True]
    assert [one["weight"] for one in second] == [True] * 4


def test_weights_that_are_texts_are_told_of(tmp_path: Path) -> None:
    path = stored(tmp_path, {"messages": [dialogue(weight="1")]})
    with pytest.raises(DataFormatError, match=r"'messages'.*string.*--format"):
        exported(path, Change(removed={ids_of(path)[0]: "Wrong."}))


@pytest.mark.parametrize("empty", [False, True], ids=["no weight", "weight without a type"])
def test_parquet_that_gets_weights_keeps_every_other_value(empty: bool, tmp_path: Path) -> None:
    fields = [pa.field("role", pa.string(), nullable=False), pa.field("content", pa.large_string())]
    fields += [pa.field("at", pa.time64("ns"))] + ([pa.field("weight", pa.null())] if empty else [])
    kind = pa.large_list(pa.field("turn", pa.struct(fields), nullable=False))
    said = [{"role": one["role"], "content": one["content"]} for one in dialogue()]
    schema = pa.schema([pa.field("messages", kind), pa.field("tools", pa.list_(pa.struct([("role", pa.string())])))])
    columns = {"messages": pa.array([said, None, said[:2]], kind), "tools": pa.array([[{"role": "x"}], [], None])}
    path = stored(tmp_path, columns, schema)
    done = exported(path, Change(removed={ids_of(path)[0]: "Wrong."}))
    before, after = pq.read_schema(path), pq.read_schema(done)
    assert after.field("tools") == schema.field("tools")
    struct = after.field("messages").type.value_type
    assert after.field("messages").type.value_field.name == before.field("messages").type.value_field.name
    assert [struct.field(place) for place in range(3)] == fields[:3]
    assert struct.field(3).type == pa.int64()
    rows = pq.read_table(done).to_pylist()
    assert [one["weight"] for one in rows[0]["messages"]] == [None, 0, None, None]
    assert rows[1]["messages"] is None
    assert [one["content"] for one in rows[2]["messages"]] == ["u", "a"]


def not_utf8() -> pa.Array:
    offsets = pa.array([0, 3, 5, 8], pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"q1?\xff\xfeq3?")])


@pytest.mark.parametrize(
    "odd",
    [
        {"prompt": not_utf8()},
        {"at": pa.array([0, 4 * 10**14, 0], pa.timestamp("ms"))},
        {"at": pa.array([0, 2**31 - 1, 0], pa.date32())},
    ],
    ids=["bytes", "timestamp", "date"],
)
def test_rows_of_parquet_that_reading_refuses_stay(odd: dict[str, pa.Array], tmp_path: Path) -> None:
    path = stored(tmp_path, PAIRS | odd)
    data = read(path)
    assert data.quarantine["line"].to_pylist() == [2]
    keys = [sample.sample_id for sample in data.samples]
    done = exported(path, Change(exposures={keys[0]: 2.0}, corrected={keys[1]: Correction("d", "Known.")}))
    before, after = pq.read_table(path), pq.read_table(done)
    assert after.schema == before.schema
    assert same_rows(after.drop(["completion"]), before.drop(["completion"])) == [1, 2, 3]
    again = read(done)
    assert again.quarantine.num_rows == 1
    assert sorted(sample.response for sample in again.samples) == ["a", "a", "d"]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 1_234_567, None], pa.time64("ns")),
        pa.array([1, 1_234_567_890_123_456_789, None], pa.timestamp("ns", "UTC")),
        pa.array([1, 1_234_567_890_123, None], pa.duration("ns")),
        pa.array(["x", "y", "x"]).dictionary_encode(),
        pa.array([1.5, 2.5, None], pa.float16()),
        pa.array([2**64 - 1, 1, None], pa.uint64()),
        pa.array([[("k", 1)], [("k", 2), ("l", 3)], None], pa.map_(pa.string(), pa.int64())),
        pa.array(["x", "y", None], pa.large_string()),
        pa.array([b"\xff", b"", None]),
    ],
    ids=lambda values: str(values.type).partition("(")[0],
)
def test_parquet_keeps_values_and_types_of_every_row(values: pa.Array, tmp_path: Path) -> None:
    path = stored(tmp_path, PAIRS | {"odd": values})
    first = ids_of(path)[0]
    done = exported(path, Change(corrected={first: Correction("z", "Known.")}, exposures={first: 2.0}))
    before, after = pq.read_table(path), pq.read_table(done)
    assert after.schema == before.schema
    assert sorted(after["completion"].to_pylist()) == ["b", "c", "z", "z"]
    assert same_rows(after.drop(["completion"]), before.drop(["completion"])) == [1, 2, 3]


def test_a_corrected_answer_may_be_new_to_a_column_of_categories(tmp_path: Path) -> None:
    path = stored(tmp_path, PAIRS | {"completion": pa.array(["a", "b", "a"]).dictionary_encode()})
    done = exported(path, Change(corrected={ids_of(path)[1]: Correction("new", "Known.")}))
    assert pq.read_schema(done) == pq.read_schema(path)
    assert pq.read_table(done)["completion"].to_pylist() == ["a", "new", "a"]


def test_a_folder_that_looks_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "lang=en"
    folder.mkdir()
    path = stored(folder, PAIRS)
    done = exported(path, Change(exposures={ids_of(path)[0]: 2.0}))
    assert pq.ParquetFile(done).schema_arrow.names == ["prompt", "completion"]


@pytest.mark.parametrize(
    ("kind", "ids", "new"),
    [
        (pa.int64(), [7, 3, 5], [8, 9]),
        (pa.int8(), [127, 126, 1], [2, 3]),
        (pa.float64(), [0.5, 2.0, 1.0], [3.0, 4.0]),
        (pa.string(), ["x", "x#2", "y"], ["x#3", "x#4"]),
    ],
    ids=str,
)
def test_copies_of_rows_that_need_an_id_get_one_that_is_free(
    kind: pa.DataType, ids: list[Any], new: list[Any], tmp_path: Path
) -> None:
    schema = pa.schema([pa.field("id", kind, nullable=False), ("prompt", pa.string()), ("completion", pa.string())])
    path = stored(tmp_path, {"id": ids, **PAIRS}, schema)
    done = exported(path, Change(exposures={ids_of(path)[0]: 3.0}))
    assert pq.read_schema(done) == schema
    rows = pq.read_table(done).to_pylist()
    assert [row["id"] for row in rows if row["prompt"] == "q1?"] == [ids[0], *new]
    assert read(done).quarantine.num_rows == 0


def test_copies_are_refused_in_words_where_no_id_is_free(tmp_path: Path) -> None:
    schema = pa.schema(
        [pa.field("id", pa.uint8(), nullable=False), ("prompt", pa.string()), ("completion", pa.string())]
    )
    columns = {"id": list(range(256)), "prompt": [f"q{n}?" for n in range(256)], "completion": ["a"] * 256}
    path = stored(tmp_path, columns, schema)
    with pytest.raises(DataFormatError, match=r"'id'.*uint8"):
        exported(path, Change(exposures={ids_of(path)[0]: 2.0}))
    assert not (tmp_path / "out.parquet").exists()


def test_ids_of_copies_are_free_in_json_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    rows = [{"id": name, "prompt": f"{name}?", "completion": "a"} for name in ("x", "x#2", 3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = ids_of(path)
    done = exported(path, Change(exposures={keys[0]: 2.0, keys[2]: 2.0}))
    found = [json.loads(line)["id"] for line in done.read_text().splitlines()]
    assert sorted(found, key=str) == [3, None, "x", "x#2", "x#3"]
    assert read(done).quarantine.num_rows == 0


def test_probes_that_may_not_be_null_are_emptied_with_their_turn(tmp_path: Path) -> None:
    rows = [dialogue(), dialogue()]
    kind = pa.array(rows).type
    schema = pa.schema([pa.field("messages", kind), pa.field("probes", pa.list_(pa.string()), nullable=False)])
    path = stored(tmp_path, {"messages": rows, "probes": [["The u is ___"], []]}, schema)
    done = exported(path, Change(removed={ids_of(path)[0]: "Wrong."}))
    assert pq.read_table(done)["probes"].to_pylist() == [[], []]


@pytest.mark.parametrize(
    ("text", "new", "wanted"),
    [
        (' {"a" : 1.0, "b":[ ]} ', {"a": 1, "b": []}, ' {"a" : 1.0, "b":[ ]} '),
        ('{"a":1,"a":2}', {"a": 3}, '{"a":1,"a":3}'),
        ("{ }", {"a": 1}, '{"a": 1 }'),
        ("[ 1, [2,3] , 4 ]", [1, [2]], "[ 1, [2] ]"),
        ("[1, 2]", [], "[]"),
        ("[1]", [1, 2], "[1, 2]"),
        (r'{"\u0061":"x","c":"\ud83d"}', {"a": "é", "c": "\ud83d"}, r'{"\u0061":"é","c":"\ud83d"}'),
        ('{"a":{"b":1,"c":2},"d":1.0}', {"a": {"c": 2}, "d": 1}, '{"a":{"c": 2},"d":1.0}'),
        ('"x"', "\ud83d", r'"\ud83d"'),
        ('{"a":{"b":null,"c":NaN}}', {"a": {"b": {"d": True}, "c": None}}, '{"a":{"b":{"d": true},"c":NaN}}'),
    ],
)
def test_json_text_is_rewritten_only_where_its_value_differs(text: str, new: object, wanted: str) -> None:
    old = json.loads(text, parse_constant=lambda _: None)
    assert respelled(text, old, new) == wanted
