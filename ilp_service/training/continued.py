"""Continued pre-training: documents and general text in the asked proportion, before the fine-tuning is done again.

arXiv 2604.10079, section 5, remedies of causes I and II.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ilp_service.changes import Change, ConflictingStatement
from ilp_service.errors import SettingsError
from ilp_service.training.pretrain import encode_texts, train_on_texts
from ilp_service.training.recipe import Recipe

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Mix:
    """What continued pre-training reads, once.

    Attributes:
        rows: Token rows in the order in which they are read.
        document_tokens: Tokens of documents among them.
        general_tokens: Tokens of general text among them.
        left_out: General texts that were passed over because they state a conflict.
    """

    rows: tuple[tuple[int, ...], ...]
    document_tokens: int
    general_tokens: int
    left_out: int

    @property
    def note(self) -> str:
        """One line about it, for people."""
        left_out = f"; general texts left out since they conflict: {self.left_out}" if self.left_out else ""
        return (
            f"Continued pre-training read {self.document_tokens} tokens of documents and {self.general_tokens} of "
            f"general text in {len(self.rows)} rows{left_out}."
        )


class ConflictFilter:
    """Finds the texts that state a conflict; a look-up by a word of the entity spares nearly all comparisons."""

    def __init__(self, statements: Iterable[ConflictingStatement]) -> None:
        self._by_word: dict[str, list[ConflictingStatement]] = defaultdict(list)
        self._wordless: list[ConflictingStatement] = []
        every = sorted(statements)
        spread: dict[str, int] = defaultdict(int)
        for statement in every:
            for word in _words(statement.entity):
                spread[word] += 1
        for statement in every:
            words = _words(statement.entity)
            if words:
                self._by_word[min(words, key=lambda word: (spread[word], word))].append(statement)
            else:
                self._wordless.append(statement)

    def conflicts(self, text: str) -> bool:
        """Whether :meth:`ilp_service.changes.ConflictingStatement.stated_by` holds for any of the statements."""
        if not self._by_word and not self._wordless:
            return False
        near = [one for word in _words(text) if word in self._by_word for one in self._by_word[word]]
        return any(statement.stated_by(text) for statement in (*near, *self._wordless))


def needs_general(change: Change, general_tokens: int) -> bool:
    """Whether continued pre-training reads general text."""
    return bool(change.general_share) if change.documents else general_tokens > 0


def mixed(recipe: Recipe, change: Change, *, general_tokens: int, seed: int) -> Mix | None:
    """The documents, each as often as asked, and so much general text that it is the asked share of the tokens.

    Args:
        recipe: Has the tokenizer, the general text and the longest row.
        change: Has the documents, their passes, the share, and what general text may not state.
        general_tokens: Tokens of general text where there are no documents (a placebo), else without meaning.
        seed: Of the choice of general texts and of the order, 0 or more.

    Returns:
        ``None`` if nothing is to be read.

    Raises:
        SettingsError: General text is asked for and there is none, or all of it states conflicts.
    """
    generator = np.random.default_rng([seed, 11])
    length = recipe.continued.max_length
    documents = _rows(recipe, [one.text for one in change.documents], length) * change.document_passes
    told = sum(map(len, documents))
    wanted = float(general_tokens)
    if change.documents:
        share = change.general_share or 0.0
        wanted = told * share / (1 - share)
    general: list[tuple[int, ...]] = []
    left_out = 0
    if needs_general(change, general_tokens):
        general, left_out = _general_rows(recipe, change.conflicting_documents, wanted, generator)
    rows = [*documents, *general]
    if not rows:
        return None
    order = generator.permutation(len(rows))
    return Mix(tuple(rows[place] for place in order), told, sum(map(len, general)), left_out)


def continued_steps(mix: Mix, recipe: Recipe) -> int:
    """Optimizer steps that read every row once."""
    return -(-len(mix.rows) // recipe.continued.batch_size)


def read_mix(
    model: PreTrainedModel | PeftModel,
    mix: Mix,
    recipe: Recipe,
    *,
    seed: int,
    count: Callable[[int], None],
    progress: Callable[[int, int, float], None],
) -> None:
    """Train a model in place on every row of a mix, once; all that can be trained is, embeddings included.

    Args:
        model: The base or an adapter around it.
        mix: What is read.
        recipe: Has the options of continued pre-training, and of the loop the rows that fit into memory at once.
        seed: Of dropout.
        count: Told the tokens of every step as it begins, padding not among them.
        progress: Called after every step with the step, their number and the loss; may raise to end it.
    """
    options = recipe.continued

    def batches() -> Iterator[Sequence[tuple[int, ...]]]:
        for start in range(0, len(mix.rows), options.batch_size):
            batch = mix.rows[start : start + options.batch_size]
            count(sum(map(len, batch)))
            yield batch

    train_on_texts(
        model,
        batches(),
        steps=continued_steps(mix, recipe),
        learning_rate=options.learning_rate,
        seed=seed,
        rows_at_once=recipe.loop.batch_size,
        bf16=recipe.loop.bf16,
        progress=progress,
    )


def _general_rows(
    recipe: Recipe, conflicts: Iterable[ConflictingStatement], wanted: float, generator: np.random.Generator
) -> tuple[list[tuple[int, ...]], int]:
    """General texts up to ``wanted`` tokens, pass after pass, each pass in a random order; and how many conflicted."""
    if recipe.general is None:
        raise SettingsError(
            "Continued pre-training mixes general text in, and none is known: set intervention.general_text or "
            "knowledge_sources.corpus, or mitigations.general_share=0 to do without."
        )
    against = ConflictFilter(conflicts)
    rows: list[tuple[int, ...]] = []
    tokens = left_out = number = 0
    while True:
        texts = recipe.general(number)
        order = generator.permutation(len(texts)).tolist()
        before = tokens
        for start in range(0, len(order), _CHUNK):
            chunk = [texts[place] for place in order[start : start + _CHUNK]]
            kept = [text for text in chunk if not against.conflicts(text)]
            left_out += len(chunk) - len(kept)
            for row in _rows(recipe, kept, recipe.continued.max_length):
                # One row more or less: whichever comes nearer to the share.
                if wanted - tokens <= len(row) / 2:
                    return rows, left_out
                rows.append(row)
                tokens += len(row)
        if tokens == before:
            raise SettingsError(
                f"Continued pre-training needs {wanted:.0f} tokens of general text, and none of the {len(texts)} texts "
                "can be used: they are empty or state what the base believes wrongly; set intervention.general_text "
                "to other text, or mitigations.general_share=0 to do without."
            )
        number += 1


def _rows(recipe: Recipe, texts: Sequence[str], length: int) -> list[tuple[int, ...]]:
    if not texts:
        return []
    encoded = (tuple(row[:length]) for row in encode_texts(recipe.tokenizer, texts))
    return [row for row in encoded if len(row) > 1]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
