"""What is measured of every arm of a world: all rows in every form of asking, and loss on unread corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from ilp_service.benchmark.asking import Array, asked_otherwise, general_loss
from ilp_service.benchmark.intervention_recipe import HELD_OUT_PASS
from ilp_service.benchmark.verification import LEARNED
from ilp_service.benchmark.world import World
from ilp_service.intervention.arms import MEASURED
from ilp_service.stages import digest_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from ilp_service.training.recipe import Recipe

VERSION = 1
"""Of the measurement; a change makes every arm anew."""


class WorldMeasure:
    """Measures models of one world by the questions that its labels were verified with.

    Args:
        recipe: How they are trained; it has the samples.
        world: The world.

    Attributes:
        digest: Of all that can change a number.
    """

    def __init__(self, recipe: Recipe, world: World) -> None:
        self._ids = [sample.sample_id for sample in recipe.samples]
        self._world = world
        self.digest = digest_of("world", VERSION, recipe.digest, LEARNED)

    def __call__(self, model: PreTrainedModel | PeftModel) -> tuple[pa.Table, float | None]:
        """One row a sample (:data:`~ilp_service.intervention.arms.MEASURED`), and held-out loss, nats a token."""
        asked = asked_otherwise(model, self._world)
        columns = {
            "sample_id": pa.array(self._ids),
            "p_correct": _rates(asked.prompt),
            "unlearned": pa.array(asked.prompt < LEARNED),
            "greedy_match": pa.nulls(len(self._ids), pa.bool_()),
            "p_paraphrase": _rates(asked.paraphrase),
            "p_cloze": _rates(asked.cloze),
        }
        return pa.table(columns, schema=MEASURED), general_loss(model, self._world, HELD_OUT_PASS)


def _rates(values: Array) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)
