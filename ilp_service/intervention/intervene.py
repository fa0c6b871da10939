"""Remedies of a diagnosis tried as an experiment, from the run's id to effects in the tracking store."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ilp_service.errors import SettingsError
from ilp_service.intervention.arms import MEASURED, Arm, ArmResult
from ilp_service.intervention.designing import design, price_of, within_budget
from ilp_service.intervention.effects import Effects, effects_of
from ilp_service.intervention.experiment import Done, lacked_memory, run_experiment, stage_of
from ilp_service.intervention.experiment_log import ExperimentLog, arm_params, metric_name
from ilp_service.intervention.general_text import GeneralText, read_general_text
from ilp_service.intervention.known_training import known_training
from ilp_service.intervention.measuring import Measurer
from ilp_service.intervention.outcomes import outcomes_of
from ilp_service.intervention.planning import Planned, plan_arms, wanted_arms
from ilp_service.intervention.recipes import course_tokens, recipe_of
from ilp_service.intervention.refusals import grouped
from ilp_service.intervention.reopening import Diagnosed, reopen
from ilp_service.intervention.runs import questions_of
from ilp_service.intervention.tables import write_tables
from ilp_service.intervention.text import render_interventions
from ilp_service.stages import digest_of, stage
from ilp_service.tables import atomic_path, write_table
from ilp_service.tracking.run import Run
from ilp_service.tracking.store import Tracking

if TYPE_CHECKING:
    from ilp_service.training.loop import Progress
    from ilp_service.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class InterventionRequest:
    """An experiment with the remedies of a diagnosis.

    Attributes:
        run_id: MLflow run of the diagnosis.
        causes: Treat samples of these causes alone; ``None``: of all.
        arms: Remedies to try (:func:`~ilp_service.intervention.planning.wanted_arms`); none: all that are loaded.
        budget: Most that it may cost, by the prices of the settings; ``None``: no limit.
        seeds: Seeds of the fine-tuning; the first is the one after the diagnosed run's.
        method: Train an adapter or all weights, whatever the checkpoint is.
        recipe: A file that says how the checkpoint was trained.
        plugin_dirs: Further folders with plugins.
        overrides: Settings as ``key=value``.
    """

    run_id: str
    causes: tuple[str, ...] | None = None
    arms: tuple[str, ...] = ()
    budget: float | None = None
    seeds: int = 2
    method: Literal["lora", "full"] | None = None
    recipe: Path | None = None
    plugin_dirs: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """All that an experiment will do, decided before anything is trained.

    Attributes:
        diagnosed: The diagnosis.
        recipe: The training that is done again.
        planned: What each remedy would do, those that treat nobody among them.
        arms: Remedies and their placebos.
        left_out: Why a remedy is not tried though it treats somebody, by its name.
        seeds: Of the fine-tuning.
        general: General text, if there is any.
        tokens: Of the training as it was.
        seconds_a_token: Of that training; ``None`` where nobody measured it.
        folder: Where results are kept.
    """

    diagnosed: Diagnosed
    recipe: Recipe
    planned: Planned
    arms: tuple[Arm, ...]
    left_out: Mapping[str, str]
    seeds: tuple[int, ...]
    general: GeneralText | None
    tokens: int
    seconds_a_token: float | None
    folder: Path

    @cached_property
    def measurer(self) -> Measurer:
        """The measurements that every arm goes through."""
        return Measurer(
            self.diagnosed,
            held_out=() if self.general is None else self.general.held_out,
            max_length=self.recipe.continued.max_length,
        )

    def seconds(self, arm: Arm) -> float | None:
        """About how long an arm trains under all seeds; ``None`` where nothing tells."""
        if self.seconds_a_token is None:
            return None
        return self.seconds_a_token * (self.tokens + arm.price.training_tokens) * len(self.seeds)

    def price(self, arm: Arm) -> float:
        """What it costs at most under all seeds."""
        return price_of(arm, self.tokens, len(self.seeds), self.diagnosed.settings.intervention)

    def kept(self, arm: Arm) -> int:
        """Under how many of the seeds it was trained and measured before."""
        places = (stage_of(self.recipe, arm, seed, self.measurer.digest, self.folder) for seed in self.seeds)
        return sum((place.folder / "digest").is_file() and not lacked_memory(place.folder) for place in places)

    def public(self) -> dict[str, Any]:
        """Ready for JSON."""
        treated_of = {plan.mitigation: plan for plan in self.planned.plans}
        arms = []
        for arm in self.arms:
            plan = treated_of.get(arm.name)
            arms.append(
                {
                    "arm": arm.name,
                    "kind": arm.kind,
                    "treats": {cause: len(keys) for cause, keys in arm.treats.items()},
                    "refused": len(plan.refused) if plan else 0,
                    "placebo": arm.placebo,
                    "summary": plan.summary if plan else "",
                    "price": asdict(arm.price),
                    "cost": self.price(arm),
                    "seconds": self.seconds(arm),
                    "kept": self.kept(arm),
                }
            )
        return {
            "diagnosis": self.diagnosed.run_id,
            "model": self.diagnosed.prepared.reference.resolved,
            "base": self.recipe.base_name,
            "samples": len(self.diagnosed.prepared.samples),
            "unlearned": len(self.diagnosed.unlearned),
            "recipe": dict(self.recipe.where),
            "training_tokens": self.tokens,
            "seeds": list(self.seeds),
            "arms": arms,
            "refused": {
                plan.mitigation: [one.public() for one in grouped(plan.refused)]
                for plan in self.planned.plans
                if plan.refused
            },
            "left_out": dict(self.left_out),
            "failures": dict(self.planned.failures),
        }


@dataclass(frozen=True)
class InterventionResult:
    """What came of an experiment.

    Attributes:
        experiment: What was done.
        results: One for every arm and seed.
        effects: What every remedy did.
        run_id: MLflow run of the experiment.
        artifacts: URIs of its files, by name.
        seconds: Wall-clock time of this call.
    """

    experiment: Experiment
    results: tuple[ArmResult, ...]
    effects: Effects
    run_id: str
    artifacts: Mapping[str, str]
    seconds: float

    def public(self) -> dict[str, Any]:
        """The one object that ``ilp intervene --json`` prints."""
        return {
            "run_id": self.run_id,
            **self.experiment.public(),
            "effects": self.effects.public(),
            "artifacts": dict(self.artifacts),
            "run_seconds": round(self.seconds, 2),
        }


def design_experiment(
    request: InterventionRequest, tracking: Tracking, say: Callable[[str], None], *, bars: bool = False
) -> Experiment:
    """Decide what to try, at what price; nothing is trained, and a second look costs nothing.

    Args:
        request: What is asked for.
        tracking: The store.
        say: Takes one line of progress for people.
        bars: Show bars on stderr where models are asked, now and after every training.

    Raises:
        IlpError: Anything that a user can mend.
    """
    if request.budget is not None and not (math.isfinite(request.budget) and request.budget >= 0):
        raise SettingsError(
            f"The budget is {request.budget!r}; expected a number of at least 0, or no --budget if there is no limit."
        )
    diagnosed = reopen(
        request.run_id, tracking, say, plugin_dirs=request.plugin_dirs, overrides=request.overrides, bars=bars
    )
    settings = diagnosed.settings
    wanted = wanted_arms(diagnosed.plugins.mitigations, request.arms)
    known = known_training(diagnosed, tracking, request.recipe)
    general = read_general_text(settings, seed=settings.seed)
    recipe = recipe_of(diagnosed, tracking, method=request.method, known=known, general=general)
    for name, where in recipe.where:
        say(f"{name}: {where}")
    folder = diagnosed.folder / "interventions"
    planned = plan_arms(diagnosed, wanted, folder, request.causes)
    for name, failure in planned.failures.items():
        say(f"{name}: {failure}")
    left_out = {}
    usable = []
    for plan in planned.plans:
        if plan.change.documents and plan.change.general_share and general is None:
            left_out[plan.mitigation] = (
                f"{plan.mitigation} mixes general text in, and none is known; name some with --general FILE, or do "
                "without by --set mitigations.general_share=0."
            )
        else:
            usable.append(plan)
    learned = diagnosed.evaluation.filter(pc.invert(pc.field("unlearned")))["sample_id"].to_pylist()
    arms = design(usable, recipe, diagnosed.cause_of(), learned, seed=settings.seed)
    tokens = course_tokens(recipe)
    if request.budget is not None:
        arms, beyond = within_budget(arms, request.budget, tokens, request.seeds, settings.intervention)
        left_out |= beyond
    if general is not None:
        general = general.without(document.text for arm in arms for document in arm.change.documents)
    return Experiment(
        diagnosed=diagnosed,
        recipe=recipe,
        planned=planned,
        arms=arms,
        left_out=left_out,
        seeds=tuple(range(recipe.loop.seed + 1, recipe.loop.seed + 1 + request.seeds)),
        general=general,
        tokens=tokens,
        seconds_a_token=known.seconds / tokens if known.seconds and tokens else None,
        folder=folder,
    )


def intervene(
    experiment: Experiment, tracking: Tracking, say: Callable[[str], None], progress: Progress | None = None
) -> InterventionResult:
    """Train and measure every arm, and say what each remedy did beyond its placebo.

    What is done is kept arm by arm; the same call goes on where a killed one stopped.

    Args:
        experiment: From :func:`design_experiment`.
        tracking: The store.
        say: Takes one line of progress for people.
        progress: Called after an optimizer step.

    Raises:
        SettingsError: There is no remedy to try.
        IlpError: Anything that a user can mend.
    """
    started = time.monotonic()
    diagnosed = experiment.diagnosed
    if not experiment.arms:
        raise SettingsError(f"No remedy can be tried: {_why_none(experiment)}")
    original, original_loss = _original(experiment)
    params = _params(experiment)
    # What the diagnosis or a measurement has opened is not wanted beside a training.
    close = diagnosed.prepared.checkpoint.close
    close()
    log = ExperimentLog.open(tracking, digest_of(params, experiment.measurer.digest), diagnosed.run_id, original)

    def on_done(done: Done) -> None:
        close()
        log.arm_done(done)

    with log.experiment(f"intervene {diagnosed.prepared.reference.resolved}", params) as run:
        results = run_experiment(
            experiment.recipe,
            experiment.arms,
            experiment.seeds,
            experiment.measurer,
            experiment.folder,
            say,
            on_done=on_done,
            progress=progress,
        )
        effects = effects_of(
            original,
            diagnosed.attributions,
            experiment.arms,
            results,
            seed=diagnosed.settings.seed,
            threshold=diagnosed.settings.detection.threshold,
            questions=questions_of(diagnosed.prepared.samples),
            original_loss=original_loss,
            prices=diagnosed.settings.intervention,
        )
        artifacts = _publish(experiment, effects, run)
    return InterventionResult(experiment, tuple(results), effects, run.run_id, artifacts, time.monotonic() - started)


def _why_none(experiment: Experiment) -> str:
    if experiment.left_out:
        return " ".join(experiment.left_out.values())
    return " ".join(f"{plan.mitigation}: {plan.summary}" for plan in experiment.planned.plans) or "none is loaded."


def _original(experiment: Experiment) -> tuple[pa.Table, float | None]:
    """What is measured of the diagnosed model, once."""
    digest = experiment.measurer.digest
    place = experiment.folder / f"original-{digest[:12]}"
    with stage(place, digest) as empty:
        if empty is not None:
            measured, loss = experiment.measurer.original()
            experiment.diagnosed.prepared.checkpoint.close()
            write_table(measured, empty / "measured.parquet")
            (empty / "loss.json").write_text(json.dumps(loss))
    loss = json.loads((place / "loss.json").read_text())
    return pq.read_table(place / "measured.parquet").cast(MEASURED), loss


def _params(experiment: Experiment) -> dict[str, object]:
    recipe = experiment.recipe
    loop = {f"loop.{name}": value for name, value in asdict(recipe.loop).items() if name != "save_every"}
    lora = {} if recipe.lora is None else {f"lora.{name}": value for name, value in asdict(recipe.lora).items()}
    return {
        "diagnosis": experiment.diagnosed.run_id,
        "model": experiment.diagnosed.prepared.reference.resolved,
        "base": recipe.base_name,
        "recipe_digest": recipe.digest,
        "seeds": list(experiment.seeds),
        "arms": [arm.name for arm in experiment.arms],
        "arms_digest": digest_of([[arm.change.public(), arm_params(arm)] for arm in experiment.arms]),
        **loop,
        **lora,
    }


def _publish(experiment: Experiment, effects: Effects, run: Run) -> dict[str, str]:
    """Log figures and files of the experiment; returns the files' URIs by name."""
    diagnosed = experiment.diagnosed
    folder = experiment.folder / "output" / run.run_id
    reference = diagnosed.prepared.reference
    outcomes = outcomes_of(
        effects.verdicts, diagnosed.evidence.table, model=reference.resolved, run_id=diagnosed.run_id
    )
    facts = {
        "Model": reference.resolved,
        "Base": experiment.recipe.base_name,
        "Data": str(diagnosed.prepared.data.path),
        "Diagnosis": diagnosed.run_id,
        "Seeds": ", ".join(map(str, experiment.seeds)),
        **{name.capitalize(): where for name, where in experiment.recipe.where if name != "base"},
    }
    texts = {
        "interventions.html": render_interventions(effects, facts),
        "interventions.json": json.dumps(
            {**experiment.public(), "effects": effects.public()}, indent=2, ensure_ascii=False
        ),
    }
    paths = [*write_tables(effects, folder)]
    write_table(outcomes, folder / "outcomes.parquet")
    paths.append(folder / "outcomes.parquet")
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        paths.append(folder / name)
    run.log_metrics(_metrics(effects))
    return {_named(path): run.log_file(path) for path in paths}


def _named(path: Path) -> str:
    return "report" if path.suffix == ".html" else path.stem


def _metrics(effects: Effects) -> dict[str, float]:
    found: dict[str, float] = {}
    for cell in effects.cells:
        values = {"effect": cell.recovery.effect, "recovered": cell.recovery.share}
        for name, value in values.items():
            if value is not None and cell.own:
                found[metric_name(f"ilp.{name}.{cell.arm}.{cell.cause}")] = value
    for arm in effects.arms:
        if arm.damage.share is not None:
            found[metric_name(f"ilp.damage.{arm.arm}")] = arm.damage.share
    return found


def names_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Names of options that may be given several times, and with commas."""
    return tuple(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))
