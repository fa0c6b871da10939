"""Which versions are diagnosed: by the model's name, by tags, by aliases."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from ilp_service.service.configuration import ModelDefaults, ServiceSettings

ENABLED = "ilp.enabled"
"""Tag of a version or of its model: ``true`` or ``false``; the version's word counts more."""

_YES, _NO = {"true", "yes", "1", "on"}, {"false", "no", "0", "off"}


class Filters:
    """The settings' filters."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings

    @property
    def needs_aliases(self) -> bool:
        """Whether a version can only be judged with its aliases, which may come long after it."""
        return bool(self._settings.aliases)

    def by_name(self, model: str) -> str | None:
        """Why a model is left out whatever its versions say; ``None`` if it is not."""
        settings = self._settings
        if not any(fnmatchcase(model, pattern) for pattern in settings.names):
            return f"No pattern of 'names' ({', '.join(settings.names)}) fits the model {model!r}."
        for pattern in settings.exclude:
            if fnmatchcase(model, pattern):
                return f"The pattern {pattern!r} of 'exclude' fits the model {model!r}."
        return None

    def by_tags(self, tags: Mapping[str, str], model_tags: Mapping[str, str]) -> str | None:
        """Why a version is left out because of its tags, or its model's."""
        for where, found in (("version", tags), ("model", model_tags)):
            value = found.get(ENABLED, "").strip().lower()
            if value in _NO:
                return f"The {where} has the tag {ENABLED} = {value}."
            if value in _YES:
                return None
        if self._settings.opt_in:
            return f"Neither the version nor its model has the tag {ENABLED} = true, which 'opt_in' asks for."
        return None

    def by_aliases(self, aliases: tuple[str, ...]) -> str | None:
        """Why a version is left out because of its aliases."""
        wanted = self._settings.aliases
        if wanted and not set(wanted) & set(aliases):
            return f"None of the aliases {', '.join(wanted)} points at the version."
        return None

    def reason(
        self, model: str, tags: Mapping[str, str], model_tags: Mapping[str, str], aliases: tuple[str, ...]
    ) -> str | None:
        """Why a version is left out, in a sentence; ``None`` when it is diagnosed."""
        return self.by_name(model) or self.by_tags(tags, model_tags) or self.by_aliases(aliases)

    def defaults(self, model: str) -> ModelDefaults:
        """What the settings say about models of this name."""
        for pattern, defaults in self._settings.models.items():
            if fnmatchcase(model, pattern):
                return defaults
        return ModelDefaults()
