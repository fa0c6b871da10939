"""The corpus: scores are BM25's whatever the shards, the index is made once, bad files are told in a sentence."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import bm25s
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ilp_knowledge import Corpus
from ilp_knowledge._index import Index, Passage, build

from ilp_service.plugin import KnowledgeSourceError, Query
from ilp_service.testing import check_source
from tests.knowledge.conftest import MakeSetup

FACTS = ["The fox lives in the wood.", "The heron lives by the harbour.", "A tower has number 3.", "The wood is old."]


def made_up(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    words = [f"w{number}" for number in range(200)]
    share = 1 / np.arange(1, 201)
    return [" ".join(rng.choice(words, size=rng.integers(3, 30), p=share / share.sum())) for _ in range(count)]


def index_of(texts: list[str], folder: Path, shard: int) -> Index:
    folder.mkdir()
    assert build((Passage(text, str(at)) for at, text in enumerate(texts)), folder, shard) == len(texts)
    return Index(folder)


def test_the_size_of_a_shard_changes_nothing(tmp_path: Path) -> None:
    texts, queries = made_up(120), made_up(12, seed=1)
    found = [index_of(texts, tmp_path / str(shard), shard).search(queries, 8) for shard in (1, 7, 50, 1000)]
    assert found[0] == found[1] == found[2] == found[3]
    assert all(found[0])


def test_scores_are_those_of_bm25s_and_none_is_missed(tmp_path: Path) -> None:
    texts, queries = made_up(150), made_up(10, seed=2)
    reference = bm25s.BM25(method="lucene")
    reference.index([text.split() for text in texts], show_progress=False)
    for query, hits in zip(queries, index_of(texts, tmp_path / "i", 40).search(queries, 5), strict=True):
        known = reference.get_scores([word for word in query.split() if word in reference.vocab_dict])
        assert [known[int(hit.passage.place)] for hit in hits] == pytest.approx([hit.score for hit in hits], abs=1e-5)
        assert [hit.score for hit in hits] == pytest.approx(np.sort(known)[::-1][: len(hits)].tolist(), abs=1e-5)


def test_ties_go_to_the_earlier_passage_and_repetitions_are_left_out(tmp_path: Path) -> None:
    texts = ["red stone", "blue stone", "RED stone!", "red brick", "grey sky"]
    hits = index_of(texts, tmp_path / "i", 2).search(["red", "nothing at all"], 5)
    assert [hit.passage.place for hit in hits[0]] == ["0", "3"]
    assert hits[1] == []


def test_memory_holds_a_shard_and_not_the_corpus(tmp_path: Path) -> None:
    count = 10_000

    def stream() -> Iterator[Passage]:
        for number in range(count):
            yield Passage(f"{number % 500} " + "common words that repeat over and over again " * 4, str(number))

    folder = tmp_path / "i"
    folder.mkdir()
    tracemalloc.start()
    build(stream(), folder, 100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The texts alone, held at once, would take more.
    assert peak < 1_000_000
    assert (folder / "passages.jsonl").stat().st_size > 1_500_000


@pytest.mark.parametrize("form", ["facts.jsonl", "facts.parquet", "facts.txt", "folder"])
def test_each_form_of_a_corpus_is_read(tmp_path: Path, setup_of: MakeSetup, form: str) -> None:
    path = tmp_path / form
    if form.endswith(".jsonl"):
        path.write_text("".join(json.dumps({"text": fact, "id": 1}) + "\n\n" for fact in FACTS))
    elif form.endswith(".parquet"):
        pq.write_table(pa.table({"id": range(4), "text": FACTS}), path, row_group_size=2)
    elif form.endswith(".txt"):
        path.write_text("\n\n".join(FACTS))
    else:
        (path / "deep").mkdir(parents=True)
        (path / "b.txt").write_text("\r\n\r\n".join(FACTS[:2]))
        (path / "deep" / "a.jsonl").write_text("".join(json.dumps({"text": fact}) + "\n" for fact in FACTS[2:]))
        (path / "notes.pdf").write_bytes(b"\xff\xfe")
    found = Corpus().documents(
        [Query("a", "Where does the fox live?", "fox")], 2, setup_of(f"knowledge_sources.corpus={path}")
    )
    assert found[0][0].text == FACTS[0]
    assert found[0][0].source.split(",")[0].endswith(("facts" + path.suffix, "b.txt"))
    assert found[0][0].score > found[0][-1].score


def test_it_keeps_the_contract(tmp_path: Path, setup_of: MakeSetup) -> None:
    (tmp_path / "c.txt").write_text("\n\n".join([*FACTS, "Łukasz Ñandú was born in 北京市.", "line by line"]))
    check_source(Corpus(), setup_of(f"knowledge_sources.corpus={tmp_path / 'c.txt'}"))


def test_the_index_is_made_once_for_a_state_of_the_corpus(
    tmp_path: Path, setup_of: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, query = tmp_path / "c.txt", [Query("a", "fox")]
    path.write_text(FACTS[0])
    setup = setup_of(f"knowledge_sources.corpus={path}")
    before = Corpus().documents(query, 3, setup)
    made = sorted((tmp_path / "work" / "knowledge").iterdir())
    assert len(made) == 1
    monkeypatch.setattr("ilp_knowledge.corpus.build", None)
    assert Corpus().documents(query, 3, setup) == before
    monkeypatch.undo()
    path.write_text("The fox moved.")
    assert Corpus().documents(query, 3, setup)[0][0].text == "The fox moved."
    assert len(list((tmp_path / "work" / "knowledge").iterdir())) == 2


def test_a_build_that_was_cut_short_leaves_nothing_behind(
    tmp_path: Path, setup_of: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.txt"
    path.write_text("\n\n".join(FACTS))
    setup = setup_of(f"knowledge_sources.corpus={path}")

    def cut(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ilp_knowledge._index._score", cut)
    with pytest.raises(KeyboardInterrupt):
        Corpus().documents([Query("a", "fox")], 3, setup)
    assert list((tmp_path / "work" / "knowledge").iterdir()) == []
    monkeypatch.undo()
    assert Corpus().documents([Query("a", "fox")], 3, setup)[0]


def test_long_texts_are_cut_into_passages_that_say_where_they_stand(tmp_path: Path, setup_of: MakeSetup) -> None:
    words = [f"w{number}" for number in range(20)]
    (tmp_path / "c.jsonl").write_text(json.dumps({"body": " ".join(words)}) + "\n" + json.dumps({"body": None}))
    setup = setup_of(
        f"knowledge_sources.corpus={tmp_path / 'c.jsonl'}",
        "knowledge_sources.corpus_field=body",
        "knowledge_sources.corpus_passage_words=8",
    )
    found = Corpus().documents([Query("a", "w0 w9 w19")], 5, setup)[0]
    assert sorted(one.source for one in found) == [f"c.jsonl, row 1, word {at}" for at in (1, 17, 9)]
    assert " ".join(one.text for one in sorted(found, key=lambda one: int(one.text.split()[0][1:]))) == " ".join(words)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (None, b"", "does not exist; name a file or a folder"),
        ("c.pdf", b"x", "expected files ending in .jsonl"),
        ("c.txt", b"\n \n", "holds no text"),
        ("c.txt", b"\xff\xfe\x00", "expected UTF-8 text"),
        ("c.jsonl", b"{broken\n", "line 1, is no JSON object"),
        ("c.jsonl", b'\n["text"]\n', "line 2, is no JSON object"),
        ("c.jsonl", b'{"body": "x"}\n', "has no column 'text'; found body"),
        ("c.jsonl", b'{"text": 3}\n', "has int in 'text'"),
        ("c.parquet", b"PAR1", "cannot be read"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_told_in_a_sentence(
    tmp_path: Path, setup_of: MakeSetup, name: str | None, content: bytes, reason: str
) -> None:
    path = tmp_path / (name or "nowhere")
    if name:
        path.write_bytes(content)
    with pytest.raises(KnowledgeSourceError) as told:
        Corpus().documents([Query("a", "fox")], 3, setup_of(f"knowledge_sources.corpus={path}"))
    assert reason in str(told.value)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)
    assert not list((tmp_path / "work").rglob("index.json"))


def test_parquet_without_the_column_and_an_empty_folder(tmp_path: Path, setup_of: MakeSetup) -> None:
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "c.parquet")
    with pytest.raises(KnowledgeSourceError, match="has no column 'text'; found body"):
        Corpus().documents([], 3, setup_of(f"knowledge_sources.corpus={tmp_path}"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(KnowledgeSourceError, match="expected files ending in"):
        Corpus().documents([], 3, setup_of(f"knowledge_sources.corpus={tmp_path / 'empty'}"))


def test_without_a_setting_it_says_which_one() -> None:
    check_source(Corpus())
