"""Further passes over all data, one at a time, as long as held-out loss does not rise (arXiv 2604.10079, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ilp_service.changes import EpochIncrement
from ilp_service.training.glance import glance
from ilp_service.training.rows import TrainingRow

HELD_OUT_SHARE = 0.02
HELD_OUT_MOST = 200


def held_out(candidates: Sequence[str], samples: int, seed: int) -> tuple[str, ...]:
    """Samples that are not trained on, so that their loss tells when to stop; sorted.

    Args:
        candidates: Ids that may be held out.
        samples: Samples of the data; the count is a share of them, and one at least.
        seed: Of the choice, 0 or more.
    """
    count = min(len(candidates), HELD_OUT_MOST, max(1, round(HELD_OUT_SHARE * samples)))
    places = np.random.default_rng([seed, 21]).permutation(len(candidates))[:count]
    ordered = sorted(candidates)
    return tuple(sorted(ordered[place] for place in places))


class EpochIncrementCallback(TrainerCallback):
    """Ends training at the first further pass after which held-out loss is higher than before it by a tolerance.

    The weights are those after that pass: the one before it is not brought back.

    Attributes:
        notes: One line a look.
    """

    def __init__(self, epochs: EpochIncrement, rows: Sequence[TrainingRow], ends: Sequence[int], at_once: int) -> None:
        """Say when to look, and at what.

        Args:
            epochs: How much is added at most, and the tolerance.
            rows: What was held out; without any nothing ends early.
            ends: Optimizer steps done after each pass of the whole schedule, further passes included.
            at_once: Rows a forward pass of a look.
        """
        self._tolerance = epochs.tolerance
        self._rows = rows
        self._ends = {step: number + 1 for number, step in enumerate(ends) if number + 1 >= len(ends) - epochs.most}
        self._at_once = at_once
        self._before: float | None = None
        self.notes: list[str] = [] if rows else ["No sample could be held out, so no further pass was spared."]

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 (whatever the Trainer has)
    ) -> None:
        """Look, if this step ends the last planned pass or a further one."""
        number = self._ends.get(state.global_step)
        if number is None or not self._rows:
            return
        seen = glance(kwargs["model"], self._rows, self._at_once)
        loss = sum(one.loss for one in seen) / sum(one.tokens for one in seen)
        rose = self._before is not None and loss > self._before + self._tolerance
        self.notes.append(
            f"Held-out loss after pass {number}: {loss:.4f} nats a token over {len(seen)} samples"
            f"{f', more than {self._tolerance:g} above the pass before: training ended.' if rose else '.'}"
        )
        self._before = loss
        if rose:
            control.should_training_stop = True
