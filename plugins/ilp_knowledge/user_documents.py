"""Documents that the user has, by entity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ilp_knowledge._texts import rows_of
from ilp_knowledge._words import words_of
from ilp_service.plugin import Document, KnowledgeSource, KnowledgeSourceError, Query, Setup

_OPTION = "knowledge_sources.user_documents"
_COLUMNS = ("entity", "text")
_KINDS = (".csv", ".jsonl", ".ndjson", ".parquet", ".pq")

_Key = tuple[str, ...]


class UserDocuments(KnowledgeSource):
    """A file with the columns ``entity`` and ``text``; case, white space and punctuation of an entity do not matter."""

    name: ClassVar[str] = "user_documents"
    title: ClassVar[str] = "Documents of your own, by entity"

    def missing(self, setup: Setup) -> str | None:
        """It needs a file."""
        return None if setup.options[_OPTION] else f"{_OPTION} is not set."

    def documents(self, queries: Sequence[Query], limit: int, setup: Setup) -> Sequence[Sequence[Document]]:
        """The documents about a query's entity, else about the longest entities that its prompt names, in file order.

        The score is 1 for the query's own entity, and the share of the prompt's words for one that the prompt names.

        Raises:
            KnowledgeSourceError: The file cannot be used.
        """
        wanted = [_wanted(query) for query in queries]
        texts = _texts(Path(setup.options[_OPTION]), {key for keys in wanted for key in keys}, limit)
        return [_chosen(texts, keys, limit) for keys in wanted]


def _wanted(query: Query) -> dict[_Key, float]:
    """Names that would answer a query, best first, with their scores."""
    own = tuple(words_of(query.entity or ""))
    prompt = words_of(query.prompt)
    spans = {
        tuple(prompt[begin : begin + length]): length / len(prompt)
        for length in range(len(prompt), 0, -1)
        for begin in range(len(prompt) - length + 1)
        if length <= _LONGEST_NAME
    }
    return ({own: 1.0} if own else {}) | {key: score for key, score in spans.items() if key != own}


_LONGEST_NAME = 12
"""Words of the longest entity that is looked for in a prompt."""


def _texts(path: Path, wanted: set[_Key], limit: int) -> dict[_Key, list[tuple[str, int]]]:
    """Distinct texts with their rows, of the wanted entities alone: the file itself need not fit in memory."""
    if not path.is_file():
        raise KnowledgeSourceError(f"{_OPTION} is {path}, which is no file; name a CSV, JSONL or parquet file.")
    if path.suffix.lower() not in _KINDS:
        raise KnowledgeSourceError(f"{_OPTION} is {path}; expected a file ending in {', '.join(_KINDS)}.")
    found: dict[_Key, dict[str, int]] = {}
    empty = True
    for number, row in rows_of(path, _COLUMNS):
        empty = False
        entity, text = row["entity"], row["text"]
        if not isinstance(entity, str) or not isinstance(text, str):
            raise KnowledgeSourceError(
                f"{path}, row {number}, holds an entity or a text that is no text; mend the row."
            )
        key = tuple(words_of(entity))
        if key in wanted and text.strip() and len(texts := found.setdefault(key, {})) < limit:
            texts.setdefault(text.strip(), number)
    if empty:
        raise KnowledgeSourceError(f"{path} has no rows; expected the columns 'entity' and 'text'.")
    return {key: list(texts.items()) for key, texts in found.items()}


def _chosen(texts: dict[_Key, list[tuple[str, int]]], keys: dict[_Key, float], limit: int) -> list[Document]:
    """Of the first name that has any; of several names in a prompt those of one length count alike."""
    hits = [(key, score) for key, score in keys.items() if key in texts]
    best = [(key, score) for key, score in hits if score == hits[0][1]]
    documents = [
        Document(text, f"your documents, row {number}", score) for key, score in best for text, number in texts[key]
    ]
    return list({document.text: document for document in reversed(documents)}.values())[::-1][:limit]
