"""The training that made a diagnosed checkpoint, complete enough to do it again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ilp_service import __version__
from ilp_service.checkpoints.files import check_config
from ilp_service.checkpoints.tokenizer import largest_id
from ilp_service.errors import AdapterBaseError, IlpWarning, SettingsError
from ilp_service.intervention.general_text import GeneralText, read_general_text
from ilp_service.intervention.known_training import ORDERS, KnownTraining, known_training, order_of
from ilp_service.samples.reading import read_samples
from ilp_service.samples.rendering import Renderer, renderable
from ilp_service.settings import DataSettings, Settings
from ilp_service.stages import digest_of
from ilp_service.tracking.store import Tracking
from ilp_service.training.adapters import LoraOptions, SavedLoraOptions, saved_lora
from ilp_service.training.course import Course
from ilp_service.training.loop import LoopOptions
from ilp_service.training.recipe import ContinuedOptions, Recipe
from ilp_service.training.rows import encode_rows
from ilp_service.training.schedule import in_blocks, shuffled

if TYPE_CHECKING:
    from ilp_service.intervention.reopening import Diagnosed

_ASSUMED = "assumed, as nobody says"


@dataclass(frozen=True)
class Schedule:
    """The course of a training by its seed.

    Attributes:
        ids: Sample ids in file order.
        subsets: Subset of each.
        order: See :data:`~ilp_service.intervention.known_training.ORDERS`.
        shuffle_inside: Whether the order within a subset is drawn anew in every pass, where subsets follow each other.
        passes: Passes over the data; with subsets one after the other, over each of them.
        exposures: How often each sample was trained on, by its id, where that is known not to be ``passes``.
    """

    ids: tuple[str, ...]
    subsets: tuple[str, ...]
    order: str
    shuffle_inside: bool
    passes: int
    exposures: Mapping[str, int]

    def __call__(self, seed: int) -> Course:
        """What is trained on under a seed; the diagnosed run's own seed gives its very course."""
        seldom = {key: count for key, count in self.exposures.items() if count != self.passes}
        rows = self._rows(seed)
        if seldom:
            rows = self._counted(rows, seldom, np.random.default_rng([seed, 1]))
        return Course(tuple(tuple(self.ids[index] for index in part) for part in rows if part))

    def _rows(self, seed: int) -> list[list[int]]:
        if self.order == "shuffled":
            return shuffled(len(self.ids), self.passes, seed)
        if self.order == "sequential":
            return in_blocks(self.subsets, self.passes, seed if self.shuffle_inside else None)
        return [list(range(len(self.ids))) for _ in range(self.passes)]

    def _counted(
        self, rows: Sequence[Sequence[int]], counts: Mapping[str, int], generator: np.random.Generator
    ) -> list[list[int]]:
        """The same passes, with some samples left out of some of them, or in them more than once."""
        left: dict[int, list[int]] = {}
        for index, key in enumerate(self.ids):
            if key in counts:
                whole, rest = divmod(counts[key], self.passes)
                extra = set(generator.choice(self.passes, size=rest, replace=False).tolist())
                left[index] = [whole + (number in extra) for number in range(self.passes)]
        result = []
        for part in rows:
            kept, more = [], []
            for index in part:
                times = left[index].pop(0) if index in left else 1
                kept += [index] * (times > 0)
                more += [index] * (times - 1)
            for index in more:
                kept.insert(int(generator.integers(len(kept) + 1)), index)
            result.append(kept)
        return result


