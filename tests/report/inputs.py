"""Reports of made-up diagnoses with the real causes' signals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from ilp_causes import ilp_causes

from ilp_service.attribution.attribute import attributions_schema
from ilp_service.attribution.candidates import CANDIDATE_CAUSES, told_briefly
from ilp_service.evidence.collection import collect_evidence, explanation, signals_of
from ilp_service.report.html import ReportInput
from ilp_service.samples.sample import Message
from ilp_service.settings import Settings
from ilp_service.tables import QUARANTINE
from ilp_service.testing.studies import StudyBuilder

HOSTILE = '</script><script>window.harmed=1</script><img src=x onerror="window.harmed=1">&amp;{{ 7*7 }}<!--\u2028'
_PLACES = ("Calder Bay", "Ostrel", "Vinmouth", "Harrow Point", "Tessen", "Old Quarry")


def report_input(
    samples: int = 60,
    unlearned: int = 30,
    *,
    base: bool = True,
    trajectory: bool = True,
    hostile: bool = False,
    groups: bool = False,
    seed: int = 0,
) -> ReportInput:
    """A diagnosis in which causes are drawn at random.

    Args:
        samples: In the data set.
        unlearned: The first so many of them are unlearned.
        base: Whether the base was measured.
        trajectory: Whether there is a training record.
        hostile: Put markup and script into every text.
        groups: Whether groups of unexplained samples were found.
        seed: Of all draws.
    """
    rng = np.random.default_rng(seed)
    builder = StudyBuilder()
    poison = HOSTILE if hostile else ""
    for index in range(samples):
        _add_sample(builder, rng, index, unlearned=index < unlearned, base=base, tail=poison)
    if trajectory:
        for index, sample in enumerate(builder.build().samples[:unlearned]):
            for step in range(12):
                fall = 2.5 * np.exp(-step / 3) + (0.25 * max(0, step - 6) if index % 2 else 0)
                p = float(np.exp(-fall))
                builder.record(sample.sample_id, 50 * step, float(fall + 0.1), p_correct=p, exposures=step)
    study = builder.build(has_base=base)
    causes = ilp_causes()
    evidence = collect_evidence(study, causes)
    names = [cause.name for cause in causes]
    measured = [name for name in names if evidence.status[name] == "measured"]
    rows: list[dict[str, Any]] = []
    for index, key in enumerate(study.unlearned):
        p = rng.dirichlet(np.full(len(measured) + 1, 0.25))
        top = int(p[:-1].argmax())
        cause = measured[top] if p[top] >= 0.5 else "unattributed"
        why = "No cause is probable enough."
        if cause != "unattributed":
            own = next(item for item in causes if item.name == cause)
            why = explanation(own, signals_of(evidence.table.slice(index, 1), own)[0])
        rows.append(
            {
                "sample_id": key,
                "cause": cause,
                "confidence": float(p[top]),
                **{f"p_{name}": float(p[measured.index(name)]) if name in measured else None for name in names},
                "p_unattributed": float(p[-1]),
                "runner_up": measured[int(np.argsort(-p[:-1])[1])],
                "rule_cause": cause if rng.random() < 0.6 else "unattributed",
                "explanation": why + poison,
            }
        )
    attributions = pa.Table.from_pylist(rows, schema=attributions_schema(names))
    candidates = _candidates(study.unlearned[:9], poison) if groups else CANDIDATE_CAUSES.empty_table()
    counts = attributions["cause"].to_pylist()
    refused = {"file": "data.jsonl", "line": 7, "reason": "the answer is empty" + poison, "raw": "{}" + poison}
    summary = {
        "run_id": "0f3c1a9e5b7d4c60a1f2",
        "model": "models:/support-bot/7" + poison,
        "base": "qwen2-tiny" + poison if base else None,
        "samples": samples,
        "unlearned": unlearned,
        "unlearned_rate": unlearned / samples,
        "causes": {name: counts.count(name) for name in names},
        "unattributed": counts.count("unattributed"),
        "not_measurable": [name for name in names if evidence.status[name] == "not_measurable"],
        "quarantined": 1,
        "seconds": 12.5,
        "artifacts": {},
        "details": {
            "data": "sft.jsonl" + poison,
            "format": "messages",
            "base_from": "tag" if base else None,
            "trajectory": "trajectory.parquet" if trajectory else "none was given",
            "attributed": len(rows),
            "candidate_causes": told_briefly(candidates),
            "failed": {},
            "reasons": dict(evidence.reasons),
            "plugin_failures": {"plugins/odd.py" + poison: "it could not be imported" + poison} if hostile else {},
            "views": {
                "measured_by_both": samples,
                "mc_only": 4,
                "generation_only": 6,
                "both": unlearned - 4,
                "neither": samples - unlearned - 6,
            },
        },
    }
    return ReportInput(
        summary=summary,
        evaluation=study.evaluation,
        evidence=evidence,
        attributions=attributions,
        candidates=candidates,
        options=study.options,
        samples=study.samples,
        causes=causes,
        trajectory=study.trajectory,
        quarantine=pa.Table.from_pylist([refused], schema=QUARANTINE),
        settings=Settings(),
    )


def _candidates(ids: Sequence[str], poison: str) -> pa.Table:
    """Two groups with everything that a group can have."""
    signal = {"signal": "insufficient_optimization.rarity", "unit": "0-1", "direction": "+", "statistic": "median"}
    rows = [
        {
            "group": number,
            "size": len(ids),
            "share": 0.5,
            "cohesion": 0.87,
            "cohesion_by_chance": 0.31,
            "description": "samples that are alike" + poison,
            "signals": [signal | {"meaning": "How rare" + poison, "group": 0.7, "others": 0.1, "separation": 0.95}],
            "phrases": [{"phrase": "emberbond" + poison, "share": 0.87, "others": 0.02}],
            "subsets": [{"subset": "a part" + poison, "size": len(ids), "share": 1.0}],
            "examples": list(ids[:3]),
            "sample_ids": list(ids),
        }
        for number in (1, 2)
    ]
    return pa.Table.from_pylist(rows, schema=CANDIDATE_CAUSES)


def _add_sample(
    builder: StudyBuilder, rng: np.random.Generator, index: int, *, unlearned: bool, base: bool, tail: str
) -> None:
    answer = _PLACES[index % len(_PLACES)] + tail
    options = {}
    forms = ("p", "base_p", "few_shot_base_p", "cloze_base_p") if base else ("p",)
    if unlearned:
        texts = [answer, *(place + tail for place in _PLACES if place + tail != answer)]
        drawn = {form: rng.dirichlet(np.full(len(texts), 0.5)) for form in forms}
        drawn["p"] = np.r_[0.1 * drawn["p"][0], drawn["p"][1:]]
        options = {text: {form: float(values[row]) for form, values in drawn.items()} for row, text in enumerate(texts)}
    rates = {"greedy_match": False, "sample_match_rate": float(rng.integers(3)) / 10, "base_forms_disagree": None}
    if base:
        rates |= {"base_p_correct": float(rng.random()), "cloze_base_p_correct": float(rng.random())}
        rates |= {"jsd": float(rng.random())}
    builder.sample(
        f"In which town did ship number {index:04d} of the northern line lie in winter?" + tail,
        answer,
        unlearned=unlearned,
        subset="logbook" if index % 3 else "harbour records",
        options=options or None,
        evaluation={key: value for key, value in rates.items() if key != "base_forms_disagree"},
    )


def enlarged(given: ReportInput, times: int, padding: str) -> ReportInput:
    """The same diagnosis with every sample so many times under new ids, and with longer prompts and answers."""

    def repeat(table: pa.Table) -> pa.Table:
        place = table.column_names.index("sample_id")
        ids = table["sample_id"].to_pylist()
        return pa.concat_tables(
            [
                table.set_column(place, table.schema.field(place), pa.array([f"{key}-{copy}" for key in ids]))
                for copy in range(times)
            ]
        )

    samples = tuple(
        replace(
            sample,
            sample_id=f"{sample.sample_id}-{copy}",
            context=(Message("user", sample.prompt + padding),),
            response=sample.response + padding,
        )
        for copy in range(times)
        for sample in given.samples
    )
    summary = {**given.summary, "samples": len(samples), "unlearned": given.attributions.num_rows * times}
    return replace(
        given,
        summary=summary,
        evaluation=repeat(given.evaluation),
        evidence=replace(given.evidence, table=repeat(given.evidence.table)),
        attributions=repeat(given.attributions),
        options=repeat(given.options),
        samples=samples,
        trajectory=None if given.trajectory is None else repeat(given.trajectory),
    )
