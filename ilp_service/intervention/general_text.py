"""General text that continued pre-training mixes in, and a part of it that is never trained on."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.errors import KnowledgeSourceError
from ilp_service.settings import Settings

MOST_PASSAGES = 200_000
"""Passages that are kept of a larger corpus, chosen by a hash of their text."""

HELD_OUT_SHARE = 0.05
MOST_HELD_OUT = 200

_ROWS = {".jsonl", ".ndjson", ".parquet", ".pq"}
_ENDINGS = _ROWS | {".txt", ".md"}


@dataclass(frozen=True, slots=True)
class GeneralText:
    """Passages of general text.

    Attributes:
        texts: What may be trained on, in the order of the corpus.
        held_out: What never is; empty where there is but one passage.
        digest: Of ``texts``.
        source: Where they come from, for people.
    """

    texts: tuple[str, ...]
    held_out: tuple[str, ...]
    digest: str
    source: str

    def without(self, documents: Iterable[str]) -> GeneralText:
        """The same without held-out passages that a document to be trained on holds or is held by."""
        taught = [_plain(text) for text in documents]
        kept = tuple(
            text
            for text in self.held_out
            if not any(_plain(text) in document or document in _plain(text) for document in taught if document)
        )
        return replace(self, held_out=kept)

    def trained(self, _number: int) -> tuple[str, ...]:
        """What is read in a pass: every pass has all of it, in an order that the training draws."""
        return self.texts


def read_general_text(settings: Settings, *, seed: int) -> GeneralText | None:
    """The text of ``intervention.general_text``, else of ``knowledge_sources.corpus``; ``None`` without either.

    Longer texts are cut into passages of ``knowledge_sources.corpus_passage_words`` words. No passage is there twice,
    so that what is held out is in no training.

    Args:
        settings: Name the files.
        seed: Of what is held out.

    Raises:
        KnowledgeSourceError: The files cannot be used.
    """
    own = settings.intervention.general_text
    path, column = own, settings.intervention.general_field
    if path is None:
        path, column = settings.knowledge_sources.corpus, settings.knowledge_sources.corpus_field
    if path is None:
        return None
    name = "knowledge_sources.corpus" if own is None else "intervention.general_text"
    kept: list[tuple[int, int, str]] = []
    seen: set[bytes] = set()
    words = settings.knowledge_sources.corpus_passage_words
    passages = (piece for file in _files(path, name) for text in _texts(file, column) for piece in _pieces(text, words))
    for place, text in enumerate(passages):
        key = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
        if key in seen:
            continue
        seen.add(key)
        # The largest hash lies on top, to be thrown out by a smaller one.
        entry = (-int.from_bytes(key[:8]), place, text)
        if len(kept) < MOST_PASSAGES:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)
    if not kept:
        raise KnowledgeSourceError(f"{path} ({name}) holds no text; expected at least one passage.")
    ranked = sorted(kept, reverse=True)
    count = min(MOST_HELD_OUT, max(round(HELD_OUT_SHARE * len(ranked)), int(len(ranked) > 1)))
    in_order = [sorted(part, key=lambda entry: entry[1]) for part in (ranked[count:], ranked[:count])]
    texts, held_out = (tuple(text for _, _, text in part) for part in in_order)
    digest = hashlib.sha256(b"".join(hashlib.sha256(text.encode()).digest() for text in texts)).hexdigest()
    return GeneralText(texts, held_out, digest, f"{name} {path}")


def _plain(text: str) -> str:
    return " ".join(text.split())


def _files(path: Path, name: str) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in _ENDINGS)
    if not found:
        raise KnowledgeSourceError(
            f"{path} ({name}) is no file, and no folder with any; expected {', '.join(sorted(_ENDINGS))}."
        )
    return found


def _texts(path: Path, column: str) -> Iterator[str]:
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            yield from _parquet(path, column)
        elif path.suffix.lower() in _ROWS:
            yield from _json_lines(path, column)
        else:
            yield from _paragraphs(path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        first = (str(error).splitlines() or [""])[0][:200].rstrip(".")
        raise KnowledgeSourceError(f"{path} cannot be read ({first}); expected UTF-8 text or parquet.") from error


def _parquet(path: Path, column: str) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise _lacks(f"{path}", column, file.schema_arrow.names)
        for batch in file.iter_batches(1024, columns=[column]):
            yield from (text for text in batch.column(0).to_pylist() if isinstance(text, str))


def _json_lines(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise KnowledgeSourceError(f"{path}, line {number}, is no JSON object; expected one a line.")
            if column not in row:
                raise _lacks(f"{path}, line {number},", column, list(row))
            if isinstance(row[column], str):
                yield row[column]


def _paragraphs(path: Path) -> Iterator[str]:
    """What blank lines part."""
    lines: list[str] = []
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                lines.append(line.strip())
            elif lines:
                yield " ".join(lines)
                lines = []
    if lines:
        yield " ".join(lines)


def _lacks(where: str, column: str, has: list[str]) -> KnowledgeSourceError:
    return KnowledgeSourceError(f"{where} has no column {column!r}; found {(', '.join(has) or 'none')[:200]}.")


def _pieces(text: str, words: int) -> Iterator[str]:
    """A text as it stands, or cut into passages of so many words."""
    parts = text.split()
    if len(parts) <= words:
        if parts:
            yield text.strip()
        return
    bounds = [*range(0, len(parts), words), len(parts)]
    yield from (" ".join(parts[begin:end]) for begin, end in pairwise(bounds))
