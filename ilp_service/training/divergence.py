"""When a training has diverged: the loss is not finite, or far above its start and stays there."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ilp_service.training.rows import TrainingRow

WINDOW = 10
"""Steps over which the loss is smoothed, and over which its start is taken."""

PATIENCE = 20
"""Steps in a row for which the smoothed loss is out of bounds before training ends, at least."""

PATIENCE_SHARE = 0.05
"""The same as a share of all steps.

The loss jumps where a new subset begins, and falls again within so many steps if anything is learned; a model whose
loss stays at thrice that of the start for longer is not worth waiting for, and so an arm that exploded wastes at most
a twentieth of its time.
"""


class LossWatch:
    """Looks at the loss of one step after the other.

    Out of bounds is a smoothed loss above thrice its start and above its start by 3 nats, whichever is more. The
    start is the mean of the first :data:`WINDOW` steps, or the first step's if that is less: under a learning rate
    that is far too large the loss explodes within the window.
    """

    def __init__(self, steps: int) -> None:
        """For a training of so many steps."""
        self._patience = max(PATIENCE, round(PATIENCE_SHARE * steps))
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._first: list[float] = []
        self._above = 0

    def see(self, loss: float) -> str | None:
        """What is wrong after a step with this loss, nats a token; ``None`` if nothing is."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        self._recent.append(loss)
        if len(self._first) < WINDOW:
            self._first.append(loss)
        self._above = self._above + 1 if self._out_of_bounds else 0
        return self._wrong if self._above >= self._patience else None

    def end(self) -> str | None:
        """What is wrong at the end: a short training may not have had the time to be out of bounds for long."""
        return self._wrong if self._recent and self._out_of_bounds else None

    @property
    def _start(self) -> float:
        return min(self._first[0], sum(self._first) / len(self._first))

    @property
    def _smoothed(self) -> float:
        return sum(self._recent) / len(self._recent)

    @property
    def _out_of_bounds(self) -> bool:
        return self._smoothed > max(3 * self._start, self._start + 3)

    @property
    def _wrong(self) -> str:
        return f"the loss rose from {self._start:.3g} to {self._smoothed:.3g} nats a token"


class DivergenceCallback(TrainerCallback):
    """Ends a training that has diverged.

    Attributes:
        steps: Optimizer steps done.
        problem: What was wrong, ``None`` as long as nothing is.
    """

    def __init__(self) -> None:
        self._watch: LossWatch | None = None
        self._loss = 0.0
        self._tokens = 0
        self.steps = 0
        self.problem: str | None = None

    def observe_rows(self, rows: Sequence[TrainingRow]) -> None:
        """Count the tokens that enter the loss of a batch."""
        self._tokens += sum(row.trained_tokens for row in rows)

    def observe_loss(self, loss: float) -> None:
        """Add the loss of a forward pass to that of its step."""
        self._loss += loss

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        """Look at the step's loss, and end the training if it has diverged."""
        self.steps = state.global_step
        self._watch = self._watch or LossWatch(state.max_steps)
        # A step whose responses are all cut off or masked has no loss and no gradient: its 0 / 0 harms nothing.
        self.problem = self._watch.see(self._loss) if self._tokens else None
        self._loss, self._tokens = 0.0, 0
        if self.problem is not None:
            control.should_training_stop = True

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        """Look at the end."""
        if self.problem is None and self._watch is not None:
            self.problem = self._watch.end()
