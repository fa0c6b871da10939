"""Both views of every sample: the passes over tuned and base model, slice by slice, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.evaluation import passes
from ilp_service.evaluation.distractors import Distractors, Option
from ilp_service.evaluation.table import EVALUATION, evaluation_rows, scored_options
from ilp_service.samples.rendering import Renderer
from ilp_service.samples.sample import Sample
from ilp_service.scoring.engine import Scorer
from ilp_service.scoring.generation import Generator
from ilp_service.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCHEMAS = {
    "base_generation": passes.GENERATIONS,
    "base_options": passes.OPTION_SCORES,
    "options": passes.OPTION_SCORES,
    "generation": passes.GENERATIONS,
    "base_statements": passes.COMPLETIONS,
}
Compute = Callable[[Sequence[str]], pa.Table]


class Models(Protocol):
    """A tuned model and, where it is known, its base; only one needs to be in memory at a time."""

    @property
    def has_base(self) -> bool:
        """Whether there is a base."""
        ...

    def tuned(self) -> AbstractContextManager[PreTrainedModel]:
        """The tuned model, in eval mode."""
        ...

    def base(self) -> AbstractContextManager[PreTrainedModel]:
        """The base model, in eval mode."""
        ...


class Slices(Protocol):
    """Durable slices of named tables: what was computed before is read back, the rest is computed and kept."""

    def run(self, name: str, keys: Sequence[str], schema: pa.Schema, compute: Compute) -> Iterator[pa.Table]:
        """Tables of all slices in the order of the keys."""
        ...

    def read(self, name: str, keys: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
        """The same of a step that is done."""
        ...


@contextmanager
def when_needed(
    open_model: Callable[[], AbstractContextManager[PreTrainedModel]],
) -> Iterator[Callable[[], PreTrainedModel]]:
    """Gives a model that is opened when it is first asked for: steps that are all on disk need none."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(open_model()))


@dataclass(frozen=True, slots=True)
class Measured:
    """What the two views found.

    Attributes:
        evaluation: One row a sample, without detection and probes.
        options: The options of every sample by id, its own response first.
        long: Whether each response counts as long, by id.
        matched: Whether its options are compared at one length, by id.
    """

    evaluation: pa.Table
    options: passes.Options
    long: Mapping[str, bool]
    matched: Mapping[str, bool]


