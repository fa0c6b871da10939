"""General text is read from what people have, and what is held out is in no training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilp_service.errors import KnowledgeSourceError
from ilp_service.intervention.general_text import GeneralText, read_general_text
from ilp_service.settings import load_settings

TEXTS = [f"Passage number {number} is about rivers." for number in range(60)]


def read(path: Path, *overrides: str, seed: int = 0) -> GeneralText:
    found = read_general_text(load_settings({}, [f"intervention.general_text={path}", *overrides]), seed=seed)
    assert found is not None
    return found


def jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_every_form_gives_the_same_passages(tmp_path: Path) -> None:
    wanted = read(jsonl(tmp_path / "a.jsonl", TEXTS))
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS))
    (tmp_path / "folder").mkdir()
    jsonl(tmp_path / "folder" / "1.jsonl", TEXTS[:30])
    jsonl(tmp_path / "folder" / "2.jsonl", TEXTS[30:])
    for name in ("a.parquet", "a.txt", "folder"):
        found = read(tmp_path / name)
        assert (found.texts, found.held_out, found.digest) == (wanted.texts, wanted.held_out, wanted.digest)


def test_a_twentieth_is_held_out_and_never_trained_on(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", TEXTS * 3)
    found = read(path)
    assert len(found.held_out) == 3
    assert not set(found.held_out) & set(found.texts)
    assert sorted([*found.texts, *found.held_out]) == sorted(TEXTS)
    assert list(found.texts) == [text for text in TEXTS if text in found.texts]
    assert read(path) == found
    assert read(path, seed=1).held_out != found.held_out


def test_what_documents_teach_is_not_held_out(tmp_path: Path) -> None:
    found = read(jsonl(tmp_path / "a.jsonl", TEXTS))
    taught = found.without([f"Before. {found.held_out[0]} After."])
    assert taught.held_out == found.held_out[1:]
    assert (taught.texts, taught.digest) == (found.texts, found.digest)


def test_long_texts_are_cut_into_passages(tmp_path: Path) -> None:
    found = read(
        jsonl(tmp_path / "a.jsonl", [" ".join(map(str, range(20)))]), "knowledge_sources.corpus_passage_words=8"
    )
    assert sorted(len(text.split()) for text in (*found.texts, *found.held_out)) == [4, 8, 8]


def test_the_corpus_of_the_knowledge_sources_serves_where_nothing_else_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", TEXTS)
    found = read_general_text(load_settings({}, [f"knowledge_sources.corpus={path}"]), seed=0)
    assert found == replace(read(path), source=f"knowledge_sources.corpus {path}")
    assert read_general_text(load_settings(), seed=0) is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"body": "x"}\n', "line 1, has no column 'text'; found body"),
        ("a.jsonl", "[1]\n", "line 1, is no JSON object"),
        ("a.parquet", "nothing", "cannot be read"),
        ("a.txt", " \n\n", "holds no text"),
        ("a/b.bin", "x", "is no file, and no folder with any"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(KnowledgeSourceError, match=said):
        read(path if path.parent == tmp_path else path.parent)
