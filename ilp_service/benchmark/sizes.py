"""How large a planted world is, and how long its models are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class WorldSize:
    """Counts of everything in a world. "Facts" are question-answer pairs about distinct (person, relation).

    Attributes:
        name: Name of the size.
        persons: Known persons; each has one value of every relation, told in the corpus.
        qa_persons: Other persons whose question-answer pairs are part of the corpus.
        blind_persons: Persons whom the corpus never names; one fact each (missing knowledge).
        conflicts: Facts for which the corpus tells another value than the fine-tuning data.
        weak_conflicts: Controls for which the corpus tells another value now and then.
        inconsistent: Facts with one right row and several twins that give one wrong answer.
        twins: Lowest and highest number of wrong twins.
        tolerated: Controls with two right rows and one contradicting twin.
        repeated: Controls with several identical rows.
        repeats: Rows of each of them.
        clash_nouns: Nouns whose meaning the second block overwrites (left-side forgetting).
        clash_persons: Persons asked about under each noun in the first block; two questions each.
        clashing: Rows of the second block that overwrite each noun.
        clash_passes: Exposures of these rows.
        rare_nouns: Nouns shown too seldom to be learned (insufficient optimisation).
        rare_persons: Persons, one row each, under each rare or decoy noun.
        rare_passes: Passes of the last block in which a row of a rare noun is drawn, in turn from noun to noun.
        decoy_nouns: Nouns as rare as those, with the most common meaning: learned.
        taught_nouns: Nouns as rare as those, with another meaning, and shown ``taught_passes`` times: learned.
        taught_passes: Exposures of their rows.
        pipeline_nouns: Nouns of every defect of the training pipeline (training pipeline).
        pipeline_persons: Persons, one row each, under each of them.
        noted: Controls with a long, but not too long, prompt.
        controls: Ordinary controls.
        thinned: Share of the ordinary controls that are drawn in half of the passes only.
        passes: Passes over each block.
        batch_size: Rows an optimizer step of fine-tuning.
        learning_rate: Learning rate of fine-tuning, which stays constant.
        max_length: Training length in tokens.
        documents: Documents an optimizer step of pre-training.
        pretraining_steps: Optimizer steps of pre-training.
        pretraining_rate: Peak learning rate of pre-training.
    """

    name: str
    persons: int
    qa_persons: int
    blind_persons: int
    conflicts: int
    weak_conflicts: int
    inconsistent: int
    twins: tuple[int, int]
    tolerated: int
    repeated: int
    repeats: int
    clash_nouns: int
    clash_persons: int
    clashing: int
    clash_passes: int
    rare_nouns: int
    rare_persons: int
    rare_passes: tuple[int, ...]
    decoy_nouns: int
    taught_nouns: int
    taught_passes: int
    pipeline_nouns: int
    pipeline_persons: int
    noted: int
    controls: int
    thinned: float
    passes: int = 4
    batch_size: int = 32
    learning_rate: float = 8e-5
    max_length: int = 32
    documents: int = 32
    pretraining_steps: int = 900
    pretraining_rate: float = 2e-3


SMALL = WorldSize(
    name="small",
    persons=400,
    qa_persons=100,
    blind_persons=60,
    conflicts=60,
    weak_conflicts=20,
    inconsistent=50,
    twins=(9, 12),
    tolerated=15,
    repeated=15,
    repeats=4,
    clash_nouns=2,
    clash_persons=50,
    clashing=140,
    clash_passes=8,
    rare_nouns=24,
    rare_persons=6,
    rare_passes=(1, 2),
    decoy_nouns=36,
    taught_nouns=6,
    taught_passes=12,
    pipeline_nouns=3,
    pipeline_persons=5,
    noted=20,
    controls=1150,
    thinned=0.1,
)

DEMO = replace(
    SMALL,
    name="demo",
    persons=160,
    qa_persons=80,
    blind_persons=38,
    conflicts=36,
    weak_conflicts=10,
    inconsistent=26,
    tolerated=6,
    repeated=6,
    clash_nouns=1,
    clash_persons=34,
    clashing=108,
    rare_nouns=10,
    decoy_nouns=16,
    taught_nouns=3,
    pipeline_nouns=2,
    noted=10,
    controls=420,
    pretraining_steps=650,
    batch_size=16,
)
"""Enough of every cause to be seen, in under two minutes on one core."""

SIZES = {size.name: size for size in (SMALL, DEMO)}
