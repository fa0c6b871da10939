"""How a model was fine-tuned, complete enough to do it again, and otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ilp_service.samples.sample import Sample
from ilp_service.training.adapters import LoraOptions
from ilp_service.training.course import Course
from ilp_service.training.loop import LoopOptions
from ilp_service.training.rows import TrainingRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class ContinuedOptions:
    """How continued pre-training runs.

    Attributes:
        learning_rate: Peak learning rate of AdamW; it rises over the first twentieth and falls as a cosine to zero.
        batch_size: Rows an optimizer step.
        max_length: Tokens a row; longer texts are cut.
    """

    learning_rate: float = 1e-5
    batch_size: int = 32
    max_length: int = 512


@dataclass(frozen=True)
class Recipe:
    """A fine-tuning.

    Attributes:
        base: Folder with the weights that it starts from.
        base_name: What people call them.
        tokenizer: The base's.
        samples: All samples of the data, in file order.
        encode: Makes one training row of each sample, defects of the pipeline included.
        course: Which samples are trained on in which order, by the seed of the fine-tuning.
        loop: How the optimizer runs; its seed is that of the diagnosed run.
        lora: Shape of the adapter that is trained; ``None`` trains all weights.
        continued: How continued pre-training runs where a remedy asks for it.
        general: General text for it by the number of the pass, from 0; ``None`` where there is none.
        where: Where each part is known from, for people, by its name.
        digest: Of all that can change a number.
    """

    base: Path
    base_name: str
    tokenizer: PreTrainedTokenizerBase
    samples: tuple[Sample, ...]
    encode: Callable[[Sequence[Sample]], Sequence[TrainingRow]]
    course: Callable[[int], Course]
    loop: LoopOptions
    lora: LoraOptions | None = None
    continued: ContinuedOptions = field(default_factory=ContinuedOptions)
    general: Callable[[int], Sequence[str]] | None = None
    where: tuple[tuple[str, str], ...] = ()
    digest: str = ""
