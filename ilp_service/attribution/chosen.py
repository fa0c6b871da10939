"""Which classifier a diagnosis uses: the registered champion, the built-in one, or one that was named."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ilp_service.attribution.augmentation import cause_of
from ilp_service.attribution.builtin import builtin_meta, signals_digest
from ilp_service.attribution.meta import MetaClassifier
from ilp_service.attribution.stored import StoredClassifier, restore
from ilp_service.errors import IlpError, IlpWarning, ModelNotFoundError, SourceUnreadableError
from ilp_service.tracking.classifier import CHAMPION, MODEL_NAME
from ilp_service.tracking.store import Tracking

if TYPE_CHECKING:
    from ilp_service.plugin import Cause

BUILT_IN = "built-in"


@dataclass(frozen=True, slots=True)
class ChosenClassifier:
    """A classifier and why it was chosen.

    Attributes:
        uri: ``models:/ilp-meta-classifier/3``, an alias resolved; or ``built-in``.
        digest: SHA-256, of its files or of the built-in table of signals; ``None`` where there is no such table.
        reason: One sentence for people.
        fallback: Whether another one should have been used and could not.
        stored: What was loaded; ``None`` for the built-in one, which is loaded when it is needed.
    """

    uri: str
    digest: str | None
    reason: str
    fallback: bool = False
    stored: StoredClassifier | None = None

    def meta(self) -> MetaClassifier:
        """The classifier itself; the built-in one is loaded once a process."""
        return builtin_meta() if self.stored is None else self.stored.meta

    def record(self) -> dict[str, str | bool | None]:
        """For ``summary.json``."""
        return {"uri": self.uri, "digest": self.digest, "reason": self.reason, "fallback": self.fallback}


def choose_classifier(setting: str, tracking: Tracking, causes: Sequence[Cause], downloads: Path) -> ChosenClassifier:
    """Find the classifier that the setting ``attribution.classifier`` stands for.

    Args:
        setting: ``champion``, ``built-in`` or a ``models:/`` URI.
        tracking: The store to look in.
        causes: The loaded causes; a classifier that looks at signals which they do not have does not fit.
        downloads: Folder for files that are not on this machine.

    Raises:
        ModelNotFoundError: There is no model of the URI that was named.
        SourceUnreadableError: The one that was named is damaged, holds types that are not trusted, or does not fit.
        TrackingError: The one that was named cannot be looked up.
    """
    if setting == BUILT_IN:
        return _built_in(f"attribution.classifier is {BUILT_IN!r}")
    if setting != CHAMPION:
        return _registered(setting, tracking, causes, downloads, "attribution.classifier names it")
    uri = f"models:/{MODEL_NAME}@{CHAMPION}"
    try:
        return _registered(uri, tracking, causes, downloads, f"it has the alias {CHAMPION!r} in the tracking store")
    except ModelNotFoundError:
        return _built_in(f"the tracking store has no model {MODEL_NAME} with the alias {CHAMPION!r}")
    except IlpError as error:
        problem = str(error).rstrip(".")
        warnings.warn(
            f"{problem}. {uri} was asked for; the built-in classifier is used instead.", IlpWarning, stacklevel=2
        )
        return _built_in(problem, fallback=True)


def misfit(meta: MetaClassifier, causes: Sequence[Cause]) -> str | None:
    """Why a classifier does not fit the loaded causes, as a sentence; ``None`` where it does.

    A cause of the classifier that is not loaded is no misfit: its probability becomes *unattributed*.
    """
    loaded = {cause.name: {f"{cause.name}.{signal.name}" for signal in cause.signals} for cause in causes}
    if loaded and meta.causes and not set(loaded) & set(meta.causes):
        return f"It was trained on the causes {', '.join(meta.causes)}, and none of them is loaded."
    for feature in meta.features:
        if feature not in loaded.get(cause_of(feature), {feature}):
            return (
                f"It looks at the signal {feature!r}, which the loaded plugin does not have; register one that was "
                "trained from a table of the present signals."
            )
    return None


def _registered(
    uri: str, tracking: Tracking, causes: Sequence[Cause], downloads: Path, reason: str
) -> ChosenClassifier:
    source = tracking.find(uri)
    try:
        stored = restore(tracking.fetch(source, downloads))
        problem = misfit(stored.meta, causes)
        if problem:
            raise SourceUnreadableError(problem)
    except SourceUnreadableError as error:
        raise SourceUnreadableError(f"The classifier {source.resolved} cannot be used. {error}") from error
    return ChosenClassifier(source.resolved, stored.digest, reason, stored=stored)


def _built_in(reason: str, *, fallback: bool = False) -> ChosenClassifier:
    return ChosenClassifier(BUILT_IN, signals_digest(), reason, fallback)
