"""A prescription carried out: decided, trained, measured as the diagnosis measures, and registered if it helped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from filecmp import cmp
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ilp_service.errors import SettingsError
from ilp_service.intervention.arms import MEASURED, Arm, Cost
from ilp_service.intervention.deciding import PLAN, Decision, spared_by
from ilp_service.intervention.experiment import to_be_retried
from ilp_service.intervention.experiment_log import arm_params, work_run
from ilp_service.intervention.prescription_outcome import Outcome, outcome_of, outcome_text
from ilp_service.stages import digest_of, stage
from ilp_service.tables import atomic_path, storage_errors, write_table
from ilp_service.tracking.run import Run
from ilp_service.tracking.store import Tracking

if TYPE_CHECKING:
    from ilp_service.training.loop import Progress
    from ilp_service.training.recipe import Recipe

KIND = "prescription"
TEXT = "prescription.txt"
_MEASURED, _RESULT, _RUN = "measured.parquet", "result.json", "run.json"


@dataclass(frozen=True)
class PrescriptionResult:
    """What came of a prescription.

    Attributes:
        decision: What was done.
        outcome: What was measured; ``None`` when the training diverged.
        diverged: Where it did, or ``None``.
        cost: What the training took.
        model: Folder with the trained model, or ``None``.
        model_uri: Its version in the registry, or ``None``.
        registered: Why it is a version, or why not, one sentence.
        run_id: MLflow run.
        artifacts: URIs of files, by name.
        notes: What the training did on the way.
    """

    decision: Decision
    outcome: Outcome | None
    diverged: str | None
    cost: Cost
    model: Path | None
    model_uri: str | None
    registered: str
    run_id: str
    artifacts: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """What came of it, for people."""
        lines = [f"The training diverged: {self.diverged}"] if self.outcome is None else [outcome_text(self.outcome)]
        if self.model is not None:
            lines.append(f"Model: {self.model_uri or self.model}")
        return "\n".join([*lines, self.registered])

    def public(self) -> dict[str, Any]:
        """The one object that ``ilp prescribe --json`` prints."""
        plan = self.decision.prescription
        return {
            "run_id": self.run_id,
            "diagnosis": self.decision.diagnosed.run_id,
            "parent": self.decision.diagnosed.prepared.reference.resolved,
            "model_uri": self.model_uri,
            "model": None if self.model is None else str(self.model),
            "registered": self.registered,
            "status": "diverged" if self.outcome is None else "done",
            "reason": self.diverged or "",
            "treats": {name: len(keys) for name, keys in plan.treats.items()},
            "left_out": len(plan.left_out),
            "expected": asdict(plan.expected),
            "price": asdict(plan.price),
            "cost": asdict(self.cost),
            "measured": None if self.outcome is None else self.outcome.public(),
            "notes": [*plan.notes, *self.notes],
            "artifacts": dict(self.artifacts),
        }


def record(decision: Decision, tracking: Tracking) -> dict[str, str]:
    """Write the decision down in a run below the diagnosis, without training; ``ilp export`` takes it from there.

    Returns:
        ``run_id`` and the URIs of the files.
    """
    diagnosed = decision.diagnosed
    name = f"prescribe {diagnosed.prepared.reference.resolved}, not trained"
    digest = digest_of(decision.digest, decision.public())
    with work_run(tracking, name, KIND, diagnosed.run_id, digest) as run:
        artifacts = _log_decision(decision, run)
        run.set_tags({"ilp.status": "done", "ilp.registered": "It was not trained."})
    return {"run_id": run.run_id, **artifacts}


def carry_out(
    decision: Decision, tracking: Tracking, say: Callable[[str], None], progress: Progress | None = None
) -> PrescriptionResult:
    """Train what was prescribed, measure it, and register it as a new version; no version is ever replaced.

    A killed call goes on at the last finished step: decided, trained and measured, registered. A training that ended
    for want of memory is done again.

    Args:
        decision: From :func:`decide`.
        tracking: The store.
        say: Takes one line of progress for people.
        progress: Called after an optimizer step.

    Raises:
        SettingsError: Nothing is prescribed, the output is there already, or no model can have the name.
        IlpError: Anything that a user can mend.
    """
    diagnosed, request = decision.diagnosed, decision.request
    if decision.prescription.change.is_empty:
        raise SettingsError("Nothing is prescribed, so there is nothing to train; --dry-run says why.")
    _check_name(request.name)
    place = decision.folder / f"model-{decision.digest[:12]}"
    _check_output(decision, place)
    name = f"prescribe {diagnosed.prepared.reference.resolved}"
    # Under another budget the same may be prescribed: that is a run of its own, with its own prescription.json.
    work = digest_of(decision.digest, decision.prescription.budget.public())
    with work_run(tracking, name, KIND, diagnosed.run_id, work) as run:
        artifacts = _log_decision(decision, run)
        retried = to_be_retried(place)
        with stage(place, decision.digest) as empty:
            if empty is not None:
                say("training what was prescribed")
                _fill(empty, decision, progress)
        told = json.loads((place / _RESULT).read_text(encoding="utf-8"))
        cost = Cost(**told["cost"])
        run.log_metrics({f"ilp.{key}": float(value) for key, value in asdict(cost).items()})
        if told["diverged"]:
            run.fail(told["diverged"])
            return PrescriptionResult(
                decision,
                None,
                told["diverged"],
                cost,
                None,
                None,
                "A diverged training is not registered.",
                run.run_id,
                artifacts,
                tuple(told["notes"]),
            )
        after = pq.read_table(place / _MEASURED).cast(MEASURED)
        outcome = outcome_of(decision, _original(decision), after, told["general_loss"], told.get("held_out", ()))
        artifacts |= {"measured": run.log_file(place / _MEASURED), "result": run.log_dict(outcome.public(), _RESULT)}
        run.log_metrics(outcome.metrics())
        model = place / told["model"]
        if request.output is not None:
            model = _copied(model, request.output)
        uri, why = _registered(decision, outcome, place / told["model"], run, artifacts)
        if uri:
            artifacts["model"] = uri
        run.set_tags({"ilp.status": "done", "ilp.registered": why, **({"ilp.reason": ""} if retried else {})})
    return PrescriptionResult(
        decision, outcome, None, cost, model, uri, why, run.run_id, artifacts, tuple(told["notes"])
    )


def _fill(folder: Path, decision: Decision, progress: Progress | None) -> None:
    from ilp_service.training.changed import train_changed
    from ilp_service.training.sft import save_model

    recipe = decision.recipe
    # Deciding has asked the base about samples at risk; it is not wanted beside the training.
    decision.diagnosed.prepared.checkpoint.close()
    trained = train_changed(
        recipe,
        decision.prescription.change,
        seed=decision.seed,
        folder=folder / "training",
        spared=spared_by(decision),
        progress=progress,
    )
    shutil.rmtree(folder / "training", ignore_errors=True)
    name = _name_of(recipe)
    loss = None
    if trained.diverged is None:
        assert trained.model is not None  # noqa: S101 - tells the type checker
        save_model(trained.model, recipe.tokenizer, folder / name)
        measured, loss = decision.measurer(trained.model)
        write_table(measured, folder / _MEASURED)
    price = decision.prescription.price
    cost = Cost(
        trained.training_tokens,
        trained.continued_tokens,
        trained.steps,
        trained.seconds,
        trained.peak_memory_bytes,
        price.documents,
        price.judgements,
    )
    told = {
        "cost": asdict(cost),
        "diverged": trained.diverged,
        "general_loss": loss,
        "notes": list(trained.notes),
        "held_out": list(trained.held_out),
        "model": name,
    }
    (folder / _RESULT).write_text(json.dumps(told), encoding="utf-8")


def _original(decision: Decision) -> pa.Table:
    """What is measured of the diagnosed model, once; an experiment with the same measurements shares it."""
    digest = decision.measurer.digest
    place = decision.diagnosed.folder / "interventions" / f"original-{digest[:12]}"
    with stage(place, digest) as empty:
        if empty is not None:
            measured, loss = decision.measurer.original()
            decision.diagnosed.prepared.checkpoint.close()
            write_table(measured, empty / _MEASURED)
            (empty / "loss.json").write_text(json.dumps(loss))
    return pq.read_table(place / _MEASURED).cast(MEASURED)


def _log_decision(decision: Decision, run: Run) -> dict[str, str]:
    plan = decision.prescription
    treats = {
        cause: tuple(key for one in plan.plans if cause in plan.causes.get(one.mitigation, {}) for key in one.treats)
        for cause in {cause for counts in plan.causes.values() for cause in counts}
    }
    arm = Arm(KIND, "remedy", plan.change, treats, price=plan.price)
    run.log_params(
        {
            "diagnosis": decision.diagnosed.run_id,
            "model": decision.diagnosed.prepared.reference.resolved,
            "base": decision.recipe.base_name,
            "recipe_digest": decision.recipe.digest,
            "seed": decision.seed,
            **{f"budget.{name}": cap for name, cap in plan.budget.public().items()},
            **{key: value for key, value in arm_params(arm).items() if key.startswith(("change.", "price."))},
        }
    )
    folder = decision.folder / "output" / run.run_id
    texts = {
        PLAN: json.dumps(decision.public(), ensure_ascii=False, indent=1) + "\n",
        TEXT: decision.text + "\n",
    }
    artifacts = {}
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        artifacts[name.replace(".txt", "_text").removesuffix(".json")] = run.log_file(folder / name)
    return artifacts


def _check_name(name: str | None) -> None:
    if name and set(name) & set("/:"):
        raise SettingsError(f"No model can be registered as {name!r}; choose a --name without '/' and ':'.")


def _check_output(decision: Decision, place: Path) -> None:
    """Before anything is trained: whether the model can be copied to where it is wanted."""
    output = decision.request.output
    if output is None:
        return
    final = output / _name_of(decision.recipe)
    with storage_errors(final):
        nearest = next(path for path in (final.absolute(), *final.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise SettingsError(f"{nearest} is a file; choose a folder for --output.")
    # A call that was killed after it had copied goes on.
    if nearest == final.absolute() and not _same(place / final.name, final):
        raise SettingsError(f"{final} is there already; choose another --output.")


def _name_of(recipe: Recipe) -> str:
    return "model" if recipe.lora is None else "adapter"


def _same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    names = [{path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} for folder in (one, other)]
    return names[0] == names[1] != set() and all(cmp(one / name, other / name, shallow=False) for name in names[0])


def _copied(model: Path, output: Path) -> Path:
    final = output / model.name
    if final.is_dir():
        return final
    partial = final.with_name(f".{final.name}.part")
    with storage_errors(final):
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(model, partial)
        partial.rename(final)
    return final


def _registered(
    decision: Decision, outcome: Outcome, model: Path, run: Run, artifacts: Mapping[str, str]
) -> tuple[str | None, str]:
    """The new version and why it is one; or why it is none."""
    request, reference = decision.request, decision.diagnosed.prepared.reference
    if request.register == "never":
        return None, "It is not registered, as was asked for."
    name = request.name or reference.name
    if name is None:
        return None, f"{reference.resolved} is in no registry, so neither is this; --name NAME puts it there."
    worse = outcome.worse(request.max_damage)
    if worse and request.register != "always":
        return None, f"It is not registered: {worse} '--register always' registers it all the same."
    # A process that was killed after it had registered has left its version, tags and all.
    version = run.registered(name) or run.register(
        name,
        folder=model,
        base=decision.recipe.base_name,
        tags={
            "ilp.parent": reference.resolved,
            "ilp.prescription": artifacts[KIND],
            "ilp.diagnosis": decision.diagnosed.run_id,
            "ilp.unlearned_rate": f"{outcome.rate_after:.6g}",
            "ilp.unlearned_rate_before": f"{outcome.rate_before:.6g}",
            "ilp.damage": f"{outcome.damage:.6g}",
            "ilp.data": str(decision.diagnosed.request.data.absolute()),
        },
    )
    uri = f"models:/{version.name}/{version.version}"
    return uri, f"Registered as {uri}, {f'as was asked for, though {worse}' if worse else 'for it is better.'}"
