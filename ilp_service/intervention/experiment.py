"""Training every arm under every seed, each kept when it is done: a killed experiment goes on at the next arm."""

from __future__ import annotations

import gc
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow.parquet as pq

from ilp_service.changes import Change
from ilp_service.checkpoints.threads import SMALL_BYTES
from ilp_service.intervention.arms import MEASURED, Arm, ArmResult, Cost, blanked
from ilp_service.stages import digest_of, stage
from ilp_service.tables import atomic_path, storage_errors, write_table

if TYPE_CHECKING:
    from ilp_service.intervention.measuring import Measure
    from ilp_service.training.changed import Trained
    from ilp_service.training.loop import Progress
    from ilp_service.training.recipe import Recipe

_MEASURED, _RESULT, _CHANGE = "measured.parquet", "result.json", "change.json"


class Train(Protocol):
    """Trains the base of a recipe again with a change; :func:`ilp_service.training.changed.train_changed`."""

    def __call__(
        self,
        recipe: Recipe,
        change: Change,
        *,
        seed: int,
        folder: Path,
        spared: frozenset[str] = frozenset(),
        general_tokens: int = 0,
        draw: int = 0,
        progress: Progress | None = None,
    ) -> Trained:
        """The trained model and what it cost."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """An arm that was trained and measured under a seed, now or earlier.

    Attributes:
        arm: The arm.
        result: What came of it.
        notes: What its training did on the way, for people.
        folder: Where it is kept: ``measured.parquet``, ``result.json``, ``change.json``.
        kept: Whether it was there already.
    """

    arm: Arm
    result: ArmResult
    notes: tuple[str, ...]
    folder: Path
    kept: bool


def run_experiment(
    recipe: Recipe,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    measure: Measure,
    folder: Path,
    say: Callable[[str], None],
    *,
    on_done: Callable[[Done], None] | None = None,
    progress: Progress | None = None,
    train: Train | None = None,
) -> list[ArmResult]:
    """Train and measure every arm under every seed, seed after seed; an arm that diverges does not stop the others.

    Each is kept in a folder of its own, named after all that it depends on: started again, the experiment reads those
    that are there and goes on with the next. One that ended for want of memory is trained again.

    Args:
        recipe: The training that is done again.
        arms: What is otherwise; names are unique.
        seeds: Of the fine-tuning, the same for every arm, so that arms can be compared in pairs.
        measure: Measures a trained model.
        folder: Where results are kept.
        say: Takes one line of progress for people.
        on_done: Told of every arm and seed when it is done, those that were kept among them.
        progress: Called after an optimizer step with the step, the number of steps and the loss.
        train: Trains an arm.

    Returns:
        One result for each seed and arm, in that order.

    Raises:
        ValueError: Two arms have one name.
        IlpError: The base cannot be loaded, or nothing can be written.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"arms have the names {names}; expected unique ones.")
    if train is None:
        from ilp_service.training.changed import train_changed

        train = train_changed
    results = []
    total = len(seeds) * len(arms)
    for number, (seed, arm) in enumerate(((seed, arm) for seed in seeds for arm in arms), start=1):
        place = stage_of(recipe, arm, seed, measure.digest, folder)
        title = f"{number}/{total} {arm.name}, seed {seed}"
        kept = True
        to_be_retried(place.folder)
        with stage(place.folder, place.digest) as empty:
            if empty is not None:
                kept = False
                say(f"{title}: training")
                _fill(empty, recipe, arm, seed, measure, train, progress)
        done = read_stage(place.folder, arm, recipe, kept=kept)
        results.append(done.result)
        say(f"{title}: {_told(done)}")
        if on_done is not None:
            on_done(done)
    return results


@dataclass(frozen=True, slots=True)
class Place:
    """Where an arm is kept under a seed, and what it depends on."""

    folder: Path
    digest: str


def stage_of(recipe: Recipe, arm: Arm, seed: int, measured_by: str, folder: Path) -> Place:
    """The place of an arm under a seed; another change, recipe or measurement has another.

    Args:
        recipe: The training that is done again.
        arm: What is otherwise.
        seed: Of the fine-tuning.
        measured_by: Digest of how it is measured.
        folder: Of the experiment.
    """
    # Who is treated matters to the training only where samples are held out of it.
    spared = sorted(_spared(arm)) if arm.change.epochs is not None else []
    change = arm.change.public()
    digest = digest_of(recipe.digest, change, spared, arm.general_tokens, arm.seed, seed, measured_by)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", arm.name).strip("-.") or "arm"
    return Place(folder / f"{plain[:60]}-{seed}-{digest[:12]}", digest)