def recipe_of(
    diagnosed: Diagnosed,
    tracking: Tracking,
    *,
    file: Path | None = None,
    method: Literal["lora", "full"] | None = None,
    known: KnownTraining | None = None,
    general: GeneralText | None = None,
) -> Recipe:
    """The training of a diagnosed checkpoint.

    What nobody says and nothing depends on much (warm-up, weight decay, mixed precision) is taken as ``ilp train``
    does by default, and said so in ``Recipe.where``.

    Args:
        diagnosed: The diagnosis of the checkpoint.
        tracking: The store.
        file: A recipe file; what it says wins.
        method: Train an adapter, or all weights, whatever the checkpoint is.
        known: What is known about the training, where it was gathered before.
        general: General text, where it was read before.

    Raises:
        SettingsError: Something that matters is not known, or what is known makes no training.
        AdapterBaseError: The base is not known.
    """
    prepared, settings = diagnosed.prepared, diagnosed.settings
    reference = prepared.reference
    if reference.base_dir is None:
        raise AdapterBaseError(
            f"The base of {reference.resolved} is not known, so it cannot be trained again; name it with --base when "
            "you diagnose, or with the version's tag ilp.base_model."
        )
    known = known or known_training(diagnosed, tracking, file)
    known = _with_order(known, diagnosed)
    _check_complete(known, diagnosed)
    loop = _loop(known, settings)
    lora, lora_from = _lora(known, diagnosed, method)
    data = _data_settings(known, diagnosed)
    limit = known.values.get("limit", diagnosed.request.limit)
    tokenizer = prepared.checkpoint.tokenizer
    _check_vocabulary(largest_id(tokenizer), reference.base_dir)
    renderer = Renderer(tokenizer, data)
    samples, _ = renderable(read_samples(diagnosed.request.data, data, limit).samples, renderer)
    passes = max(1, ceil(float(known.values["epochs"]) - 1e-6))
    exposures = _exposures(diagnosed, passes)
    schedule = Schedule(
        ids=tuple(sample.sample_id for sample in samples),
        subsets=tuple(sample.subset for sample in samples),
        order=str(known.values["order"]),
        shuffle_inside=bool(known.values.get("shuffle_inside", True)),
        passes=passes,
        exposures=exposures,
    )
    general = general or read_general_text(settings, seed=settings.seed)
    part = settings.intervention
    continued = ContinuedOptions(
        part.continued_learning_rate,
        part.continued_batch_size,
        part.continued_max_length,
    )
    parts = {
        "version": __version__,
        "base": reference.base_digest,
        "data": prepared.digests["data"],
        "limit": limit,
        "rendering": renderer.describe(),
        "data_settings": data.model_dump(mode="json"),
        "loop": {name: value for name, value in asdict(loop).items() if name not in ("device", "save_every")},
        "lora": None if lora is None else asdict(lora),
        "schedule": [schedule.order, schedule.shuffle_inside, passes, sorted(exposures.items())],
        "continued": asdict(continued),
        "general": general.digest if general else None,
    }
    differing = len(exposures)
    where = (
        ("base", f"{reference.base} (from {reference.base_from})"),
        ("optimizer", known.said_by("loop.") or _ASSUMED),
        ("order", f"{schedule.order}, {known.said_by('order')}"),
        ("passes", f"{passes}, {known.said_by('epochs')}" + (f"; {differing} samples otherwise" if differing else "")),
        ("weights", lora_from),
        ("data", known.said_by("data.") or "the diagnosis"),
        ("general text", general.source if general else "none; set intervention.general_text"),
    )
    return Recipe(
        base=reference.base_dir,
        base_name=str(reference.base),
        tokenizer=tokenizer,
        samples=samples,
        encode=lambda chosen: encode_rows(chosen, renderer, data.max_length),
        course=schedule,
        loop=loop,
        lora=lora,
        continued=continued,
        general=None if general is None else general.trained,
        where=where,
        digest=digest_of(parts),
    )


def _with_order(known: KnownTraining, diagnosed: Diagnosed) -> KnownTraining:
    """The order as well, where the training record shows it."""
    if "order" in known.values:
        return known
    subsets = tuple(dict.fromkeys(sample.subset for sample in diagnosed.prepared.samples))
    order = order_of(diagnosed.prepared.trajectory, subsets)
    if order is None:
        return known
    said = "as the training record shows" if len(subsets) > 1 else "there is but one subset"
    return replace(known, values={**known.values, "order": order}, where={**known.where, "order": said})


