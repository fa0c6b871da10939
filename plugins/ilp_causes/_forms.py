"""What the base and the tuned model answer in each form of asking, one distribution over options a form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ilp_causes._columns import Indices, floats, rows_of
from ilp_service.plugin import Array, Study


@dataclass(frozen=True, slots=True)
class Form:
    """How every unlearned sample is answered in one form; arrays of shape ``(unlearned,)``, NaN if not asked.

    Attributes:
        right: Probability of the training data's answer.
        wrong: Highest probability of another answer to the same question.
        wrong_row: Row of that answer within the options, -1 where there is none.
        entropy: Shannon entropy divided by that of a uniform guess over the same options, 0-1.
        top: Highest probability of any answer.
        better: Share of the other options that are at least as probable as the right one, 0-1.
        above: Probability mass of those options.
    """

    right: Array
    wrong: Array
    wrong_row: Indices
    entropy: Array
    top: Array
    better: Array
    above: Array

    def best_of(self, runs: int) -> Array:
        """Chance that the most probable of ``runs`` independent draws is right (best-of-N, paper section 3)."""
        chance = (1 - self.above).clip(0) ** runs - (1 - self.above - self.right).clip(0) ** runs
        return np.asarray(chance, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the unlearned samples.

    Attributes:
        count: Number of unlearned samples.
        group: Index of each option's sample within ``study.unlearned``, shape ``(options,)``.
        gold: Whether the option is the right one, shape ``(options,)``.
        table: The rows of ``study.options``, in the same order.
    """

    BASE_FORMS: ClassVar[tuple[str, ...]] = ("zero_shot", "few_shot", "cloze")

    count: int
    group: Indices
    gold: npt.NDArray[np.bool_]
    table: pa.Table

    @classmethod
    def of(cls, study: Study) -> Options:
        """The options of a study, other samples' rows left out."""
        group = rows_of(study.options["sample_id"].combine_chunks(), pa.array(study.unlearned, pa.string()))
        rows = np.flatnonzero(group >= 0)
        table = study.options.take(pa.array(rows))
        marked = table["gold"] if "gold" in table.column_names else pc.equal(table["source"], "gold")
        gold = floats(pc.fill_null(marked, False)) > 0
        return cls(len(study.unlearned), group[rows], gold, table)

    def tuned(self) -> Array:
        """The tuned model's probability of every option, shape ``(options,)``."""
        return self._values("p")

    def form(self, name: str) -> Form:
        """``tuned``, or one of the base's forms: ``zero_shot``, ``few_shot``, ``cloze`` (own probes where given)."""
        if name == "cloze":
            return self._summary(self._cloze())
        return self._summary(self._values({"tuned": "p", "zero_shot": "base_p", "few_shot": "few_shot_base_p"}[name]))

    def texts(self, rows: Indices) -> list[str | None]:
        """Text of the options at these rows, ``None`` for -1."""
        if not self.table.num_rows:
            return [None] * len(rows)
        return [text if row >= 0 else None for row, text in zip(rows, self._text_at(rows), strict=True)]

    def _text_at(self, rows: Indices) -> list[str | None]:
        taken: list[str | None] = self.table["text"].take(pa.array(np.maximum(rows, 0))).to_pylist()
        return taken

    def _values(self, name: str) -> Array:
        if name not in self.table.column_names:
            return np.full(len(self.group), np.nan)
        return floats(self.table[name])

    def _cloze(self) -> Array:
        """The base's answers to statements, shape ``(options,)``."""
        probe, cloze = self._values("probe_base_p"), self._values("cloze_base_p")
        # A person's own statement is a better question than a rewritten one; a sample is asked in one of them only.
        complete = np.bincount(self.group[np.isnan(probe)], minlength=self.count) == 0
        return np.where(complete[self.group], probe, cloze)

    def _nats(self, values: Array) -> Array:
        """Entropy of each sample's distribution, nats."""
        return self._sum(-values * np.log(np.where(values > 0, values, 1.0)))

    def _sum(self, values: Array) -> Array:
        return np.bincount(self.group, weights=values, minlength=self.count).astype(np.float64)

    def _summary(self, values: Array) -> Form:
        size = self._sum(np.ones_like(values))
        whole = (size > 1) & (self._sum(self.gold.astype(np.float64)) == 1)
        asked = whole & (self._sum(np.isnan(values).astype(np.float64)) == 0)
        values = np.where(asked[self.group], values, 0.0)
        right = self._sum(np.where(self.gold, values, 0.0))
        wrong_row = self._first_wrong(values)
        wrong = np.where(wrong_row >= 0, values[np.maximum(wrong_row, 0)] if len(values) else 0.0, 0.0)
        # Ties count against the right answer, as everywhere in the multiple-choice view.
        above = ~self.gold & (values >= right[self.group])
        nats = self._nats(values)
        hidden = np.where(asked, 0.0, np.nan)
        return Form(
            right=right + hidden,
            wrong=wrong + hidden,
            wrong_row=np.where(asked, wrong_row, -1),
            entropy=(nats / np.log(np.maximum(size, 2))).clip(0, 1) + hidden,
            top=self._largest(values) + hidden,
            better=(self._sum(above.astype(np.float64)) / np.maximum(size - 1, 1)) + hidden,
            above=self._sum(np.where(above, values, 0.0)) + hidden,
        )

    def _largest(self, values: Array) -> Array:
        result = np.zeros(self.count)
        np.maximum.at(result, self.group, values)
        return result

    def _foreign(self) -> npt.NDArray[np.bool_]:
        """Options that are, or end like, the answer to another question: they may be fluent, but are no belief."""
        if "source" not in self.table.column_names:
            return np.zeros(len(self.group), dtype=np.bool_)
        found = pc.is_in(self.table["source"], value_set=pa.array(["near_miss", "other_response"]))
        return floats(pc.fill_null(found, False)) > 0

    def _first_wrong(self, values: Array) -> Indices:
        """Row of the most probable wrong option of each sample; ties go to the option listed first."""
        result = np.full(self.count, -1, dtype=np.int64)
        rows = np.flatnonzero(~self.gold & ~self._foreign())
        rows = rows[np.lexsort((rows, -values[rows], self.group[rows]))]
        groups, first = np.unique(self.group[rows], return_index=True)
        result[groups] = rows[first]
        return result
