"""The repaired data set of a prescription that is in the tracking store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ilp_service.changes import Change
from ilp_service.checkpoints.reference import resolve
from ilp_service.checkpoints.tokenizer import load_tokenizer
from ilp_service.diagnosis.request import check_digests, read_config
from ilp_service.errors import SettingsError
from ilp_service.intervention.export import Exported, Form, export
from ilp_service.intervention.reopening import of_diagnosis
from ilp_service.samples.reading import DataSet, read_samples
from ilp_service.samples.rendering import Renderer
from ilp_service.samples.sample import Sample
from ilp_service.settings import Settings, load_settings
from ilp_service.tracking.store import Tracking
from ilp_service.tracking.stored_runs import StoredRun, child_runs, read_run, run_file

_KIND = "prescription"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """A data set to write.

    Attributes:
        run_id: MLflow run of the diagnosis, or of a prescription.
        output: The file to write.
        prescription: Run of the prescription; ``None``: the diagnosis's newest.
        form: Form of the rows.
        seed: Of order and rounding; ``None``: that of the prescribed training.
        overwrite: Replace files that are there.
    """

    run_id: str
    output: Path
    prescription: str | None = None
    form: Form = "same"
    seed: int | None = None
    overwrite: bool = False


def export_prescription(request: ExportRequest, tracking: Tracking, say: Callable[[str], None]) -> Exported:
    """Write the data set of a prescription.

    Raises:
        SettingsError: There is no prescription, or the data is not what was diagnosed.
        IlpError: Anything that a user can mend.
    """
    downloads = load_settings().work_dir / "downloads"
    chosen = _prescription(request, tracking)
    diagnosis = read_run(tracking, chosen.tags["ilp.diagnosis"])
    say(f"prescription: run {chosen.run_id} of the diagnosis {diagnosis.run_id}")
    plan = json.loads(run_file(tracking, chosen, "prescription.json", downloads).read_text(encoding="utf-8"))
    config = read_config(run_file(tracking, diagnosis, "config.yaml", downloads))
    settings = load_settings(config["settings"])
    path = Path(config["inputs"]["data"])
    with of_diagnosis(diagnosis.run_id, path):
        data = read_samples(path, settings.data)
        check_digests(config["digests"], {"data": data.digest})
    change = Change.from_public(plan["change"])
    texts = None
    if request.form != "same":
        texts = _texts(config["inputs"], settings, data, tracking)
    return export(
        data,
        change,
        request.output,
        form=request.form,
        seed=int(plan["seed"]) if request.seed is None else request.seed,
        step_rows=int(plan["step_rows"]),
        causes=plan["sample_causes"],
        plain=texts,
        passes=plan["passes"],
        overwrite=request.overwrite,
    )


def _prescription(request: ExportRequest, tracking: Tracking) -> StoredRun:
    run = read_run(tracking, request.prescription or request.run_id)
    if run.tags.get("ilp.kind") == "diagnosis" and request.prescription is None:
        found = child_runs(tracking, run.run_id, _KIND)
        if not found:
            raise SettingsError(
                f"The diagnosis {run.run_id} has no prescription yet; make one with 'ilp prescribe {run.run_id}', "
                "with --no-train if the data set is all that is wanted."
            )
        run = read_run(tracking, found[0])
    if run.tags.get("ilp.kind") != _KIND or "ilp.diagnosis" not in run.tags:
        raise SettingsError(f"The run {run.run_id} is no prescription; give the run_id that 'ilp prescribe' prints.")
    if request.prescription is not None and request.run_id not in (run.run_id, run.tags["ilp.diagnosis"]):
        raise SettingsError(
            f"The prescription {run.run_id} belongs to the diagnosis {run.tags['ilp.diagnosis']}, not to "
            f"{request.run_id}."
        )
    return run


def _texts(
    inputs: dict[str, Any], settings: Settings, data: DataSet, tracking: Tracking
) -> Callable[[Sample, str], tuple[str, str]] | None:
    """Prompt and response as the model read them, where it read plain text."""
    reference = resolve(
        str(inputs["model_uri"]), base=inputs.get("base"), tracking=tracking, work_dir=settings.work_dir
    )
    # Trainers put the end of the sequence there themselves.
    bare = settings.data.model_copy(update={"append_eos": False})
    renderer = Renderer(load_tokenizer(reference.tokenizer_dir), bare)
    if any(renderer.uses_chat(sample) for sample in data.samples):
        return None

    def texts(sample: Sample, response: str) -> tuple[str, str]:
        rendered = renderer.render(sample, response)
        return rendered.prompt_text, rendered.response_text

    return texts
