"""What a changed training came to: the detection of the diagnosis once more, and the same samples asked otherwise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import mean
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from ilp_service.checkpoints.threads import fitting_threads
from ilp_service.detection.criterion import detect
from ilp_service.diagnosis.work import WorkFolder
from ilp_service.evaluation import passes
from ilp_service.evaluation.measurement import Compute, Evaluator
from ilp_service.evaluation.table import scored_options
from ilp_service.intervention.arms import MEASURED
from ilp_service.samples.sample import Message, Sample
from ilp_service.scoring.engine import Scorer
from ilp_service.scoring.requests import ScoringRequest
from ilp_service.stages import digest_of
from ilp_service.training.pretrain import encode_texts

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ilp_service.intervention.reopening import Diagnosed

_TUNED = ("options", "generation")
"""Steps that are asked of the model that was trained; all others are of the base and were done in the diagnosis."""


class Measure(Protocol):
    """Measures a trained model."""

    @property
    def digest(self) -> str:
        """Of all that can change a number."""
        ...

    def __call__(self, model: PreTrainedModel | PeftModel) -> tuple[pa.Table, float | None]:
        """One row a sample (:data:`~ilp_service.intervention.arms.MEASURED`), and the loss on general text."""
        ...


@dataclass(frozen=True)
class Measurer:
    """The measurements of a diagnosis, of other models on the same base.

    Attributes:
        diagnosed: The diagnosis.
        held_out: General text that no arm was trained on.
        max_length: Tokens of it that are read at once.
        paraphrases: The question of a sample in other words, by its id; the data's own where none are given.
        generate: Whether ``greedy_match`` is measured; it decides where the criterion looks at generation.
    """

    diagnosed: Diagnosed
    held_out: tuple[str, ...] = ()
    max_length: int = 512
    paraphrases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    generate: bool = True

    @cached_property
    def digest(self) -> str:
        """Of all that can change a number."""
        settings = self.diagnosed.settings
        parts = ("seed", "data", "detection", "evaluation")
        return digest_of(
            sorted(self.diagnosed.prepared.digests.items()),
            [settings.seed, *(getattr(settings, name).model_dump(mode="json") for name in parts[1:])],
            len(self.diagnosed.prepared.samples),
            self.diagnosed.prepared.renderer.describe(),
            list(self.held_out),
            self.max_length,
            sorted((key, list(texts)) for key, texts in self._asked.items()),
            self.generate,
        )

    def __call__(self, model: PreTrainedModel | PeftModel) -> tuple[pa.Table, float | None]:
        """Measure a trained model where it is; it is left as it was.

        Returns:
            One row a sample in the order of the diagnosis, and held-out loss on general text in nats a token.
        """
        plain = unwrapped(model)
        with fitting_threads(self.diagnosed.prepared.reference.base_dir):
            evaluation, options, short = self._evaluation(plain)
            scorer = Scorer(plain, max_batch_tokens=self.diagnosed.settings.scoring.max_batch_tokens)
            cloze = self._in_chunks(lambda some: self._cloze(scorer, some, options, short))
            otherwise = self._in_chunks(lambda some: self._otherwise(scorer, some, options, short))
            loss = general_loss(scorer, self._tokenizer, self.held_out, self.max_length)
        table = evaluation.select(["sample_id", "p_correct", "unlearned", "greedy_match"])
        ids = table["sample_id"].to_pylist()
        for name, found in (("p_paraphrase", otherwise), ("p_cloze", cloze)):
            table = table.append_column(name, pa.array([found.get(key) for key in ids], type=pa.float64()))
        return table.cast(MEASURED), loss

    def original(self) -> tuple[pa.Table, float | None]:
        """The same of the diagnosed model; what its diagnosis has measured is read."""
        with self.diagnosed.prepared.checkpoint.tuned() as model:
            measured, loss = self(model)
        return measured, loss

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self.diagnosed.prepared.checkpoint.tokenizer

    @cached_property
    def _asked(self) -> dict[str, tuple[str, ...]]:
        """The question of every sample that can be asked in other words."""
        own = {sample.sample_id: sample.paraphrases for sample in self.diagnosed.prepared.samples}
        given = {key: tuple(texts) for key, texts in self.paraphrases.items()}
        return {key: texts for key, texts in {**own, **given}.items() if texts}

    def _evaluation(self, model: PreTrainedModel) -> tuple[pa.Table, passes.Options, frozenset[str]]:
        diagnosed, prepared = self.diagnosed, self.diagnosed.prepared
        settings = diagnosed.settings
        if not self.generate and settings.detection.view == "mc":
            # The base's continuations are still wanted: they are options.
            slices: _ArmSlices = _WithoutGeneration(diagnosed.work)
        else:
            slices = _ArmSlices(diagnosed.work)
        if settings.detection.view == "mc":
            # Sampled continuations decide nothing then, and cost most; the greedy one is kept.
            greedy = settings.evaluation.model_copy(update={"samples": 0})
            settings = settings.model_copy(update={"evaluation": greedy})
        models = _Models(model, diagnosed)
        evaluator = Evaluator(models, prepared.renderer, settings, slices, prepared.samples)
        measured = evaluator.measure(diagnosed.twins, diagnosed.lengths)
        short = frozenset(key for key, long in measured.long.items() if not long)
        return detect(measured.evaluation, settings.detection), measured.options, short

    def _in_chunks(self, ask: _Ask) -> dict[str, float]:
        samples, size = self.diagnosed.prepared.samples, self.diagnosed.settings.scoring.chunk_samples
        found: dict[str, float] = {}
        for begin in range(0, len(samples), size):
            found.update(ask(samples[begin : begin + size]))
        return found

    def _cloze(
        self, scorer: Scorer, samples: Sequence[Sample], options: passes.Options, short: frozenset[str]
    ) -> dict[str, float]:
        """Pass rate as a completed statement: the data's own statements, else the question rewritten as one."""
        renderer = self.diagnosed.prepared.renderer
        asked = [sample for sample in samples if sample.sample_id in short or sample.probes]
        found: dict[str, float] = {}
        for own in (False, True):
            some = [sample for sample in asked if bool(sample.probes) is own]
            table = passes.score_statements(scorer, renderer, some, options, own_probes=own)
            found |= {row["sample_id"]: row["p"] for row in table.to_pylist() if row["option"] == 0}
        return found

    def _otherwise(
        self, scorer: Scorer, samples: Sequence[Sample], options: passes.Options, short: frozenset[str]
    ) -> dict[str, float]:
        """Mean pass rate over the same question in other words, among the same options."""
        asked: dict[str, Sample] = {}
        for sample in samples:
            for number, text in enumerate(self._asked.get(sample.sample_id, ())):
                key = f"{sample.sample_id}#{number}"
                asked[key] = asked_otherwise(replace(sample, sample_id=key), text)
        texts = {key: options[key.rpartition("#")[0]] for key in asked}
        matched = {
            key: key.rpartition("#")[0] not in short or sample.choices is not None for key, sample in asked.items()
        }
        table = passes.score_options(scorer, self.diagnosed.prepared.renderer, list(asked.values()), texts)
        rates: dict[str, list[float]] = defaultdict(list)
        for key, scored in scored_options(table, matched).items():
            if len(scored.p) > 1 and not np.isnan(scored.p[0]):
                rates[key.rpartition("#")[0]].append(float(scored.p[0]))
        return {key: mean(values) for key, values in rates.items()}


