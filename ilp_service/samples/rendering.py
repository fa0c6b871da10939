"""Samples to tokens, the one way that training and measuring share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow as pa

from ilp_service.errors import DataFormatError, TokenizerError
from ilp_service.samples.chat import ChatTemplate, RenderRefusedError
from ilp_service.samples.sample import Sample
from ilp_service.settings import DataSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 512
_CHECKED_SAMPLES = 64
_BLOCK_BREAK = "\n\n"


@dataclass(frozen=True, slots=True)
class Rendered:
    """One sample as the model sees it.

    Attributes:
        prompt_ids: Tokens outside the loss; at least one.
        response_ids: Tokens in the loss, the terminator included; at least one.
        prompt_text: The text of the prompt.
        response_text: The text of the response, the terminator included.
        bos_tokens: Beginning-of-sequence tokens at the head of the prompt; two are one too many.
        ends_with_eos: The response ends in the end-of-sequence token or the template's end of turn.
        unknown_tokens: Unknown tokens in prompt and response.
        round_trips: Decoding gives the text back, up to white space and case.
        truncated_tokens: Response tokens beyond ``data.max_length``; the ids themselves are complete.
        merged_boundary: The tokenizer would have merged the end of the prompt with the start of the response,
            so that both were tokenised apart.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    prompt_text: str
    response_text: str
    bos_tokens: int
    ends_with_eos: bool
    unknown_tokens: int
    round_trips: bool
    truncated_tokens: int
    merged_boundary: bool = False


@dataclass(frozen=True, slots=True)
class _Text:
    """A sample as text: the two sides of the loss, and what is added as ids."""

    prompt: str
    response: str
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


