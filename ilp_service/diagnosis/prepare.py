"""Inputs of a diagnosis, read and checked before anything expensive starts."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ilp_service import __version__
from ilp_service.checkpoints.files import check_config
from ilp_service.checkpoints.loading import Checkpoint
from ilp_service.checkpoints.reference import ModelReference, resolve
from ilp_service.diagnosis.request import OPTIONAL, DiagnosisRequest, check_digests
from ilp_service.errors import AllRowsRefusedError, IlpError, IlpWarning, TrackingError
from ilp_service.samples.reading import DataSet, file_digest, read_samples
from ilp_service.samples.rendering import Renderer, rendering_table
from ilp_service.samples.sample import Sample
from ilp_service.settings import DataSettings
from ilp_service.tables import QUARANTINE
from ilp_service.tracking.artifacts import local_file, plain
from ilp_service.tracking.connection import is_down
from ilp_service.tracking.registry import is_tracked
from ilp_service.tracking.store import Tracking
from ilp_service.training.trajectory_file import read_trajectory, trajectory_facts


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that a diagnosis works on.

    Attributes:
        reference: Where the checkpoint and its base are.
        data: The data set as read.
        samples: The samples that can be scored, in file order.
        quarantine: Refused rows, those included that no model can take.
        renderer: Makes token ids.
        rendering: What the tokenizer made of each sample (``study.Study.rendering`` without ``end_logprob``).
        trajectory: The training record, or ``None``.
        trajectory_source: Where it came from, or why there is none.
        digests: Content digests of model, base, data and trajectory.
        trajectory_path: The file of the training record.
        facts: What it says about its training.
    """

    reference: ModelReference
    checkpoint: Checkpoint
    data: DataSet
    samples: tuple[Sample, ...]
    quarantine: pa.Table
    renderer: Renderer
    rendering: pa.Table
    trajectory: pa.Table | None
    trajectory_source: str
    digests: dict[str, str | None]
    trajectory_path: Path | None = None
    facts: Mapping[str, object] = field(default_factory=dict)

    def work_key(self, request: DiagnosisRequest) -> str:
        """Name of the folder for safe points: a digest of all that can change what is kept there.

        Neither detection nor attribution can, so a look with another threshold costs no second scoring; nor can
        what remedies ask later.
        """
        later = {"work_dir", "detection", "attribution", "knowledge_sources", "judge", "mitigations", "intervention"}
        settings = request.settings.model_dump(mode="json", exclude=later)
        place = self.checkpoint.device.partition(":")[0]
        # Not the trajectory's: no model is asked because of it, and its training length is in the rendering.
        digests = {name: self.digests[name] for name in ("model", "base", "data")}
        parts = [digests, self.renderer.describe(), settings, __version__, len(self.samples), place]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _trajectory(
    request: DiagnosisRequest, reference: ModelReference, tracking: Tracking, known: frozenset[str]
) -> tuple[Path | None, pa.Table | None, str]:
    downloads = request.settings.work_dir / "downloads"
    if request.trajectory and not request.trajectory.startswith(OPTIONAL):
        path = local_file(tracking, request.trajectory, downloads)
        return path, read_trajectory(path, known), plain(request.trajectory)
    if request.trajectory:
        # Somebody has looked at the tags, and knows which of them may be followed here.
        tagged: str | None = request.trajectory.removeprefix(OPTIONAL)
    else:
        tagged = (tracking.find(reference.resolved).tags if is_tracked(reference.resolved) else {}).get(
            "ilp.trajectory"
        )
    if not tagged:
        return None, None, "none was given, and the model version has no tag ilp.trajectory"
    try:
        path = local_file(tracking, tagged, downloads)
        return path, read_trajectory(path, known), plain(tagged)
    except IlpError as error:
        # Left out now, it would be there again at the next attempt.
        if isinstance(error, TrackingError) and is_down(error):
            raise
        message = f"the one that the model version names does not fit: {error}"
        warnings.warn(message, IlpWarning, stacklevel=2)
        return None, None, message


def _data_settings(settings: DataSettings, facts: dict[str, object]) -> DataSettings:
    """The training length of the trajectory, where the settings do not say one."""
    length = facts.get("max_length")
    if settings.max_length is None and isinstance(length, int):
        return settings.model_copy(update={"max_length": length})
    return settings


def _positions(reference: ModelReference) -> int | None:
    """Longest sequence that the model was made for, in tokens; ``None`` where its config does not say."""
    folder = reference.base_dir if reference.kind == "adapter" else reference.model_dir
    config = check_config(folder) if folder is not None else {}
    found = (config.get("text_config") or config).get("max_position_embeddings")
    return found if isinstance(found, int) else None


def _scorable(
    data: DataSet, renderer: Renderer, longest: int | None
) -> tuple[tuple[Sample, ...], list[dict[str, object]]]:
    """The samples that render and fit the model's positions; a refusal for each of the others."""
    kept, refused = [], []
    for sample, rendered in zip(data.samples, renderer.render_many(data.samples), strict=True):
        reason = rendered if isinstance(rendered, str) else None
        if not isinstance(rendered, str):
            length = len(rendered.prompt_ids) + len(rendered.response_ids)
            if longest is not None and length > longest:
                reason = f"{length} tokens are more than the model's {longest} positions"
        if reason is None:
            kept.append(sample)
        else:
            raw = sample.prompt[:200]
            refused.append({"file": str(data.path), "line": sample.line, "reason": reason, "raw": raw})
    return tuple(kept), refused


def prepare(request: DiagnosisRequest, tracking: Tracking) -> Prepared:
    """Read the data, find and open the checkpoint, render every sample, read the trajectory.

    Raises:
        IlpError: Anything that a user can mend; see :mod:`ilp_service.errors`.
    """
    data = read_samples(request.data, request.settings.data, request.limit)
    reference = resolve(request.model_uri, base=request.base, tracking=tracking, work_dir=request.settings.work_dir)
    digests = {"model": reference.digest, "base": reference.base_digest, "data": data.digest}
    check_digests(request.expected, digests)
    path, trajectory, source = _trajectory(request, reference, tracking, data.all_ids)
    digests["trajectory"] = None if path is None else file_digest(path)
    check_digests(request.expected, {"trajectory": digests["trajectory"]})
    facts = trajectory_facts(path) if path else {}
    settings = _data_settings(request.settings.data, facts)
    checkpoint = Checkpoint.open(reference, request.settings.scoring)
    renderer = Renderer(checkpoint.tokenizer, settings)
    renderer.check_round_trip(data.samples)
    samples, refused = _scorable(data, renderer, _positions(reference))
    if not samples:
        raise AllRowsRefusedError(
            f"None of the {len(data.samples)} samples of {data.path} can be scored with this model; the first: "
            f"line {refused[0]['line']}: {str(refused[0]['reason']).rstrip('.')}."
        )
    quarantine = pa.concat_tables([data.quarantine, pa.Table.from_pylist(refused, schema=QUARANTINE)])
    table = rendering_table(samples, renderer)
    return Prepared(
        reference=reference,
        checkpoint=checkpoint,
        data=data,
        samples=samples,
        quarantine=quarantine,
        renderer=renderer,
        rendering=table,
        trajectory=trajectory,
        trajectory_source=source,
        digests=digests,
        trajectory_path=path,
        facts=facts,
    )