class _Ask(Protocol):
    def __call__(self, samples: Sequence[Sample], /) -> dict[str, float]: ...


def asked_otherwise(sample: Sample, text: str) -> Sample:
    """The sample with other words in the place of its question."""
    last = max(place for place, message in enumerate(sample.context) if message.content == sample.prompt)
    context = list(sample.context)
    context[last] = Message(context[last].role, text)
    plain = sample.plain_prompt
    if plain is not None:
        head, found, tail = plain.rpartition(sample.prompt)
        plain = head + text + tail if found else None
    return replace(sample, context=tuple(context), plain_prompt=plain)


def general_loss(
    scorer: Scorer, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> float | None:
    """Mean loss over the tokens of texts, nats a token; ``None`` where there are none of two tokens or more."""
    rows = [row[:max_length] for row in encode_texts(tokenizer, texts)] if texts else []
    requests = [
        ScoringRequest(str(number), (row[0],), (tuple(row[1:]),)) for number, row in enumerate(rows) if len(row) > 1
    ]
    sums = [float(answer.logprobs[0]) for answer in scorer.score(requests)]
    read = [(total, len(request.options[0])) for total, request in zip(sums, requests, strict=True) if total == total]
    tokens = sum(length for _, length in read)
    return -sum(total for total, _ in read) / tokens if tokens else None


def unwrapped(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model without what mixed-precision training has put around its forward pass, and without PEFT's shell."""
    for part in (model, getattr(model, "base_model", None)):
        original: Any = None if part is None else part.__dict__.pop("_original_forward", None)
        if part is not None and original is not None:
            part.forward = original
    shell: Any = model
    inner: PreTrainedModel = shell.get_base_model() if hasattr(shell, "get_base_model") else shell
    inner.train(mode=False)
    return inner


@dataclass(frozen=True, slots=True)
class _Models:
    """A trained model in memory, and the diagnosed checkpoint's base, which is opened only if it must be."""

    model: PreTrainedModel
    diagnosed: Diagnosed

    @property
    def has_base(self) -> bool:
        return self.diagnosed.prepared.checkpoint.has_base

    @contextmanager
    def tuned(self) -> Iterator[PreTrainedModel]:
        yield self.model

    @contextmanager
    def base(self) -> Iterator[PreTrainedModel]:
        with self.diagnosed.prepared.checkpoint.base() as model:
            yield model


@dataclass(frozen=True)
class _ArmSlices:
    """Steps of the base are the diagnosis's own; those of the trained model stay in memory, slice by slice."""

    work: WorkFolder
    tables: dict[str, list[pa.Table]] = field(default_factory=dict)

    def run(self, name: str, keys: Sequence[str], schema: pa.Schema, compute: Compute) -> Iterator[pa.Table]:
        if name.rpartition("/")[2] not in _TUNED:
            yield from self.work.run(name, keys, schema, compute)
            return
        kept = self.tables[name] = []
        title = f"measuring: {name.rpartition('/')[2]}"
        with tqdm(total=len(keys), desc=title, unit="", disable=not self.work.progress, leave=False) as bar:
            for begin in range(0, len(keys), self.work.size):
                some = keys[begin : begin + self.work.size]
                kept.append(self.compute(name, compute, some, schema))
                bar.update(len(some))
                yield kept[-1]

    def read(self, name: str, keys: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
        return iter(self.tables[name]) if name in self.tables else self.work.read(name, keys, schema)

    def compute(self, name: str, compute: Compute, keys: Sequence[str], schema: pa.Schema) -> pa.Table:
        del name, schema
        return compute(keys)


class _WithoutGeneration(_ArmSlices):
    """The same without letting the trained model speak."""

    def compute(self, name: str, compute: Compute, keys: Sequence[str], schema: pa.Schema) -> pa.Table:
        if name != "generation":
            return compute(keys)
        nothing = {field.name: pa.nulls(len(keys), field.type) for field in schema}
        return pa.table({**nothing, "sample_id": pa.array(keys, pa.string())}, schema=schema)
