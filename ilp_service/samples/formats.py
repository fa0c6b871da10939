"""Rows to turns: the row formats, how each is recognised, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ilp_service.samples.sample import Message, Probe
from ilp_service.samples.sources import kind

Columns = Mapping[str, object]

ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)

_ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK = re.compile("_{3,}")


class RowRefusedError(Exception):
    """A row that cannot become a sample; the message is the reason, in one sentence."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant turn of a row, before it has an id and a place in the file."""

    context: tuple[Message, ...]
    response: str
    chat: bool
    choices: tuple[str, ...] | None = None
    gold_index: int | None = None
    plain_prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """The turns of one row, and how many assistant turns only serve as context."""

    turns: tuple[Turn, ...]
    context_only: int = 0


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A row format: the columns that give it away, all it reads, and its parser."""

    needs: tuple[frozenset[str], ...]
    reads: frozenset[str]
    parse: Callable[[Columns], Parsed]

    def recognises(self, names: Iterable[str]) -> bool:
        """Whether columns of these names make a row of this format."""
        present = set(names)
        return any(needed <= present for needed in self.needs)


def text_of(value: object, name: str, *, may_be_empty: bool = False) -> str:
    """A column's text, checked.

    Raises:
        RowRefusedError: Missing, of another type, empty, or not encodable as UTF-8.
    """
    if value is None:
        raise RowRefusedError(f"{name} is missing.")
    if not isinstance(value, str):
        raise RowRefusedError(f"{name} is {kind(value)}, expected text.")
    if not may_be_empty and not value.strip():
        raise RowRefusedError(f"{name} is empty.")
    if found := _LONE_SURROGATE.search(value):
        code = ord(found.group())
        what = (
            f"the byte 0x{code - 0xDC00:02x}"
            if 0xDC80 <= code <= 0xDCFF
            else f"half of a surrogate pair (\\u{code:04x})"
        )
        raise RowRefusedError(f"{name} holds {what}, which is not valid UTF-8.")
    return value


def _message(value: object, place: str) -> tuple[Message, bool]:
    """A message and whether it may be learned (an explicit weight of 0 says no)."""
    if not isinstance(value, dict):
        raise RowRefusedError(f"{place} is {kind(value)}, expected an object with a role and a content.")
    role = value.get("role") if value.get("role") is not None else value.get("from")
    role = text_of(role, f"The role of {place.lower()}")
    known = _ROLES.get(role.strip().lower())
    if known is None:
        raise RowRefusedError(f"{place} has the role {role[:40]!r}, expected system, user, assistant or tool.")
    if value.get("tool_calls") or value.get("function_call"):
        raise RowRefusedError(f"{place} calls a tool, expected a turn of text.")
    content = value.get("content") if value.get("content") is not None else value.get("value")
    if isinstance(content, list):
        content = _joined_parts(content, place)
    empty_allowed = known in ("system", "developer", "tool")
    message = Message(known, text_of(content, f"The text of {place.lower()} ({known})", may_be_empty=empty_allowed))
    return message, value.get("weight") != 0


def taught_places(messages: Sequence[object], before: int = 0) -> list[int]:
    """Indices of the messages of a readable row that are samples: assistant turns with a text before them.

    Args:
        messages: The list as it stands in the row.
        before: Messages that come before it.
    """
    places = []
    for place, value in enumerate(messages):
        message, learned = _message(value, f"Message {place + 1}")
        if message.role == "assistant" and learned and before + place > 0:
            places.append(place)
    return places


def _joined_parts(parts: Sequence[object], place: str) -> str:
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            raise RowRefusedError(f"{place} holds a part that is no text, expected text alone.")
        texts.append(text)
    return "".join(texts)


def _messages(value: object, column: str) -> list[tuple[Message, bool]]:
    if value is None:
        raise RowRefusedError(f"'{column}' is missing.")
    if not isinstance(value, list):
        raise RowRefusedError(f"'{column}' is {kind(value)}, expected a list of messages.")
    if not value:
        raise RowRefusedError(f"'{column}' is an empty list.")
    return [_message(item, f"Message {index} of '{column}'") for index, item in enumerate(value, start=1)]


def _turns(messages: Sequence[tuple[Message, bool]], first: int = 0) -> Parsed:
    """Each assistant message from index ``first`` on, with everything before it as context."""
    context = tuple(message for message, _ in messages)
    turns, context_only = [], 0
    for index, (message, learned) in enumerate(messages):
        if message.role != "assistant" or index < first:
            continue
        if learned and index > 0:
            turns.append(Turn(context[:index], message.content, chat=True))
        else:
            context_only += 1
    if not turns:
        raise RowRefusedError("The row has no assistant turn to learn, with a message before it.")
    return Parsed(tuple(turns), context_only)


def _with_system(row: Columns, messages: list[tuple[Message, bool]]) -> list[tuple[Message, bool]]:
    system = row.get("system")
    if system is None or system == "" or messages[0][0].role == "system":
        return messages
    return [(Message("system", text_of(system, "'system'")), True), *messages]


def _parse_messages(row: Columns) -> Parsed:
    return _turns(_with_system(row, _messages(row.get("messages"), "messages")))


def _parse_sharegpt(row: Columns) -> Parsed:
    return _turns(_with_system(row, _messages(row.get("conversations"), "conversations")))


def _prompt(row: Columns) -> tuple[list[tuple[Message, bool]], bool]:
    """The messages of a prompt, and whether it was written as a conversation."""
    value = row.get("prompt")
    if isinstance(value, list):
        return _messages(value, "prompt"), True
    return [(Message("user", text_of(value, "'prompt'")), True)], False


def _parse_prompt_response(row: Columns) -> Parsed:
    column = "completion" if row.get("completion") is not None else "response"
    value = row.get(column)
    if value is None:
        raise RowRefusedError("'completion' or 'response' is missing.")
    context, chat = _prompt(row)
    if isinstance(value, list):
        return _turns([*context, *_messages(value, column)], first=len(context))
    response = text_of(value, f"'{column}'")
    return Parsed((Turn(tuple(message for message, _ in context), response, chat),))


def _parse_alpaca(row: Columns) -> Parsed:
    instruction = text_of(row.get("instruction"), "'instruction'")
    extra = row.get("input")
    given = "" if extra is None else text_of(extra, "'input'", may_be_empty=True)
    if row.get("history"):
        raise RowRefusedError("The row has a 'history' of earlier turns; write it as 'messages'.")
    response = text_of(row.get("output"), "'output'")
    template = ALPACA_WITH_INPUT if given.strip() else ALPACA_WITHOUT_INPUT
    plain = template.format(instruction=instruction, input=given)
    context = [Message("user", f"{instruction}\n\n{given}" if given.strip() else instruction)]
    system = row.get("system")
    if system is not None and system != "":
        context.insert(0, Message("system", text_of(system, "'system'")))
        plain = f"{context[0].content}\n\n{plain}"
    return Parsed((Turn(tuple(context), response, chat=False, plain_prompt=plain),))


def _parse_multiple_choice(row: Columns) -> Parsed:
    context, chat = _prompt(row)
    choices = row.get("choices")
    if choices is None:
        raise RowRefusedError("'choices' is missing.")
    if not isinstance(choices, list):
        raise RowRefusedError(f"'choices' is {kind(choices)}, expected a list of texts.")
    texts = tuple(text_of(choice, f"Choice {index} of 'choices'") for index, choice in enumerate(choices))
    if len(texts) < 2:
        raise RowRefusedError(f"'choices' has {len(texts)} entries, expected two or more.")
    gold = row.get("gold_index")
    if gold is None:
        raise RowRefusedError("'gold_index' is missing.")
    if isinstance(gold, float) and gold.is_integer():
        gold = int(gold)
    if isinstance(gold, bool) or not isinstance(gold, int):
        raise RowRefusedError(f"'gold_index' is {kind(gold)}, expected a whole number.")
    if not 0 <= gold < len(texts):
        raise RowRefusedError(f"'gold_index' is {gold}, expected 0 to {len(texts) - 1}.")
    if texts.count(texts[gold]) > 1:
        raise RowRefusedError("The right choice stands twice in 'choices'.")
    messages = tuple(message for message, _ in context)
    return Parsed((Turn(messages, texts[gold], chat, choices=texts, gold_index=gold),))


def _names(*names: str) -> frozenset[str]:
    return frozenset(names)


FORMATS: dict[str, RowFormat] = {
    "multiple_choice": RowFormat(
        (_names("prompt", "choices", "gold_index"),), _names("prompt", "choices", "gold_index"), _parse_multiple_choice
    ),
    "messages": RowFormat((_names("messages"),), _names("messages", "system"), _parse_messages),
    "sharegpt": RowFormat((_names("conversations"),), _names("conversations", "system"), _parse_sharegpt),
    "alpaca": RowFormat(
        (_names("instruction", "output"),),
        _names("instruction", "input", "output", "system", "history"),
        _parse_alpaca,
    ),
    "prompt_response": RowFormat(
        (_names("prompt", "completion"), _names("prompt", "response")),
        _names("prompt", "completion", "response"),
        _parse_prompt_response,
    ),
}
"""Row formats in the order in which they are tried."""


def detect(rows: Sequence[Columns]) -> str | None:
    """The format that most of the rows have, ties by the order of ``FORMATS``; ``None`` where no row has one."""
    counts = dict.fromkeys(FORMATS, 0)
    for row in rows:
        found = next((name for name, row_format in FORMATS.items() if row_format.recognises(row)), None)
        if found is not None:
            counts[found] += 1
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else None


def parse_paraphrases(value: object) -> tuple[str, ...]:
    """The ``paraphrases`` column: the last question of the row in other words.

    Raises:
        RowRefusedError: Not a list of texts.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RowRefusedError(f"'paraphrases' is {kind(value)}, expected a list.")
    return tuple(text_of(item, f"Paraphrase {index} of 'paraphrases'") for index, item in enumerate(value, start=1))


def parse_probes(value: object, response: str) -> tuple[Probe, ...]:
    """The ``probes`` column: objects with ``text`` and ``answer``, or texts that the response completes.

    A text may end in a blank (``___``), which is taken off; a blank elsewhere is refused, because a
    probe is read from left to right.

    Raises:
        RowRefusedError: Not a list, or an entry that is no probe.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RowRefusedError(f"'probes' is {kind(value)}, expected a list.")
    probes = []
    for index, item in enumerate(value, start=1):
        place = f"Probe {index} of 'probes'"
        if isinstance(item, dict):
            answer = item.get("answer")
            text = text_of(item.get("text"), f"The text of {place.lower()}")
            answer = response if answer is None else text_of(answer, f"The answer of {place.lower()}")
        else:
            text, answer = text_of(item, place), response
        head, *rest = _BLANK.split(text)
        if len(rest) > 1 or (rest and rest[0].strip(" \t\r\n.!?")) or not head.strip():
            raise RowRefusedError(f"{place} has its blank elsewhere than at the end.")
        probes.append(Probe(head.rstrip(), answer.strip()))
    return tuple(probes)