class Renderer:
    """Turns samples into tokens with one tokenizer.

    A chat sample is ``apply_chat_template(context, add_generation_prompt=True)`` and what the finished
    conversation adds to it, tokenised without further special tokens. A plain sample is the tokenizer's own
    prefix (a BOS if it adds one), the prompt, ``data.separator`` unless white space stands on either side, the
    response, and the end-of-sequence token.

    Attributes:
        stop_ids: Tokens that end a response: end of sequence and the template's end of turn.

    Raises:
        TokenizerError: ``data.rendering`` is ``chat`` and the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: DataSettings) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        has_template = bool(getattr(tokenizer, "chat_template", None))
        wanted = settings.rendering == "chat" or (settings.rendering == "auto" and has_template)
        self._chat = ChatTemplate(tokenizer) if wanted else None
        self._bos: int | None = tokenizer.bos_token_id
        self._eos: int | None = tokenizer.eos_token_id
        reserved = {self._bos, self._eos, tokenizer.pad_token_id}
        # GPT-2 names one token as unknown, end and beginning; byte-level vocabularies never need the first.
        self._unknown = None if tokenizer.unk_token_id in reserved else tokenizer.unk_token_id
        self._prefix = self._own_prefix()
        turn_end = self._encode([self._chat.turn_end])[0] if self._chat is not None and self._chat.turn_end else ()
        special = set(tokenizer.get_added_vocab().values()) - {self._unknown}
        ends = {token for token in turn_end if token in special}
        self.stop_ids: frozenset[int] = frozenset(ends if self._eos is None else ends | {self._eos})

    def uses_chat(self, sample: Sample) -> bool:
        """Whether the chat template is applied to this sample."""
        return self._chat is not None and (sample.chat or self._settings.rendering == "chat")

    def render(self, sample: Sample, response: str | None = None) -> Rendered:
        """One sample, or the sample with another response in the place of its own.

        Raises:
            DataFormatError: The chat template refuses the sample, or a side of it has no tokens.
        """
        rendered = self.try_render(sample, response)
        if isinstance(rendered, str):
            raise DataFormatError(f"Sample {sample.sample_id} (line {sample.line}) cannot be rendered: {rendered}")
        return rendered

    def try_render(self, sample: Sample, response: str | None = None) -> Rendered | str:
        """The same as :meth:`render`, with the reason in place of an error."""
        return next(self._render_batch([(sample, sample.response if response is None else response)]))

    def render_many(self, samples: Iterable[Sample]) -> Iterator[Rendered | str]:
        """Every sample in order, or the reason why it cannot be rendered; the same as one by one, and faster."""
        remaining = iter(samples)
        while batch := list(islice(remaining, _BATCH)):
            yield from self._render_batch([(sample, sample.response) for sample in batch])

    def render_options(self, sample: Sample, responses: Sequence[str]) -> list[Rendered | str]:
        """One sample with each of several responses; the prompt's tokens are the same for all of them."""
        return list(self._render_batch([(sample, response) for response in responses]))

    def render_statement(self, text: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A statement and its completion: context ids with the tokenizer's prefix, answer ids without terminator.

        Raises:
            DataFormatError: One of the two has no tokens.
        """
        text = text.rstrip(" ")
        rendered = self._from_text(_Text(text, _glue(text, answer) + answer, self._prefix, ()))
        if isinstance(rendered, str):
            raise DataFormatError(f"The statement {text[:80]!r} cannot be rendered: {rendered}")
        return rendered.prompt_ids, rendered.response_ids

    def render_few_shot(self, shots: Sequence[Sample], sample: Sample, response: str | None = None) -> Rendered:
        """A sample after solved examples, always as plain text, blocks apart by an empty line, without terminator.

        A base model has not been taught a chat template, so none is applied.

        Raises:
            DataFormatError: Prompt or response has no tokens.
        """
        answer = sample.response if response is None else response
        solved = "".join("".join(self._plain_sides(shot, shot.response)) + _BLOCK_BREAK for shot in shots)
        prompt, rest = self._plain_sides(sample, answer)
        rendered = self._from_text(_Text(solved + prompt, rest, self._prefix, ()))
        if isinstance(rendered, str):
            raise DataFormatError(f"Sample {sample.sample_id} cannot be rendered after examples: {rendered}")
        return rendered

    def check_round_trip(self, samples: Sequence[Sample]) -> None:
        """Refuse a tokenizer that cannot give the data's text back.

        Looks at evenly spaced samples; facts about single samples are in :func:`rendering_table`.

        Raises:
            TokenizerError: The text of most of them is lost.
        """
        step = max(1, len(samples) // _CHECKED_SAMPLES)
        checked = [found for found in self.render_many(samples[::step]) if isinstance(found, Rendered)]
        lost = [found for found in checked if not found.round_trips]
        if 2 * len(lost) > len(checked):
            first = lost[0]
            given = (first.prompt_text + first.response_text)[-60:]
            back = self._decode([first.prompt_ids + first.response_ids])[0][-60:]
            raise TokenizerError(
                f"The tokenizer does not give the text back for {len(lost)} of {len(checked)} samples, e.g. {given!r} "
                f"becomes {back!r}; check that these tokenizer files belong to the model and to the data's language."
            )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a continuation, special tokens left out."""
        text = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Each token as text, special tokens by name; for showing what is in the loss."""
        return self._decode([(token,) for token in ids])

    def describe(self) -> dict[str, str | bool | int]:
        """What was decided, to be logged and kept with a trajectory."""
        known: dict[str, str | bool | int] = {
            "rendering": self._settings.rendering,
            "chat_template": self._chat is not None,
            "separator": self._settings.separator,
            "append_eos": self._settings.append_eos and self._eos is not None,
            "prefix_tokens": len(self._prefix),
            "tokenizer": type(self._tokenizer).__name__,
            "vocabulary": len(self._tokenizer),
        }
        if self._chat is not None:
            known |= {"template_digest": self._chat.digest, "turn_end": self._chat.turn_end}
        if self._settings.max_length is not None:
            known["max_length"] = self._settings.max_length
        return known

    def _text(self, sample: Sample, response: str) -> _Text:
        if self._chat is not None and self.uses_chat(sample):
            prompt, rest = self._chat.split(sample.context, response)
            return _Text(prompt, rest, (), ())
        suffix = (self._eos,) if self._settings.append_eos and self._eos is not None else ()
        return _Text(*self._plain_sides(sample, response), self._prefix, suffix)

    def _plain_sides(self, sample: Sample, response: str) -> tuple[str, str]:
        prompt = sample.plain_prompt
        if prompt is None:
            prompt = ""
            for message in sample.context:
                prompt += (self._between(prompt, message.content) if prompt else "") + message.content
        prompt += self._between(prompt, response)
        # A space belongs to the word that follows it: most vocabularies have " Paris" as one token.
        kept = prompt.rstrip(" ")
        return (kept, prompt[len(kept) :] + response) if kept else (prompt, response)

    def _between(self, left: str, right: str) -> str:
        return "" if left[-1:].isspace() or right[:1].isspace() else self._settings.separator

    def _from_text(self, text: _Text) -> Rendered | str:
        return next(self._encode_texts([text]))

    def _render_batch(self, wanted: Sequence[tuple[Sample, str]]) -> Iterator[Rendered | str]:
        texts: list[_Text | str] = []
        for sample, response in wanted:
            try:
                texts.append(self._text(sample, response))
            except RenderRefusedError as refusal:
                texts.append(str(refusal))
        done = self._encode_texts([text for text in texts if isinstance(text, _Text)])
        for text in texts:
            yield text if isinstance(text, str) else next(done)

    def _encode_texts(self, texts: Sequence[_Text]) -> Iterator[Rendered | str]:
        ids = self._encode([part for text in texts for part in (text.prompt, text.prompt + text.response)])
        pairs: list[tuple[tuple[int, ...], tuple[int, ...], bool]] = []
        for index, text in enumerate(texts):
            prompt, full = ids[2 * index], ids[2 * index + 1]
            merged = full[: len(prompt)] != prompt or len(full) == len(prompt)
            response = self._encode([text.response])[0] if merged else full[len(prompt) :]
            pairs.append((prompt, response, merged))
        decoded = self._decode([prompt + response for prompt, response, _ in pairs])
        for text, (prompt, response, merged), back in zip(texts, pairs, decoded, strict=True):
            yield self._rendered(text, prompt, response, merged=merged, decoded=back)

    def _rendered(
        self, text: _Text, prompt: tuple[int, ...], response: tuple[int, ...], *, merged: bool, decoded: str
    ) -> Rendered | str:
        prefix = () if text.prefix and prompt[: len(text.prefix)] == text.prefix else text.prefix
        prompt_ids = prefix + prompt
        if not prompt_ids:
            return "The prompt has no tokens."
        if not response:
            return "The response has no tokens."
        suffix = () if text.suffix == response[-1:] else text.suffix
        response_ids = response + suffix
        last = response_ids[-1]
        leading = next((index for index, token in enumerate(prompt_ids) if token != self._bos), len(prompt_ids))
        beyond = (
            0 if self._settings.max_length is None else len(prompt_ids) + len(response_ids) - self._settings.max_length
        )
        return Rendered(
            prompt_ids=prompt_ids,
            response_ids=response_ids,
            prompt_text=text.prompt,
            response_text=text.response + (str(self._tokenizer.eos_token) if suffix else ""),
            bos_tokens=leading,
            ends_with_eos=last in self.stop_ids,
            unknown_tokens=0 if self._unknown is None else (prompt_ids + response_ids).count(self._unknown),
            round_trips=_bare(decoded) == _bare(text.prompt + text.response),
            truncated_tokens=min(max(0, beyond), len(response_ids)),
            merged_boundary=merged,
        )

    def _encode(self, texts: Sequence[str], *, special: bool = False) -> list[tuple[int, ...]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=special,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [tuple(ids) for ids in encoded["input_ids"]]

    def _decode(self, ids: Sequence[tuple[int, ...]]) -> list[str]:
        return [
            str(self._tokenizer.decode(list(row), skip_special_tokens=False, clean_up_tokenization_spaces=False))
            for row in ids
        ]

    def _own_prefix(self) -> tuple[int, ...]:
        """The ids that the tokenizer itself puts before any text."""
        for text in ("a", "the", "0", ""):
            bare, special = self._encode([text])[0], self._encode([text], special=True)[0]
            if bare:
                starts = (at for at in range(len(special)) if special[at : at + len(bare)] == bare)
                return special[: next(starts, 0)]
        return special[:1] if special[:1] == (self._bos,) else ()


def rendering_table(samples: Sequence[Sample], renderer: Renderer) -> pa.Table:
    """What the tokenizer makes of every sample: the columns of ``Study.rendering`` without ``end_logprob``.

    A sample that cannot be rendered has nulls; :func:`renderable` says why.
    """
    columns: dict[str, list[object]] = {name: [] for name in RENDERING.names}
    for sample, found in zip(samples, renderer.render_many(samples), strict=True):
        columns["sample_id"].append(sample.sample_id)
        counts = (len(found.prompt_ids), len(found.response_ids)) if isinstance(found, Rendered) else (None, None)
        columns["prompt_tokens"].append(counts[0])
        columns["response_tokens"].append(counts[1])
        for name in RENDERING.names[3:]:
            columns[name].append(getattr(found, name, None))
    return pa.Table.from_pydict(columns, schema=RENDERING)


def renderable(samples: Sequence[Sample], renderer: Renderer) -> tuple[tuple[Sample, ...], dict[str, str]]:
    """The samples that can be rendered, and the reason for each of the others by sample id."""
    kept, refused = [], {}
    for sample, found in zip(samples, renderer.render_many(samples), strict=True):
        if isinstance(found, str):
            refused[sample.sample_id] = found
        else:
            kept.append(sample)
    return tuple(kept), refused


RENDERING = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("response_tokens", pa.int64()),
        pa.field("truncated_tokens", pa.int64(), metadata={"meaning": "response tokens beyond data.max_length"}),
        pa.field("bos_tokens", pa.int64(), metadata={"meaning": "beginning-of-sequence tokens at the prompt's head"}),
        pa.field("ends_with_eos", pa.bool_()),
        pa.field("unknown_tokens", pa.int64()),
        pa.field("round_trips", pa.bool_(), metadata={"meaning": "decoding gives the text back"}),
    ]
)


def _bare(text: str) -> str:
    """Text without white space, case and compatibility forms, which tokenizers may change."""
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", text)).casefold()


def _glue(left: str, right: str) -> str:
    """A space between a statement and its completion, except in scripts without spaces or after an opening mark."""
    if not left or left[-1].isspace() or right[:1].isspace() or left[-1] in "([{“‘\"'/-":
        return ""
    if unicodedata.category(left[-1]) == "Lo" and unicodedata.east_asian_width(left[-1]) in "WF":
        return ""
    return " "
