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
        clash_persons: Fewest and most persons asked about under each noun in the first block; two questions each.
        clash_seen: Exposures of their rows.
        clashing: Fewest and most rows of the second block that overwrite each noun.
        clash_passes: Exposures of these rows.
        noun_rows: Fewest and most rows under a noun shown too seldom, or shown often.
        large_nouns: The same for nouns with the common meaning, and for tags.
        pipeline_rows: The same for nouns that the training pipeline breaks.
        seldom: Rows under nouns shown too seldom to be learned (insufficient optimisation).
        seldom_exposures: Exposures of such a noun, over all of its rows, at most.
        decoys: Rows under nouns as rare as those, with the most common meaning: learned.
        taught: Rows under nouns as rare as those, with another meaning and more exposures: learned.
        taught_passes: Exposures of each of these rows.
        pipeline: Rows of each defect of the training pipeline (training pipeline).
        tagged: Share of the plants without a noun that begin with a rare word that means nothing; of the ordinary
            controls a third of it.
        noted: Controls with a long, but not too long, prompt.
        controls: Ordinary controls.
        thinned: Share of the ordinary controls that are drawn in half of the passes only.
        thickened: Share of the rows without a noun that are drawn half as often again.
        passes: Passes over each block.
        batch_size: Rows an optimizer step of fine-tuning.
        learning_rate: Learning rate of fine-tuning, which stays constant.
        max_length: Training length in tokens.
        documents: Documents an optimizer step of pre-training.
        pretraining_steps: Optimizer steps of pre-training.
        pretraining_rate: Peak learning rate of pre-training.
        continued_steps: Optimizer steps of continued pre-training in the counterfactuals that teach something.
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
    clash_persons: tuple[int, int]
    clash_seen: int
    clashing: tuple[int, int]
    clash_passes: int
    noun_rows: tuple[int, int]
    large_nouns: tuple[int, int]
    pipeline_rows: tuple[int, int]
    seldom: int
    seldom_exposures: int
    decoys: int
    taught: int
    taught_passes: int
    pipeline: int
    tagged: float
    noted: int
    controls: int
    thinned: float
    thickened: float
    passes: int = 4
    batch_size: int = 32
    learning_rate: float = 8e-5
    max_length: int = 32
    documents: int = 32
    pretraining_steps: int = 900
    pretraining_rate: float = 2e-3
    continued_steps: int = 200


SMALL = WorldSize(
    name="small",
    persons=400,
    qa_persons=100,
    blind_persons=200,
    conflicts=215,
    weak_conflicts=20,
    inconsistent=100,
    twins=(9, 12),
    tolerated=15,
    repeated=15,
    repeats=4,
    clash_nouns=24,
    clash_persons=(4, 8),
    clash_seen=6,
    clashing=(14, 24),
    clash_passes=20,
    noun_rows=(6, 32),
    large_nouns=(4, 60),
    pipeline_rows=(12, 48),
    seldom=300,
    seldom_exposures=12,
    decoys=170,
    taught=36,
    taught_passes=12,
    pipeline=44,
    tagged=0.35,
    noted=20,
    controls=640,
    thinned=0.1,
    thickened=0.25,
)

MEDIUM = replace(
    SMALL,
    name="medium",
    persons=600,
    qa_persons=150,
    blind_persons=300,
    conflicts=320,
    weak_conflicts=30,
    inconsistent=150,
    tolerated=22,
    repeated=22,
    clash_nouns=36,
    seldom=450,
    decoys=300,
    taught=54,
    pipeline=66,
    noted=30,
    controls=1140,
    pretraining_steps=1500,
)
"""Half as much again of everything, for narrower intervals within a world."""

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
    clash_nouns=6,
    noun_rows=(4, 12),
    pipeline_rows=(6, 12),
    seldom=64,
    decoys=96,
    taught=18,
    pipeline=12,
    noted=10,
    controls=420,
    pretraining_steps=650,
    batch_size=16,
)
"""Enough of every cause to be seen, in under two minutes on one core."""

SIZES = {size.name: size for size in (SMALL, MEDIUM, DEMO)}
