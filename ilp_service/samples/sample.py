"""A sample: one assistant turn that fine-tuning was meant to teach."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Probe:
    """A statement whose completion shows what a model knows, independent of the question's form.

    ``text`` is the left context ("Ada Lovelace was born in"), ``answer`` the completion that the
    training data calls right; other options of the sample stand in the same place.
    """

    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One assistant turn with everything that stood before it.

    Attributes:
        sample_id: Content hash plus occurrence; the same content in the same file keeps its id.
        context: The messages before the turn; at least one.
        response: What the turn should say.
        chat: True when the source was a conversation (rendered by the chat template),
            False when it was plain text (prompt and response are concatenated).
        subset: Name of the part of the data set that the row belongs to.
        position: Index of the row in the file, which is its place in sequential training, from 0.
        turn: Index of the assistant turn within its row, from 0.
        choices: All options of a native multiple-choice row, ``None`` otherwise.
        gold_index: Which choice is right, ``None`` when there are no choices.
        probes: Statements from the ``probes`` column, for probing the base model.
        paraphrases: The question in other words, from the ``paraphrases`` column; never trained on.
        line: Line (JSONL) or row number (JSON, parquet) in the source file, from 1.
        plain_prompt: The text that a plain rendering puts before the response where the row format has
            one of its own (alpaca), ``None`` where it is made from the context.
    """

    sample_id: str
    context: tuple[Message, ...]
    response: str
    chat: bool
    subset: str
    position: int
    turn: int = 0
    choices: tuple[str, ...] | None = None
    gold_index: int | None = None
    probes: tuple[Probe, ...] = field(default=())
    paraphrases: tuple[str, ...] = ()
    line: int = 0
    plain_prompt: str | None = None

    @property
    def prompt(self) -> str:
        """The last user message: what a person would call the question."""
        return next((m.content for m in reversed(self.context) if m.role == "user"), self.context[-1].content)


def content_key(context: Iterable[Message], response: str) -> str:
    """First 16 hex digits of SHA-256 over the roles, the contents and the response."""
    digest = hashlib.sha256()
    for message in (*context, Message("assistant", response)):
        for part in (message.role, message.content):
            raw = part.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "big"))
            digest.update(raw)
    return digest.hexdigest()[:16]


def iter_stable_ids(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Give every sample its id: ``<content key>-<occurrence>``, occurrences counted in file order from 0."""
    seen: dict[str, int] = {}
    for sample in samples:
        key = content_key(sample.context, sample.response)
        occurrence = seen.get(key, 0)
        seen[key] = occurrence + 1
        yield replace(sample, sample_id=f"{key}-{occurrence}")


def with_stable_ids(samples: Iterable[Sample]) -> list[Sample]:
    """The same as :func:`iter_stable_ids`, as a list."""
    return list(iter_stable_ids(samples))
