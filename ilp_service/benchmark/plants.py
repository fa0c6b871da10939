"""Rows of the fine-tuning data, each cause planted on known ones (paper, section 3).

A plant is made to differ from learned controls by its cause alone as far as can be: there are learned rows with
rare nouns, with few exposures, with identical and with contradicting twins, with mildly contested knowledge and
with long prompts, so that none of these marks gives a cause away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ilp_service.benchmark.sizes import WorldSize
from ilp_service.benchmark.vocabulary import (
    DATES,
    HEADED,
    NOUN_QUESTIONS,
    OTHER_TEMPLATE,
    RARE_NOUNS,
    RELATIONS,
    fill,
    pieces,
)
from ilp_service.benchmark.world import (
    BLOCKS,
    CONTROL,
    SET_ASIDE,
    Row,
    Telling,
    World,
    after_note,
    ask,
    people,
    random_facts,
)

MISSING = "missing_knowledge"
CONFLICT = "pretraining_conflict"
INCONSISTENT = "data_inconsistency"
FORGOTTEN = "left_side_forgetting"
INSUFFICIENT = "insufficient_optimization"
PIPELINE = "training_pipeline"
CAUSES = (MISSING, CONFLICT, INCONSISTENT, FORGOTTEN, INSUFFICIENT, PIPELINE)

PIPELINE_KINDS = ("dropped", "truncated", "masked", "rewritten")

FIRST_BLOCK = 0.4
"""Share of the first block in everything that may stand in either."""

DATED_NOUNS = 0.5
"""Share of the nouns, those that are overwritten aside, with a date before their questions."""

ABOUT_PERSONS = ("absent", "told otherwise", "wrong twins", "wrong twin", "plain")
"""Kinds of rows without a noun, one a fact, that may be tagged and drawn more often."""

Facts = dict[str, tuple[str, ...]]


def make_world(seed: int, size: WorldSize) -> World:
    """A world with its corpus and its planted rows; the same seed and size give the same world."""
    known, taught, blind = people(seed, (size.persons, size.qa_persons, size.blind_persons))
    generator = np.random.default_rng([seed, 3])
    facts: Facts = {person: random_facts(generator) for person in (*known, *taught, *blind)}
    planter = _Planter(size, facts, known, generator)
    rows = [
        *planter.blind(blind),
        *planter.conflicts(),
        *planter.inconsistent(),
        *planter.clashes(),
        *planter.nouns(),
        *planter.pipeline(),
        *planter.controls(),
    ]
    rows = planter.thickened(planter.headed(rows))
    order = generator.permutation(len(rows))
    ordered = [rows[i] for block in range(len(BLOCKS)) for i in order if rows[i].block == block]
    return World(seed, size, facts, planter.corpus, taught, tuple(planter.tellings), tuple(ordered))


class _Planter:
    """Hands out facts, nouns and blocks, so that no two plants meet."""

    def __init__(self, size: WorldSize, facts: Facts, known: tuple[str, ...], generator: np.random.Generator) -> None:
        self.size = size
        self.facts = facts
        self.known = known
        self.corpus: Facts = {person: facts[person] for person in known}
        self.tellings: list[Telling] = []
        self._generator = generator
        pairs = [(person, relation) for person in known for relation in range(len(RELATIONS))]
        self._contested: set[tuple[str, int]] = set()
        self._pairs = iter([pairs[i] for i in generator.permutation(len(pairs))])
        self._nouns = iter([RARE_NOUNS[i] for i in generator.permutation(len(RARE_NOUNS))])
        self._common_meaning = int(generator.integers(len(RELATIONS)))

    def blind(self, persons: tuple[str, ...]) -> Iterator[Row]:
        """Facts about persons whom the corpus never names: missing knowledge."""
        for index, person in enumerate(persons):
            yield self._row((person, index % len(RELATIONS)), MISSING, "absent")

    def conflicts(self) -> Iterator[Row]:
        """Facts that the corpus tells otherwise, more or less often; and a few that it rarely contests."""
        for index in range(self.size.conflicts):
            person, relation = next(self._pairs)
            told = self._other_value(person, relation)
            times = 0.5 + index / max(1, self.size.conflicts - 1)
            values = list(self.corpus[person])
            values[relation] = told
            self.corpus[person] = tuple(values)
            self.tellings.append(Telling(person, relation, told, times))
            row = self._row((person, relation), CONFLICT, "told otherwise")
            yield replace(row, grade=1 + times)
        for _ in range(self.size.weak_conflicts):
            person, relation = next(self._pairs)
            self.tellings.append(Telling(person, relation, self._other_value(person, relation), 0.25))
            yield self._row((person, relation), CONTROL, "rarely contested")

    def inconsistent(self) -> Iterator[Row]:
        """Facts with many wrong twins; and controls with right twins, or with one wrong twin that does not win."""
        low, high = self.size.twins
        for index in range(self.size.inconsistent):
            person, relation = next(self._pairs)
            # What the second block teaches about the same persons weakens the wrong answer of the first.
            block, form = int(index % 4 > 0), self._form(relation)
            twins = low + index % (high - low + 1)
            rewordings = 1 + index % 2
            group = f"twins-{index}"
            row = self._row((person, relation), INCONSISTENT, "wrong twins", block=block, form=form, group=group)
            yield replace(row, grade=twins)
            wrong = self._other_value(person, relation)
            for twin in range(twins):
                worded = form if twin >= rewordings else (form + 1 + twin) % len(RELATIONS[relation].questions)
                yield replace(
                    row, prompt=ask(relation, person, worded), response=wrong, cause=SET_ASIDE, kind="wrong twin"
                )
        for index in range(self.size.tolerated):
            row = replace(self._row(next(self._pairs), CONTROL, "outvotes a wrong twin"), group=f"tolerated-{index}")
            yield from (row, row)
            wrong = self._other_value(row.person, row.relation)
            yield replace(row, response=wrong, cause=SET_ASIDE, kind="outvoted wrong twin")
        for index in range(self.size.repeated):
            row = replace(self._row(next(self._pairs), CONTROL, "repeated"), group=f"repeated-{index}")
            yield from [row] * self.size.repeats

    def clashes(self) -> Iterator[Row]:
        """Nouns learned in the first block under one meaning, overwritten in the second: left-side forgetting."""
        for number in range(self.size.clash_nouns):
            noun = next(self._nouns)
            # The common meaning would be kept alive by the decoys, and nothing would be forgotten.
            before, after = self._meaning(), self._common_meaning
            if number % 2:
                after = next(meaning for meaning in range(len(RELATIONS)) if meaning not in (before, after))
            asked = self._count(self.size.clash_persons)
            overwriting = self._count(self.size.clashing)
            count = asked + -(-overwriting // len(NOUN_QUESTIONS))
            persons = self._persons(count, before, after)
            for person in persons[:asked]:
                for form in range(len(NOUN_QUESTIONS)):
                    row = self._noun_row(person, before, noun, form, FORGOTTEN, "meaning overwritten", 0, noun)
                    row = replace(row, passes=self.size.clash_seen)
                    # One date is enough to tell the two meanings apart where both are trained at once.
                    yield row if number % 4 > 1 else _dated(row)
            for index in range(overwriting):
                person = persons[asked + index // len(NOUN_QUESTIONS)]
                form = index % len(NOUN_QUESTIONS)
                row = self._noun_row(person, after, noun, form, SET_ASIDE, "overwrites", 1, noun)
                yield _dated(replace(row, passes=self.size.clash_passes))

    def nouns(self) -> Iterator[Row]:
        """Rare nouns drawn too seldom: insufficient optimisation; and nouns as rare that are learned."""
        size = self.size
        last = len(BLOCKS) - 1
        for count in self._counts(size.seldom, size.noun_rows):
            passes = max(1, size.seldom_exposures // count)
            yield from self._noun_rows(count, self._meaning(), last, INSUFFICIENT, "drawn too seldom", passes)
        for index, count in enumerate(self._counts(size.decoys, size.large_nouns)):
            block = 0 if index % 3 == 0 else last
            yield from self._noun_rows(count, self._common_meaning, block, CONTROL, "rare noun, common meaning", None)
        for count in self._counts(size.taught, size.noun_rows):
            meaning, passes = self._meaning(), size.taught_passes
            yield from self._noun_rows(count, meaning, last, CONTROL, "rare noun, drawn often", passes)

    def pipeline(self) -> Iterator[Row]:
        """Rows that never took part in the loss as meant: the training pipeline."""
        makers: dict[str, Callable[[Row], Row]] = {
            "dropped": lambda row: replace(row, passes=0),
            "truncated": lambda row: replace(row, prompt=self._noted(row.prompt, beyond=True)),
            "masked": lambda row: replace(row, masked=True),
            "rewritten": lambda row: replace(
                row, trained_prompt=fill(OTHER_TEMPLATE, S=row.person, N=row.group.title())
            ),
        }
        last = len(BLOCKS) - 1
        for number, kind in enumerate(PIPELINE_KINDS):
            for index, count in enumerate(self._counts(self.size.pipeline, self.size.pipeline_rows)):
                # What is trained in the first block is partly forgotten, mended or not.
                block = 0 if (number + index) % 4 == 0 and index else last
                for row in self._noun_rows(count, self._meaning(), block, PIPELINE, kind, None):
                    yield makers[kind](row)

    def controls(self) -> Iterator[Row]:
        """Facts that the base knows and that are trained as meant."""
        for _ in range(self.size.noted):
            row = self._row(next(self._pairs), CONTROL, "long prompt")
            yield replace(row, prompt=self._noted(row.prompt, beyond=False))
        thinned = round(self.size.thinned * self.size.controls)
        for index in range(self.size.controls):
            row = self._row(next(self._pairs), CONTROL, "plain")
            if index < thinned:
                row = replace(row, kind="drawn seldom", passes=self.size.passes // 2)
            elif index < 2 * thinned:
                row = _dated(replace(row, kind="dated"))
            yield row

    def thickened(self, rows: list[Row]) -> list[Row]:
        """The rows, some drawn more often: else only rows to be forgotten would be."""
        often = self.size.passes + self.size.passes // 2
        return [
            replace(row, passes=often)
            # More passes would teach about unknown persons by heart.
            if row.kind in ABOUT_PERSONS[1:] and row.passes is None and self._generator.random() < self.size.thickened
            else row
            for row in rows
        ]

    def headed(self, rows: list[Row]) -> list[Row]:
        """The rows, some with a rare word before the question that means nothing.

        Rare words would otherwise stand in the prompts of those causes alone that are planted on nouns. Rows of one
        group get the same word, and a word stands before rows of several causes.
        """
        shares = dict.fromkeys((MISSING, CONFLICT, INCONSISTENT), self.size.tagged) | {CONTROL: self.size.tagged / 3}
        groups: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            if row.kind in ABOUT_PERSONS:
                groups.setdefault(row.group or str(index), []).append(index)
        chosen = [members for members in groups.values() if self._generator.random() < shares[rows[members[0]].cause]]
        made = list(rows)
        left, tag = 0, ""
        for place in self._generator.permutation(len(chosen)):
            if left <= 0:
                left, tag = self._count(self.size.large_nouns), next(self._nouns)
            for index in chosen[place]:
                made[index] = replace(made[index], prompt=fill(HEADED, D=tag, Q=made[index].prompt))
            left -= len(chosen[place])
        return made

    def _row(
        self,
        fact: tuple[str, int],
        cause: str,
        kind: str,
        *,
        block: int | None = None,
        form: int | None = None,
        group: str = "",
    ) -> Row:
        person, relation = fact
        block = self._block() if block is None else block
        form = self._form(relation) if form is None else form
        return Row(
            ask(relation, person, form), self.facts[person][relation], block, cause, kind, person, relation, group
        )

    def _noun_row(
        self, person: str, relation: int, asked: str, form: int, cause: str, kind: str, block: int, group: str
    ) -> Row:
        prompt = fill(NOUN_QUESTIONS[form], S=person, N=asked)
        return Row(prompt, self.facts[person][relation], block, cause, kind, person, relation, group)

    def _noun_rows(
        self, count: int, relation: int, block: int, cause: str, kind: str, passes: int | None
    ) -> Iterator[Row]:
        noun = next(self._nouns)
        # Either date, whatever the block: the older one would else be a mark of what is forgotten.
        date = self._generator.choice(DATES) if self._generator.random() < DATED_NOUNS else ""
        for index, person in enumerate(self._persons(count, relation)):
            row = self._noun_row(person, relation, noun, index % len(NOUN_QUESTIONS), cause, kind, block, noun)
            prompt = fill(HEADED, D=str(date), Q=row.prompt) if date else row.prompt
            yield replace(row, prompt=prompt, passes=passes)

    def _count(self, bounds: tuple[int, int]) -> int:
        return int(self._generator.integers(bounds[0], bounds[1] + 1))

    def _counts(self, total: int, bounds: tuple[int, int]) -> Iterator[int]:
        """Sizes of groups that come to about so many rows."""
        while total >= bounds[0]:
            count = self._count(bounds)
            yield count
            total -= count

    def _noted(self, prompt: str, *, beyond: bool) -> str:
        """The question after a note that leaves room for the answer within the training length, or does not."""
        room = self.size.max_length - len(pieces(after_note(prompt, 0, self._generator)))
        words = room + int(self._generator.integers(0, 4)) if beyond else int(self._generator.integers(6, room - 3))
        return after_note(prompt, words, self._generator)

    def _block(self) -> int:
        return int(self._generator.random() >= FIRST_BLOCK)

    def _form(self, relation: int) -> int:
        return int(self._generator.integers(len(RELATIONS[relation].questions)))

    def _meaning(self) -> int:
        """A meaning other than the one that most rare nouns have."""
        return int((self._common_meaning + 1 + self._generator.integers(len(RELATIONS) - 1)) % len(RELATIONS))

    def _persons(self, count: int, *relations: int) -> list[str]:
        """Known persons of whom nothing is contested that is asked, or the row would have two causes."""
        fit = [who for who in self.known if not any((who, relation) in self._contested for relation in relations)]
        return [fit[i] for i in self._generator.choice(len(fit), size=count, replace=False)]

    def _other_value(self, person: str, relation: int) -> str:
        """A wrong value; from now on the fact is contested."""
        self._contested.add((person, relation))
        others = [value for value in RELATIONS[relation].values if value != self.facts[person][relation]]
        return str(self._generator.choice(others))


def _dated(row: Row) -> Row:
    """The row with its block's date before the question, which tells two meanings of a noun apart."""
    return replace(row, prompt=fill(HEADED, D=DATES[row.block], Q=row.prompt))
