"""Documents of the user's own: whose they are, and which files are refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ilp_knowledge import UserDocuments

from ilp_service.plugin import KnowledgeSourceError, Query
from ilp_service.testing import check_source
from tests.knowledge.conftest import MakeSetup

ROWS = [
    ("Ada Lovelace", "She wrote about the engine."),
    ("ADA  lovelace", "She was born in 1815."),
    ("Ada", "A language."),
    ("fox", "It lives in the wood, and\nsleeps by day."),
    ("Ada Lovelace", "She wrote about the engine."),
    ("fox", "  "),
]


def written(folder: Path, kind: str) -> Path:
    path = folder / f"documents.{kind}"
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows([("entity", "text"), *ROWS])
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"entity": entity, "text": text}) + "\n" for entity, text in ROWS))
    else:
        pq.write_table(pa.table({"text": [text for _, text in ROWS], "entity": [entity for entity, _ in ROWS]}), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_entity_gets_its_documents_in_file_order(tmp_path: Path, setup_of: MakeSetup, kind: str) -> None:
    setup = setup_of(f"knowledge_sources.user_documents={written(tmp_path, kind)}")
    queries = [
        Query("own", "Who was it?", "Ada Lovelace."),
        Query("named in the prompt", "When was Ada Lovelace born?"),
        Query("another entity", "When was Ada Lovelace born?", "Fox"),
        Query("nobody", "Where does the heron live?", "heron"),
    ]
    own, named, fox, nobody = UserDocuments().documents(queries, 5, setup)
    assert [one.text for one in own] == ["She wrote about the engine.", "She was born in 1815."]
    assert [one.text for one in named] == [one.text for one in own]
    assert {one.score for one in own} == {1.0}
    assert {one.score for one in named} == {2 / 5}
    assert [one.text for one in fox] == [ROWS[3][1]]
    assert [one.source for one in own] == ["your documents, row 1", "your documents, row 2"]
    assert nobody == []


def test_it_keeps_the_contract(tmp_path: Path, setup_of: MakeSetup) -> None:
    check_source(UserDocuments(), setup_of(f"knowledge_sources.user_documents={written(tmp_path, 'csv')}"))
    check_source(UserDocuments())


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (None, b"", "which is no file"),
        ("d.txt", b"x", "expected a file ending in .csv"),
        ("d.csv", b"entity,body\na,b\n", "has no column 'text'; found entity, body"),
        ("d.csv", b"entity,text\n", "has no rows"),
        ("d.csv", b"entity,text\nfox\n", "row 1, holds an entity or a text that is no text"),
        ("d.jsonl", b'{"entity": "fox", "text": 3}', "row 1, holds an entity or a text that is no text"),
        ("d.jsonl", b'{"entity": "fox"}', "has no column 'text'"),
        ("d.csv", b"entity,text\n\xff,\xfe\n", "expected UTF-8 text"),
        ("d.parquet", b"no", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_a_sentence(
    tmp_path: Path, setup_of: MakeSetup, name: str | None, content: bytes, reason: str
) -> None:
    path = tmp_path / (name or "nowhere.csv")
    if name:
        path.write_bytes(content)
    with pytest.raises(KnowledgeSourceError) as told:
        UserDocuments().documents([Query("a", "fox", "fox")], 3, setup_of(f"knowledge_sources.user_documents={path}"))
    assert reason in str(told.value)
    assert str(path) in str(told.value)