def lacked_memory(folder: Path) -> bool:
    """Whether what is kept there ended for want of memory, which tells of the machine and not of the training."""
    path = folder / _RESULT
    if not path.is_file():
        return False
    told = json.loads(path.read_text(encoding="utf-8"))
    reason = told.get("reason") or told.get("diverged")
    if not reason:
        return False
    from ilp_service.training.changed import NO_MEMORY

    return NO_MEMORY in reason


def to_be_retried(folder: Path) -> bool:
    """Let a stage be filled once more where there was no memory left; returns whether it is to be."""
    if not lacked_memory(folder):
        return False
    with storage_errors(folder):
        (folder / "digest").unlink(missing_ok=True)
    return True


def read_stage(folder: Path, arm: Arm, recipe: Recipe, *, kept: bool = True) -> Done:
    """What is kept of an arm under a seed."""
    told = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    held_out = tuple(told["held_out"]) if "held_out" in told else _held_out(recipe, arm, told["seed"])
    cost = Cost(**{**told["cost"], "documents": arm.price.documents, "judgements": arm.price.judgements})
    result = ArmResult(
        arm=arm.name,
        seed=told["seed"],
        status=told["status"],
        reason=told["reason"],
        measured=blanked(pq.read_table(folder / _MEASURED).cast(MEASURED), held_out),
        general_loss=told["general_loss"],
        cost=cost,
        held_out=held_out,
    )
    return Done(arm, result, tuple(told["notes"]), folder, kept)


def _held_out(recipe: Recipe, arm: Arm, seed: int) -> tuple[str, ...]:
    """Who was held out, where the result that is kept does not name them; drawn once more."""
    if arm.change.epochs is None:
        return ()
    from ilp_service.training.changed_plan import planned

    plan = planned(recipe, arm.change, seed=seed, spared=_spared(arm), general_tokens=arm.general_tokens, draw=arm.seed)
    return plan.held_out


def _spared(arm: Arm) -> frozenset[str]:
    return frozenset(key for keys in arm.treats.values() for key in keys)


def _fill(
    folder: Path, recipe: Recipe, arm: Arm, seed: int, measure: Measure, train: Train, progress: Progress | None
) -> None:
    trained = train(
        recipe,
        arm.change,
        seed=seed,
        folder=folder / "training",
        spared=_spared(arm),
        general_tokens=arm.general_tokens,
        draw=arm.seed,
        progress=progress,
    )
    shutil.rmtree(folder / "training", ignore_errors=True)
    measured, loss = MEASURED.empty_table(), None
    if trained.diverged is None:
        assert trained.model is not None  # noqa: S101 - tells the type checker
        measured, loss = measure(trained.model)
    cost = Cost(
        training_tokens=trained.training_tokens,
        continued_tokens=trained.continued_tokens,
        steps=trained.steps,
        seconds=trained.seconds,
        peak_memory_bytes=trained.peak_memory_bytes,
    )
    told: dict[str, Any] = {
        "arm": arm.name,
        "seed": seed,
        "status": "done" if trained.diverged is None else "diverged",
        "reason": trained.diverged or "",
        "general_loss": loss,
        "cost": asdict(cost),
        "notes": list(trained.notes),
        "held_out": list(trained.held_out),
    }
    size = 0 if trained.model is None else sum(one.numel() * one.element_size() for one in trained.model.parameters())
    del trained
    _give_back(size)
    write_table(measured, folder / _MEASURED)
    for name, value in ((_RESULT, told), (_CHANGE, arm.change.public())):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _give_back(size: int) -> None:
    """The memory of a model of so many bytes and of its optimizer, before the next is loaded."""
    import torch

    # Models are full of cycles; looking for them takes longer than a small one is worth.
    if size > SMALL_BYTES:
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _told(done: Done) -> str:
    result = done.result
    if result.status == "diverged":
        return f"diverged, {result.reason}"
    unlearned = result.measured["unlearned"].drop_null().to_pylist()
    return (
        f"{sum(unlearned)} of {len(unlearned)} unlearned, {result.cost.training_tokens} tokens, "
        f"{result.cost.seconds:.1f} s" + (" (kept)" if done.kept else "")
    )
