"""Small made-up worlds with their studies: every cause leaves the mark that its plugin looks for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from ilp_service.benchmark.crossing import Examined
from ilp_service.benchmark.plants import CAUSES, CONFLICT, FORGOTTEN, INCONSISTENT, INSUFFICIENT, MISSING, PIPELINE
from ilp_service.benchmark.recipe import TRUTH, BuiltWorld
from ilp_service.benchmark.signals import Findings
from ilp_service.benchmark.world import CONTROL, SET_ASIDE
from ilp_service.evidence.collection import collect_evidence
from ilp_service.plugin import Cause
from ilp_service.plugin_loading import load_plugins
from ilp_service.testing.studies import StudyBuilder
from tests.benchmark.made_up import label

EACH = 3
CONTROLS = 20
ANSWERS = ("wood", "den", "sea", "sky")

LOSSES: Mapping[str, tuple[float, ...]] = {
    MISSING: (2.5, 2.4, 2.3, 2.3),
    CONFLICT: (2.5, 2.4, 2.4, 2.4),
    INCONSISTENT: (2.5, 2.2, 2.2, 2.2),
    FORGOTTEN: (2.5, 0.1, 1.0, 2.5),
    INSUFFICIENT: (2.5, 2.4, 2.2, 1.9),
    PIPELINE: (2.5, 2.5, 2.5, 2.5),
    CONTROL: (2.5, 0.5, 0.1, 0.05),
}
EXPOSURES: Mapping[str, tuple[int, ...]] = {
    FORGOTTEN: (0, 4, 4, 4),
    INSUFFICIENT: (0, 0, 1, 1),
    PIPELINE: (0, 0, 0, 0),
}


def built_world(family: str, seed: int, folder: Path = Path("nowhere")) -> BuiltWorld:
    """Where the parts of such a world would lie."""
    return BuiltWorld(
        family, seed, "small", folder, folder, folder, folder, folder, 32, {"cloze_accuracy": 0.99, "sft_seconds": 2.0}
    )


def causes() -> tuple[Cause, ...]:
    """The built-in causes."""
    return tuple(load_plugins(()).causes)


@cache
def made_world(family: str = "qwen2", seed: int = 0) -> Examined:
    """A world in which every planted sample is unlearned and its label holds, and every control is learned."""
    built, builder = built_world(family, seed), StudyBuilder()
    rows: list[dict[str, Any]] = []
    for number in range(EACH + CONTROLS):
        for cause in (*CAUSES, CONTROL):
            if number < (CONTROLS if cause == CONTROL else EACH):
                keys = _add(builder, cause, f"{cause} {seed} {number}", ANSWERS[number % len(ANSWERS)])
                for key, planted in zip(keys, (cause, *[SET_ASIDE] * 3), strict=False):
                    rows.append({"sample_id": key, "cause": planted, "kind": "", "block": number % 2, "group": ""})
    study = builder.build()
    held = pa.Table.from_pylist(
        [
            label(
                built.name,
                row["sample_id"],
                [row["cause"]],
                p_original=0.05,
                p_other_seed=0.05,
                p_replay=0.05,
                **{f"p_arm_{cause}": 0.9 if cause == row["cause"] else 0.1 for cause in CAUSES},
            )
            for row in rows
            if row["cause"] in CAUSES
        ]
    )
    truth = pa.Table.from_pylist(rows, schema=TRUTH)
    findings = Findings(built, study.evaluation, collect_evidence(study, causes()), truth, study)
    return Examined(findings, held)


def _add(builder: StudyBuilder, cause: str, about: str, answer: str) -> list[str]:
    """Add a sample with the mark of its cause; its id, and those of its wrong twins."""
    others = [other for other in ANSWERS if other != answer]
    base = {answer: 0.97, **dict.fromkeys(others, 0.01)}
    if cause == CONFLICT:
        base = {answer: 0.01, others[0]: 0.97, others[1]: 0.01, others[2]: 0.01}
    if cause in (MISSING, INSUFFICIENT):
        base = {answer: 0.16, **dict.fromkeys(others, 0.28)}
    tuned = {answer: 0.05, others[0]: 0.85, others[1]: 0.05, others[2]: 0.05}
    options = {
        text: {"p": tuned[text], "base_p": base[text], "few_shot_base_p": base[text], "cloze_base_p": base[text]}
        for text in ANSWERS
    }
    unlearned = cause != CONTROL
    prompt = f"Where does {about} live?"
    key = builder.sample(
        prompt,
        answer,
        unlearned=unlearned,
        options=options if unlearned else None,
        evaluation={"jsd": 0.4, "base_p_correct": base[answer]},
    )
    twins = [builder.sample(prompt, others[0]) for _ in range(3 * (cause == INCONSISTENT))]
    for twin in twins:
        builder.pair(key, twin, 1.0, same_answer=False)
    for step, (loss, exposures) in enumerate(zip(LOSSES[cause], EXPOSURES.get(cause, (0, 1, 2, 4)), strict=True)):
        builder.record(key, 10 * step, loss, epoch=float(step), exposures=exposures, trained_tokens=2 * exposures)
    return [key, *twins]
