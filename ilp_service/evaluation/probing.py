"""What the base model knows about the unlearned samples, asked in several forms (paper, section 4)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from ilp_service.evaluation import passes
from ilp_service.evaluation.measurement import Evaluator, Measured, when_needed
from ilp_service.evaluation.table import ScoredOptions, fill, scored_options
from ilp_service.samples.sample import Sample
from ilp_service.settings import KnowledgeSettings

FORMS = ("base_p", "few_shot_base_p", "cloze_base_p", "probe_base_p")
OPTIONS = pa.schema(
    [
        pa.field("sample_id", pa.string()),
        pa.field("option", pa.int64(), metadata={"meaning": "0 is the sample's own response"}),
        pa.field("text", pa.string()),
        pa.field("source", pa.string(), metadata={"meaning": "where the option came from"}),
        pa.field("gold", pa.bool_()),
        pa.field("logprob", pa.float64(), metadata={"unit": "nats", "meaning": "tuned model"}),
        pa.field("p", pa.float64(), metadata={"unit": "0-1", "meaning": "tuned model, among the options"}),
        *(pa.field(form, pa.float64(), metadata={"unit": "0-1"}) for form in FORMS),
    ]
)


@dataclass(frozen=True, slots=True)
class Probed:
    """The unlearned samples' options with every form's probabilities, and the tuned model's end-token scores."""

    options: pa.Table
    end_logprobs: Mapping[str, float]
    evaluation: pa.Table


class Examples:
    """Learned samples of the same subset, shown to the base as solved examples.

    The choice is fixed by the sample ids, leaves long samples out, and avoids whatever asks the same thing in other
    words: an example that gives the answer away would pass for knowledge of the base.

    Args:
        samples: The data set.
        evaluation: Says which of them are learned.
        settings: How many examples, and from which pass rate a sample is learned.
        same_question: Ids of the samples that ask the same thing, by sample id.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        evaluation: pa.Table,
        settings: KnowledgeSettings,
        same_question: Mapping[str, Collection[str]],
    ) -> None:
        self._count, self._same_question = settings.few_shot, same_question
        rates = dict(zip(*(evaluation.column(n).to_pylist() for n in ("sample_id", "p_correct")), strict=True))
        learned = [s for s in samples if (rates.get(s.sample_id) or 0.0) > settings.exists]
        learned.sort(key=lambda s: hashlib.sha256(s.sample_id.encode()).digest())
        self._by_subset: dict[str, list[Sample]] = defaultdict(list)
        for sample in learned:
            if len(sample.prompt) + len(sample.response) <= 2000:
                self._by_subset[sample.subset].append(sample)

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """The examples for one question; none where nothing of its subset was learned."""
        chosen: list[Sample] = []
        avoided = self._same_question.get(sample.sample_id, ())
        for example in self._by_subset.get(sample.subset, ()):
            if len(chosen) == self._count:
                break
            if example.sample_id in avoided or example.prompt == sample.prompt:
                continue
            if all(example.prompt != c.prompt for c in chosen):
                chosen.append(example)
        return tuple(chosen)


def _form_probabilities(table: pa.Table) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for key, p in zip(*(table.column(n).to_pylist() for n in ("sample_id", "p")), strict=True):
        found[key].append(p)
    return found


def _from_scores(scored: Mapping[str, ScoredOptions]) -> dict[str, list[float]]:
    """Without the samples that are too long for the model in this form: those were not asked."""
    return {key: [float(p) for p in value.p] for key, value in scored.items() if not np.isnan(value.p).any()}


def probe(
    evaluator: Evaluator,
    measured: Measured,
    unlearned: Sequence[str],
    same_question: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> Probed:
    """Ask the base about the unlearned samples in every form that can be asked, and gather their options.

    Args:
        evaluator: Over the models and the samples.
        measured: What the two views found.
        unlearned: Ids of the samples to ask about.
        same_question: Ids of the samples that ask the same thing, by sample id; none of them is a solved example.
    """
    settings, renderer, options = evaluator.settings, evaluator.renderer, measured.options
    wanted = frozenset(unlearned)
    ids = sorted(wanted)
    tuned = scored_options(evaluator.option_scores("options", wanted), measured.matched)
    forms: dict[str, dict[str, list[float]]] = {form: {} for form in FORMS}
    if evaluator.models.has_base and ids:
        base = scored_options(evaluator.option_scores("base_options", wanted), measured.matched)
        forms["base_p"] = _from_scores(base)
        shots = Examples(evaluator.samples, measured.evaluation, settings.knowledge, same_question)
        short = [key for key in ids if not measured.long[key]]
        with_probes = [sample.sample_id for sample in evaluator.pick(ids) if sample.probes]
        with when_needed(evaluator.models.base) as model:
            scorer = cache(lambda: evaluator.scorer(model()))

            def few_shot(keys: Sequence[str]) -> pa.Table:
                return passes.score_options(scorer(), renderer, evaluator.pick(keys), options, shots)

            def cloze(keys: Sequence[str]) -> pa.Table:
                return passes.score_statements(scorer(), renderer, evaluator.pick(keys), options, own_probes=False)

            def own(keys: Sequence[str]) -> pa.Table:
                return passes.score_statements(scorer(), renderer, evaluator.pick(keys), options, own_probes=True)

            if settings.knowledge.few_shot:
                few = pa.concat_tables(
                    [
                        passes.OPTION_SCORES.empty_table(),
                        *evaluator.slices.run(evaluator.step("few_shot"), ids, passes.OPTION_SCORES, few_shot),
                    ]
                )
                forms["few_shot_base_p"] = _from_scores(scored_options(few, measured.matched))
            for form, keys, compute in (("cloze_base_p", short, cloze), ("probe_base_p", with_probes, own)):
                if keys:
                    tables = [
                        passes.PROBES.empty_table(),
                        *evaluator.slices.run(evaluator.step(form), keys, passes.PROBES, compute),
                    ]
                    forms[form] = _form_probabilities(pa.concat_tables(tables))
    rows = []
    for key in unlearned:
        for index, option in enumerate(options[key]):
            given = {form: forms[form][key][index] if key in forms[form] else None for form in FORMS}
            own_scores = tuned[key]
            rows.append(
                {
                    "sample_id": key,
                    "option": index,
                    "text": option.text,
                    "source": option.source,
                    "gold": option.gold,
                    "logprob": float(own_scores.logprobs[index]),
                    "p": float(own_scores.p[index]),
                    **given,
                }
            )
    return Probed(
        pa.Table.from_pylist(rows, schema=OPTIONS),
        {key: value.last_logprob for key, value in tuned.items()},
        _with_forms(measured.evaluation, forms, settings.knowledge),
    )


def _with_forms(
    evaluation: pa.Table, forms: Mapping[str, Mapping[str, list[float]]], settings: KnowledgeSettings
) -> pa.Table:
    """The evaluation with each form's verdict on the probed samples, and whether the forms disagree."""
    ids = evaluation.column("sample_id").to_pylist()
    table = evaluation
    for form in FORMS[1:]:
        gold = [forms[form][key][0] if key in forms[form] else None for key in ids]
        table = fill(table, f"{form}_correct", gold)
    disagree: list[bool | None] = []
    for key in ids:
        rates = [forms[form][key][0] for form in FORMS if key in forms[form]]
        knows = [rate > settings.exists for rate in rates]
        blind = [rate < settings.blind_pass for rate in rates]
        disagree.append(any(knows) and any(blind) if len(rates) > 1 else None)
    return fill(table, "base_forms_disagree", disagree)
