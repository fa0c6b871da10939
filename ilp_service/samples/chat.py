"""The tokenizer's chat template: a conversation as text, cut where the assistant's turn begins and ends."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import jinja2

from ilp_service.errors import TokenizerError
from ilp_service.samples.sample import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FIXED_DATE = datetime(2024, 7, 26, tzinfo=UTC)
# A template may ask for today's date, and then the same data would have other tokens tomorrow. The function
# cannot be handed in (only plain data passes), so a macro of the same name stands before the template.
_FIXED_CLOCK = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f" | replace('%{code}', '{_FIXED_DATE.strftime('%' + code)}')" for code in "aAbBdmyYHMSjp")
    + " }}{%- endmacro -%}"
)
_TEMPLATE_FAILURES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class RenderRefusedError(Exception):
    """A sample that the template cannot show; the message is the reason, in one sentence."""


class ChatTemplate:
    """The tokenizer's own template, applied the way ``transformers`` and TRL apply it.

    Raises:
        TokenizerError: The tokenizer has no chat template, or several and none of them is the default.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        try:
            source = tokenizer.get_chat_template()
        except ValueError as error:
            raise TokenizerError(
                "The tokenizer has no default chat template, but data.rendering is 'chat'; "
                "add a chat_template to it or set data.rendering=plain."
            ) from error
        self._source = _FIXED_CLOCK + source if "strftime_now" in source else source
        self.digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._last: tuple[Sequence[Message], str] | None = None
        markers = sorted((re.escape(text) for text in tokenizer.get_added_vocab() if text.strip()), key=len)
        alternatives = "|".join(reversed(markers)) or "(?!)"
        self._markers = re.compile(f"(?:{alternatives})+")
        self.turn_end = self._turn_end()

    def split(self, context: Sequence[Message], response: str) -> tuple[str, str]:
        """The conversation as text: all before the assistant's turn, and the turn up to its end marker.

        The prompt is the template's text with a generation prompt. Where the finished conversation does not go
        on from it (templates that open a thinking block), it is cut before the response's own text.

        Raises:
            RenderRefusedError: The template refuses the conversation, or does not keep the response.
        """
        prompt = self._prompt(context)
        full = self._apply((*context, Message("assistant", response)), generation_prompt=False)
        wanted = response.strip()
        if not full.startswith(prompt):
            start = full.rfind(response) if response in full else full.rfind(wanted)
            if start < 0:
                raise RenderRefusedError("The chat template does not keep the response.")
            prompt = full[:start]
        rest = full[len(prompt) :]
        start = rest.rfind(wanted)
        if start < 0 and wanted[-20:] not in rest:
            raise RenderRefusedError("The chat template does not keep the response.")
        end = start + len(wanted) if start >= 0 else rest.rfind(wanted[-20:]) + len(wanted[-20:])
        return prompt, rest[:end] + self._terminator(rest[end:])

    def _prompt(self, context: Sequence[Message]) -> str:
        if self._last is None or self._last[0] != context:
            self._last = (context, self._apply(context, generation_prompt=True))
        return self._last[1]

    def _terminator(self, suffix: str) -> str:
        """What ends the turn: up to the first run of special tokens; white space after it is not said by a model."""
        if marker := self._markers.search(suffix):
            return suffix[: marker.end()]
        return suffix.rstrip() or suffix

    def _turn_end(self) -> str:
        try:
            response = self.split((Message("user", "question"),), "answer")[1]
        except RenderRefusedError:
            return ""
        return response.rpartition("answer")[2]

    def _apply(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.content} for message in messages],
                chat_template=self._source,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                date_string=_FIXED_DATE.strftime("%d %b %Y"),
            )
        except _TEMPLATE_FAILURES as error:
            said = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
            raise RenderRefusedError(f"The chat template refuses the conversation: {said}.") from error
        return str(text)