def _check_complete(known: KnownTraining, diagnosed: Diagnosed) -> None:
    needed = ("loop.learning_rate", "loop.batch_size", "epochs", "order")
    missing = [name for name in needed if known.values.get(name) is None]
    if missing:
        raise SettingsError(
            f"How {diagnosed.prepared.reference.resolved} was trained is not known: nothing says {', '.join(missing)}; "
            f"write {'it' if len(missing) == 1 else 'them'} into a YAML file and give it with --recipe FILE (order is "
            f"one of {', '.join(ORDERS)}), or diagnose with the --trajectory of its training."
        )
    promised = diagnosed.prepared.facts.get("data_digest")
    if promised and promised != diagnosed.prepared.digests["data"]:
        warnings.warn(
            f"The training record was written for other bytes of the data than {diagnosed.prepared.data.path}; the "
            "remedied trainings read the present file.",
            IlpWarning,
            stacklevel=3,
        )


def _loop(known: KnownTraining, settings: Settings) -> LoopOptions:
    given = known.part("loop") | {"save_every": None, "device": "cpu" if settings.scoring.device == "cpu" else "auto"}
    return LoopOptions(**given)


def _lora(
    known: KnownTraining, diagnosed: Diagnosed, method: Literal["lora", "full"] | None
) -> tuple[LoraOptions | None, str]:
    """Shape of the adapter, and who says so."""
    reference = diagnosed.prepared.reference
    wanted = method or known.values.get("method") or ("lora" if reference.kind == "adapter" else "full")
    said = f"--{method}" if method else known.said_by("method") or f"the checkpoint is {_KINDS[reference.kind]}"
    if wanted == "full":
        return None, f"all of them, {said}"
    own = known.part("lora")
    shape = LoraOptions()
    if reference.kind == "adapter":
        try:
            shape = saved_lora(reference.model_dir)
        except SettingsError:
            # Somebody wants a plain adapter in place of one that is not trained here.
            if known.values.get("method") != "lora" or "rank" not in own:
                raise
    options = replace(shape, **own)
    targets = ", ".join(options.targets)
    more = f", with {', '.join(options.more)}" if isinstance(options, SavedLoraOptions) else ""
    return options, f"an adapter of rank {options.rank} on {targets}{more}, {said}"


_KINDS = {"adapter": "an adapter", "full": "a full model"}


def _data_settings(known: KnownTraining, diagnosed: Diagnosed) -> DataSettings:
    """How the training made rows: what it says itself, and the diagnosis for the rest."""
    given = {name: value for name, value in known.part("data").items() if name in DataSettings.model_fields}
    return DataSettings(**{**diagnosed.settings.data.model_dump(), **given})


def _check_vocabulary(largest: int, base: Path) -> None:
    config = check_config(base)
    rows = (config.get("text_config") or config).get("vocab_size")
    if isinstance(rows, int) and largest >= rows:
        raise SettingsError(
            f"Fine-tuning has added tokens: the tokenizer has ids up to {largest}, the base in {base} only {rows} "
            "embeddings; save a base with resized embeddings, and diagnose with it as --base."
        )


def _exposures(diagnosed: Diagnosed, passes: int) -> dict[str, int]:
    """How often each sample was trained on, of those that were not once in every pass."""
    table = diagnosed.prepared.trajectory
    if table is None:
        return {}
    last: dict[str, tuple[int, int]] = {}
    for key, step, count in zip(*(table[n].to_pylist() for n in ("sample_id", "step", "exposures")), strict=True):
        if count is not None and step >= last.get(key, (-1, 0))[0]:
            last[key] = step, int(count)
    return {key: count for key, (_, count) in last.items() if count != passes}


def course_tokens(recipe: Recipe, seed: int | None = None) -> int:
    """Tokens that the unchanged training puts through the model."""
    counts = recipe.course(recipe.loop.seed if seed is None else seed).exposures
    return sum(len(row.input_ids) * counts.get(row.sample_id, 0) for row in recipe.encode(recipe.samples))
