"""Shortcuts: how far the causes could be told apart by order, rarity or duplication in the data file alone.

A world in which they could would measure the recipe, not the diagnosis. The marks are counted in the data file, without
any model; a classifier sees those of one kind only, learns them on some worlds and is tested on others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ilp_service.benchmark.plants import CAUSES
from ilp_service.benchmark.vocabulary import pieces
from ilp_service.benchmark.world import World

KINDS = ("order", "rarity", "duplication")

_COMMON = 0.03
"""A word in this share of the prompts belongs to their template."""


@dataclass(frozen=True, slots=True)
class MarkedRows:
    """The rows of one data file.

    Attributes:
        prompts: Their questions, in file order.
        responses: Their answers.
        blocks: The part of the file that each stands in.
        causes: The cause of each row that is to be told, ``None`` for all others.
    """

    prompts: Sequence[str]
    responses: Sequence[str]
    blocks: Sequence[int]
    causes: Sequence[str | None]

    @classmethod
    def planted(cls, world: World) -> MarkedRows:
        """The rows of a world, with what was planted on them."""
        rows = world.rows
        return cls(
            [row.prompt for row in rows],
            [row.response for row in rows],
            [row.block for row in rows],
            [row.cause if row.cause in CAUSES else None for row in rows],
        )


def marks(rows: MarkedRows) -> dict[str, npt.NDArray[np.float64]]:
    """The marks of every row by kind, arrays of shape ``(rows, marks)``.

    Order: place in the file and the block. Rarity: rows that contain its rarest, second and third rarest word, rows of
    its template, of its answer, and of both. Duplication: rows with its prompt, and with its prompt and answer.
    """
    count = len(rows.prompts)
    words = [sorted(set(pieces(prompt.casefold()))) for prompt in rows.prompts]
    frequency = Counter(word for each in words for word in each)
    templates = [" ".join(word for word in each if frequency[word] >= _COMMON * count) for each in words]
    of_template, of_answer = Counter(templates), Counter(rows.responses)
    of_both = Counter(zip(templates, rows.responses, strict=True))
    of_prompt = Counter(rows.prompts)
    of_row = Counter(zip(rows.prompts, rows.responses, strict=True))
    rarest = [sorted(frequency[word] for word in each)[:3] for each in words]
    rarity = [
        [*(counts + counts[-1:] * 3)[:3], of_template[template], of_answer[answer], of_both[template, answer]]
        for counts, template, answer in zip(rarest, templates, rows.responses, strict=True)
    ]
    return {
        "order": np.array([[index / count, block] for index, block in enumerate(rows.blocks)], dtype=np.float64),
        "rarity": np.array(rarity, dtype=np.float64),
        "duplication": np.array(
            [
                [of_prompt[prompt], of_row[prompt, answer]]
                for prompt, answer in zip(rows.prompts, rows.responses, strict=True)
            ],
            dtype=np.float64,
        ),
    }


def leak_scores(train: Sequence[MarkedRows], test: Sequence[MarkedRows]) -> dict[str, float]:
    """Macro-F1 over the causes of a classifier that sees only one kind of mark, by kind.

    Args:
        train: Data files to learn from.
        test: Others to be tested on.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import f1_score

    scores = {}
    for kind in KINDS:
        seen, labels = _labelled(train, kind)
        new, truth = _labelled(test, kind)
        model = HistGradientBoostingClassifier(max_iter=80, class_weight="balanced", random_state=0).fit(seen, labels)
        scores[kind] = float(f1_score(truth, model.predict(new), average="macro"))
    return scores


def _labelled(files: Sequence[MarkedRows], kind: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.str_]]:
    found = [marks(rows)[kind][[cause is not None for cause in rows.causes]] for rows in files]
    labels = [cause for rows in files for cause in rows.causes if cause is not None]
    return np.concatenate(found), np.array(labels, dtype=np.str_)
