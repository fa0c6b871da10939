"""What somebody who started a diagnosis elsewhere is told while it goes on."""

from __future__ import annotations

from typing import Literal

Step = Literal["resolve", "stage", "evaluate", "attribute", "report", "publish"]

STEPS: tuple[Step, ...] = ("resolve", "stage", "evaluate", "attribute", "report", "publish")
"""The steps of a job, in order; the first is done by whoever starts the diagnosis.

``resolve`` finds the version's inputs and makes its run, ``stage`` fetches and checks checkpoint and data, ``evaluate``
asks the models, ``attribute`` says why, ``report`` writes the files, ``publish`` hands them to MLflow.
"""


class Watcher:
    """Is told of finished steps and slices; this one keeps nothing.

    A diagnosis that is watched leaves the version's status to its watcher when it fails.
    """

    def finished(self, step: Step, facts: dict[str, object]) -> None:
        """A step is done.

        Args:
            step: Which.
            facts: What is worth knowing of it, in JSON types.
        """

    def advanced(self, name: str, done: int, total: int) -> None:
        """A slice of a pass over the samples is on disk.

        Args:
            name: Of the pass.
            done: Samples so far.
            total: Samples of the pass.
        """
