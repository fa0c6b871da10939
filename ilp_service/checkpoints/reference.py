"""From what a user calls a model to the folders with its weights, its tokenizer and its base."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ilp_service.checkpoints import files, hub
from ilp_service.checkpoints.digest import Digests, other_files, weight_files
from ilp_service.checkpoints.layout import Kind, Layout, detect
from ilp_service.errors import AdapterBaseError, IlpError, ModelNotFoundError, SourceUnreadableError, TrackingError
from ilp_service.tracking import Tracking
from ilp_service.tracking.logged_models import BASE_TAG
from ilp_service.tracking.registry import ModelSource, is_tracked, local_folder


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A checkpoint with all that is needed to open it.

    Attributes:
        uri: As the user gave it.
        resolved: What it stands for, an alias resolved once: ``models:/name/3``, a folder, a hub id.
        name: Of the registered model.
        version: Of the registered model, as text.
        alias: By which the version was asked for.
        run_id: Of the MLflow run that made it.
        model_id: Of the logged model (``m-…``) that metrics can be linked to.
        kind: Full weights, or an adapter on its base.
        model_dir: Folder with the weights and their config; only read.
        tokenizer_dir: Folder with the tokenizer; an adapter's may be its base's.
        base: The base model as it was named, a URI, a folder (absolute) or a hub id; ``None`` when it is not known.
        base_dir: Folder with the base model's weights.
        base_from: Who named the base: ``'--base'``, ``'tag'``, ``'adapter'`` or ``'MLmodel'``.
        base_problem: Why there is no base though one was named, as a sentence.
        digest: SHA-256 of the weights, the config and the tokenizer's files.
        base_digest: The same of the base model.
        downloads: Copies made for this reference; see ``discard_downloads``.
    """

    uri: str
    resolved: str
    kind: Kind
    model_dir: Path
    tokenizer_dir: Path
    digest: str
    name: str | None = None
    version: str | None = None
    alias: str | None = None
    run_id: str | None = None
    model_id: str | None = None
    base: str | None = None
    base_dir: Path | None = None
    base_from: str | None = None
    base_problem: str | None = None
    base_digest: str | None = None
    downloads: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    layout: Layout
    resolved: str
    source: ModelSource | None
    downloads: tuple[Path, ...]

    @property
    def tags(self) -> Mapping[str, str]:
        return self.source.tags if self.source else {}


def resolve(uri: str, *, base: str | None, tracking: Tracking, work_dir: Path) -> ModelReference:
    """Find a checkpoint and its base, and refuse it early when it cannot be opened safely.

    The base comes from ``base``, else the tag ``ilp.base_model``, else the adapter's config, else the MLmodel.
    A full model whose base is not known or not found has none; an adapter needs one.

    Args:
        uri: ``models:/name/3``, ``models:/name@alias``, ``models:/m-…``, ``runs:/<id>/path``, a folder or a hub id.
        base: The same for the base model, if the user names one.
        tracking: The store to look in.
        work_dir: Where downloads and remembered digests are kept.

    Raises:
        ModelNotFoundError: No such model, version, alias, run, folder or hub id.
        SourceUnreadableError: Its files are missing or damaged.
        UnsafeWeightsError: Its weights are not safetensors.
        RemoteCodeError: It brings code of its own.
        AdapterBaseError: It is an adapter, and its base is not known or not found.
    """
    found = _locate(uri, tracking, work_dir)
    layout = found.layout
    adapter = layout.kind == "adapter"
    if not adapter:
        files.check_config(layout.model_dir)
    digests = Digests(work_dir)
    reference = ModelReference(
        uri=uri,
        resolved=found.resolved,
        kind=layout.kind,
        model_dir=layout.model_dir,
        tokenizer_dir=layout.tokenizer_dir or layout.model_dir,
        digest=_digest(digests, layout),
        downloads=found.downloads,
    )
    if found.source is not None:
        source = found.source
        reference = replace(
            reference,
            name=source.name,
            version=source.version,
            alias=source.alias,
            run_id=source.run_id,
            model_id=source.model_id,
        )
    return _with_base(reference, found, base, tracking, work_dir, digests)


def discard_downloads(reference: ModelReference) -> None:
    """Delete the copies that were downloaded for a reference; files of a local store are never touched."""
    for folder in reference.downloads:
        shutil.rmtree(folder, ignore_errors=True)