class Evaluator:
    """Measures samples with the models of one checkpoint.

    Args:
        models: The tuned model and its base.
        renderer: Makes token ids of samples.
        settings: Numbers of options and continuations, batch size, seed.
        slices: Where finished slices are kept.
        samples: The data set.
    """

    def __init__(
        self,
        models: Models,
        renderer: Renderer,
        settings: Settings,
        slices: Slices,
        samples: tuple[Sample, ...],
    ) -> None:
        self.models, self.renderer, self.settings = models, renderer, settings
        self.slices, self.samples = slices, samples
        self.options_key = ""
        self._by_id = {sample.sample_id: sample for sample in samples}

    def pick(self, ids: Sequence[str]) -> list[Sample]:
        """The samples with these ids, in that order."""
        return [self._by_id[key] for key in ids]

    def measure(self, twins: Mapping[str, Sequence[str]], lengths: Mapping[str, int]) -> Measured:
        """Score and generate for every sample.

        Args:
            twins: Ids of samples with (nearly) the same prompt and another answer, by sample id.
            lengths: Response tokens by sample id.
        """
        limit = self.settings.evaluation.long_answer_tokens
        long = {key: length > limit for key, length in lengths.items()}
        ids = [sample.sample_id for sample in self.samples]
        preferred = self._base_preferences(ids, long, lengths)
        distractors = Distractors(
            self.samples, [long[key] for key in ids], twins, self.settings.evaluation, self.settings.seed
        )
        options = _ChosenOptions(distractors, preferred, ids)
        self.options_key = _digest(options)
        if self.models.has_base:
            with when_needed(self.models.base) as model:
                self._drain("base_options", ids, self._score(model, options))
        with when_needed(self.models.tuned) as model:
            self._drain("options", ids, self._score(model, options))
            if self.settings.evaluation.generate:
                self._drain("generation", ids, self._generate(model, long))
        matched = {key: long[key] or self._by_id[key].choices is not None for key in ids}
        return Measured(pa.concat_tables(self._rows(ids, options, matched)), options, long, matched)

    def scorer(self, model: PreTrainedModel) -> Scorer:
        """The engine over an open model."""
        return Scorer(model, max_batch_tokens=self.settings.scoring.max_batch_tokens)

    def _score(self, model: Callable[[], PreTrainedModel], options: passes.Options) -> Compute:
        scorer = cache(lambda: self.scorer(model()))
        return lambda keys: passes.score_options(scorer(), self.renderer, self.pick(keys), options)

    def _generator(self, model: PreTrainedModel, samples: int) -> Generator:
        return Generator(
            model,
            max_batch_tokens=self.settings.scoring.max_batch_tokens,
            stop_ids=self.renderer.stop_ids,
            temperature=self.settings.evaluation.temperature,
            samples=samples,
            seed=self.settings.seed,
        )

    def _generate(self, model: Callable[[], PreTrainedModel], long: Mapping[str, bool]) -> Compute:
        part = self.settings.evaluation
        generator = cache(lambda: self._generator(model(), part.samples))
        return lambda keys: passes.generate(generator(), self.renderer, self.pick(keys), long, part)

    def step(self, name: str) -> str:
        """Name of a step's slices; scores belong to the very options that were scored."""
        return name if name.endswith(("generation", "statements")) else f"{self.options_key}/{name}"

    def _drain(self, name: str, ids: Sequence[str], compute: Compute) -> None:
        for _ in self.slices.run(self.step(name), ids, SCHEMAS[name], compute):
            pass

    def _stored(self, name: str, ids: Sequence[str]) -> Iterator[pa.Table]:
        return self.slices.read(self.step(name), ids, SCHEMAS[name])

    def _base_preferences(
        self, ids: Sequence[str], long: Mapping[str, bool], lengths: Mapping[str, int]
    ) -> dict[str, tuple[str, ...]]:
        """What the base says by itself where the answer is short: to the prompt, and to complete its statement."""
        if not (self.models.has_base and self.settings.evaluation.generate):
            return {}
        short = [key for key in ids if not long[key]]
        with when_needed(self.models.base) as model:
            self._drain("base_generation", ids, self._generate(model, long))
            generator = cache(lambda: self._generator(model(), 0))
            self._drain(
                "base_statements",
                short,
                lambda keys: passes.complete_statements(generator(), self.renderer, self.pick(keys), lengths),
            )
        found: dict[str, tuple[str, ...]] = {}
        for name, keys, column in (("base_generation", ids, "greedy_text"), ("base_statements", short, "text")):
            for table in self._stored(name, keys):
                for key, text in zip(*(table.column(n).to_pylist() for n in ("sample_id", column)), strict=True):
                    answer = passes.first_answer(text)
                    if not long[key] and answer:
                        found[key] = (*found.get(key, ()), answer)
        return found

    def _rows(self, ids: Sequence[str], options: passes.Options, matched: Mapping[str, bool]) -> Iterator[pa.Table]:
        has_base, generate = self.models.has_base, self.settings.evaluation.generate
        nothing: Iterator[pa.Table] = iter(())
        base_options = self._stored("base_options", ids) if has_base else nothing
        generation = self._stored("generation", ids) if generate else nothing
        base_generation = self._stored("base_generation", ids) if generate and has_base else nothing
        for tuned in self._stored("options", ids):
            scored = scored_options(tuned, matched)
            yield evaluation_rows(
                self.pick(list(scored)),
                options,
                scored,
                scored_options(next(base_options), matched) if has_base else {},
                _by_id(next(generation, None)),
                _by_id(next(base_generation, None)),
                self.settings.detection.runs,
            )
        yield EVALUATION.empty_table()

    def option_scores(self, name: str, wanted: frozenset[str]) -> pa.Table:
        """Stored option scores (schema ``passes.OPTION_SCORES``) of some samples."""
        ids = [sample.sample_id for sample in self.samples]
        chosen = pa.array(sorted(wanted), type=pa.string())
        kept = [t.filter(pc.is_in(t.column("sample_id"), value_set=chosen)) for t in self._stored(name, ids)]
        return pa.concat_tables([passes.OPTION_SCORES.empty_table(), *kept])


def _by_id(table: pa.Table | None) -> dict[str, dict[str, object]]:
    return {row["sample_id"]: row for row in table.to_pylist()} if table is not None else {}


class _ChosenOptions(Mapping[str, Sequence[Option]]):
    """The options of every sample, chosen anew at each look: tens of them a sample would not fit in memory."""

    def __init__(self, distractors: Distractors, preferred: Mapping[str, tuple[str, ...]], ids: Sequence[str]) -> None:
        self._distractors, self._preferred, self._ids = distractors, preferred, ids

    def __getitem__(self, key: str) -> tuple[Option, ...]:
        return self._distractors.options(key, self._preferred.get(key, ()))

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


def _digest(options: passes.Options) -> str:
    """Short digest of every option of every sample."""
    digest = hashlib.sha256()
    for key in sorted(options):
        digest.update(json.dumps([key, *(option.text for option in options[key])]).encode())
    return digest.hexdigest()[:8]
