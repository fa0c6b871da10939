"""Passages of a corpus on disk, found by BM25."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from ilp_knowledge._index import Index, Passage, build
from ilp_knowledge._texts import PLAIN, ROWS, paragraphs_of, rows_of
from ilp_service.plugin import Document, KnowledgeSource, KnowledgeSourceError, Query, Setup

_OPTION = "knowledge_sources.corpus"
_FORM = 1
"""Of the index on disk; another form is indexed anew."""
_PARAGRAPH_LINES = 200
_BLOCK = 1 << 20


class Corpus(KnowledgeSource):
    """A file or folder of files: JSONL and parquet by their text column, text files by paragraph."""

    name: ClassVar[str] = "corpus"
    title: ClassVar[str] = "Passages of a corpus on disk, by BM25"

    def missing(self, setup: Setup) -> str | None:
        """It needs a file or folder."""
        return None if setup.options[_OPTION] else f"{_OPTION} is not set."

    def documents(self, queries: Sequence[Query], limit: int, setup: Setup) -> Sequence[Sequence[Document]]:
        """The passages that share the rarest words with the prompt and the entity; the score is BM25's.

        The index is built on first use and kept in the work folder under the corpus's digest.

        Raises:
            KnowledgeSourceError: The corpus cannot be used.
        """
        index = Index(_indexed(setup))
        # The entity stands in the prompt as a rule; said again, it weighs twice.
        asked = [f"{query.entity or ''} {query.prompt}" for query in queries]
        return [
            [Document(hit.passage.text, hit.passage.place, hit.score) for hit in hits]
            for hits in index.search(asked, limit)
        ]


def _indexed(setup: Setup) -> Path:
    corpus = Path(setup.options[_OPTION])
    field = str(setup.options["knowledge_sources.corpus_field"])
    words = int(setup.options["knowledge_sources.corpus_passage_words"])
    files = _files(corpus)
    folder = setup.work_dir / "knowledge" / f"bm25-{_digest(files, corpus, field, words)}"
    if (folder / "index.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        passages = (passage for file in files for passage in _passages(file, corpus, field, words))
        if not build(passages, making, int(setup.options["knowledge_sources.corpus_shard_passages"])):
            raise KnowledgeSourceError(f"{_OPTION} is {corpus}, which holds no text; name files with text.")
        try:
            making.rename(folder)
        except OSError:
            # Somebody else finished the same index meanwhile.
            if not (folder / "index.json").exists():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _files(corpus: Path) -> list[Path]:
    """The files to read, ordered by their path."""
    kinds = (*ROWS, *PLAIN)
    try:
        if corpus.is_dir():
            files = sorted(path for path in corpus.rglob("*") if path.suffix.lower() in kinds and path.is_file())
        else:
            files = [corpus] if corpus.is_file() else []
    except OSError as error:
        raise KnowledgeSourceError(f"{_OPTION} is {corpus}, which cannot be read ({error.strerror}).") from error
    if not corpus.exists():
        raise KnowledgeSourceError(f"{_OPTION} is {corpus}, which does not exist; name a file or a folder.")
    if not files or files[0].suffix.lower() not in kinds:
        raise KnowledgeSourceError(f"{_OPTION} is {corpus}; expected files ending in {', '.join(kinds)}.")
    return files


def _digest(files: Sequence[Path], corpus: Path, field: str, words: int) -> str:
    digest = hashlib.sha256(json.dumps([_FORM, field, words]).encode())
    for file in files:
        digest.update(f"\0{_named(file, corpus)}\0".encode("utf-8", "surrogateescape"))
        try:
            with file.open("rb") as opened:
                while block := opened.read(_BLOCK):
                    digest.update(hashlib.sha256(block).digest())
        except OSError as error:
            raise KnowledgeSourceError(f"{file} cannot be read ({error.strerror}); allow reading it.") from error
    return digest.hexdigest()[:24]


def _named(file: Path, corpus: Path) -> str:
    return str(file.relative_to(corpus)) if corpus != file else file.name


def _passages(file: Path, corpus: Path, field: str, words: int) -> Iterator[Passage]:
    name = _named(file, corpus)
    if file.suffix.lower() in PLAIN:
        for line, paragraph in paragraphs_of(file, _PARAGRAPH_LINES):
            yield from _cut(paragraph, f"{name}, line {line}", words)
        return
    for number, row in rows_of(file, (field,)):
        text = row[field]
        if text is None:
            continue
        if not isinstance(text, str):
            raise KnowledgeSourceError(
                f"{file}, row {number}, has {type(text).__name__} in {field!r}; expected text, or name the text's "
                "column with knowledge_sources.corpus_field."
            )
        yield from _cut(text, f"{name}, row {number}", words)


def _cut(text: str, place: str, longest: int) -> Iterator[Passage]:
    """The text in passages of at most ``longest`` words; one that is short enough stays as it is written."""
    parts = text.split()
    if len(parts) <= longest:
        if parts:
            yield Passage(text.strip(), place)
        return
    for begin in range(0, len(parts), longest):
        yield Passage(" ".join(parts[begin : begin + longest]), f"{place}, word {begin + 1}")