def _locate(uri: str, tracking: Tracking, work_dir: Path) -> _Found:
    if is_tracked(uri):
        source = tracking.find(uri)
        folder = tracking.fetch(source, work_dir / "downloads")
        copies = () if local_folder(source.artifact_uri) is not None else (folder,)
        return _follow(_Found(_contained(detect(folder), folder), source.resolved, source, copies))
    path = Path(uri).expanduser()
    if path.is_dir():
        return _follow(_Found(detect(path.absolute()), str(path.absolute()), None, ()))
    if path.is_file():
        raise ModelNotFoundError(f"{uri!r} is a file; name the folder that the model was saved to.")
    if hub.looks_like_id(uri):
        return _Found(detect(hub.snapshot(uri)), uri, None, ())
    if re.match(r"[a-z0-9]+:/", uri):
        raise ModelNotFoundError(
            f"{uri!r} is not a URI of a model; write models:/name/3, models:/name@alias, runs:/<run id>/path, "
            "a folder or a hub id."
        )
    raise ModelNotFoundError(f"There is no folder {uri!r}.")


def _contained(layout: Layout, folder: Path) -> Layout:
    """A layout, once it is sure that no part of a registered checkpoint is a link to somewhere else.

    Raises:
        SourceUnreadableError: A part of it is.
    """
    for part in (layout.model_dir, layout.tokenizer_dir):
        if part is not None:
            files.inside(part, folder)
    return layout


def _follow(found: _Found) -> _Found:
    """Put the weights in place where MLflow saved only the name of a hub model."""
    if found.layout.reference is None:
        return found
    named = found.layout.reference
    folder = Path(named) if Path(named).is_dir() else hub.snapshot(named)
    real = detect(folder)
    return replace(found, layout=replace(real, tokenizer_dir=found.layout.tokenizer_dir or real.tokenizer_dir))


def _digest(digests: Digests, layout: Layout, *, weights_only: bool = False) -> str:
    adapter = layout.kind == "adapter"
    try:
        named = weight_files(layout.model_dir, adapter=adapter)
        if not weights_only:
            named += other_files(layout.model_dir, layout.tokenizer_dir, adapter=adapter)
        return digests.of(named)
    except OSError as error:
        raise SourceUnreadableError(
            f"{error.filename or layout.model_dir} cannot be read: {error.strerror}."
        ) from error


def _with_base(
    reference: ModelReference, found: _Found, base: str | None, tracking: Tracking, work_dir: Path, digests: Digests
) -> ModelReference:
    adapter = reference.kind == "adapter"
    problems = []
    for name, who in _candidates(found, base):
        try:
            located = _locate(name, tracking, work_dir)
            if located.layout.kind == "adapter":
                raise AdapterBaseError(f"The base {name!r} is itself an adapter; name a full model with --base.")
            files.check_config(located.layout.model_dir)
            base_digest = _digest(digests, located.layout)
        except TrackingError:
            raise
        except IlpError as error:
            problems.append(f"the base {name!r}, named by {who}: {error}")
            # A base that a person named is that one or none.
            if who == "--base":
                raise _base_missing(reference, problems) if adapter else error from error
            if who == "tag":
                break
            continue
        # MLflow notes where a model was loaded from, which may be the fine-tuned model itself.
        if who == "MLmodel" and not adapter and _same_weights(digests, located.layout, found.layout):
            continue
        tokenizer_dir = found.layout.tokenizer_dir or (located.layout.tokenizer_dir if adapter else None)
        return replace(
            reference,
            base=name if is_tracked(name) else located.resolved,
            base_dir=located.layout.model_dir,
            base_from=who,
            base_digest=base_digest,
            tokenizer_dir=tokenizer_dir or reference.tokenizer_dir,
            downloads=(*reference.downloads, *located.downloads),
        )
    if adapter:
        raise _base_missing(reference, problems)
    return replace(reference, base_problem="; ".join(problems) or None)


def _same_weights(digests: Digests, left: Layout, right: Layout) -> bool:
    return _digest(digests, left, weights_only=True) == _digest(digests, right, weights_only=True)


def _candidates(found: _Found, base: str | None) -> list[tuple[str, str]]:
    if base is not None:
        return [(base, "--base")]
    named = [(found.tags[BASE_TAG], "tag")] if found.tags.get(BASE_TAG) else []
    return [*named, *found.layout.base_names]


def _base_missing(reference: ModelReference, problems: list[str]) -> AdapterBaseError:
    why = "; ".join(problems) or "nothing names its base"
    return AdapterBaseError(
        f"{reference.uri} is an adapter, and its base model was not found ({why.rstrip('.')}); "
        f"name it with --base or the version's tag {BASE_TAG}."
    )
