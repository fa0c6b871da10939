"""Lines for people on stderr, and below them a bar for the training that is going on; stdout is for results."""

from __future__ import annotations

import math
import sys
from typing import NoReturn

import click
from tqdm import tqdm


class Terminal:
    """What a command that trains says.

    Attributes:
        bars: Whether stderr is a terminal; elsewhere there are lines alone.
    """

    def __init__(self) -> None:
        self.bars = sys.stderr.isatty()
        self._bar: tqdm[NoReturn] | None = None

    def say(self, line: str) -> None:
        """One line; a bar that stands ends, for a training may stop before its last step."""
        self._end()
        click.echo(line, err=True)

    def step(self, step: int, steps: int, loss: float) -> None:
        """After an optimizer step: how many are done, of how many, and the loss."""
        if not self.bars:
            return
        if self._bar is None:  # not before the first step, so that an error has a line of its own
            self._bar = tqdm(
                total=steps, desc="training", unit="step", file=sys.stderr, leave=False, dynamic_ncols=True
            )
        if not math.isnan(loss):  # nothing was logged yet
            self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._bar.update(step - self._bar.n)
        if step >= steps:
            self._end()

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
