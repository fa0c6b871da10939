"""The hooks that a plugin may implement, as seen by pluggy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from ilp_service.plugin import Cause, Judge, KnowledgeSource, Mitigation

hookspec = pluggy.HookspecMarker("ilp_service")


@hookspec
def ilp_causes() -> Sequence[Cause]:  # type: ignore[empty-body]
    """Called once when a diagnosis starts: the causes that this plugin can recognise."""


@hookspec
def ilp_knowledge_sources() -> Sequence[KnowledgeSource]:  # type: ignore[empty-body]
    """Called once when plugins are loaded: where this plugin can find documents. Contacts nothing yet."""


@hookspec
def ilp_judges() -> Sequence[Judge]:  # type: ignore[empty-body]
    """Called once when plugins are loaded: the judges that this plugin has. Contacts nothing yet."""


@hookspec
def ilp_mitigations() -> Sequence[Mitigation]:  # type: ignore[empty-body]
    """Called once when plugins are loaded: the remedies that this plugin can plan. Plans nothing yet."""
