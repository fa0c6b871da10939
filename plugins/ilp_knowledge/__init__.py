"""The built-in knowledge sources and judges, registered like anybody's plugin."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_knowledge.consensus import Consensus
from ilp_knowledge.corpus import Corpus
from ilp_knowledge.endpoint_judge import EndpointJudge
from ilp_knowledge.endpoint_source import EndpointSource
from ilp_knowledge.user_documents import UserDocuments
from ilp_knowledge.wikidata import Wikidata
from ilp_service.plugin import Judge, KnowledgeSource, hookimpl

__all__ = [
    "Consensus",
    "Corpus",
    "EndpointJudge",
    "EndpointSource",
    "UserDocuments",
    "Wikidata",
    "ilp_judges",
    "ilp_knowledge_sources",
]


@hookimpl
def ilp_knowledge_sources() -> Sequence[KnowledgeSource]:
    """The sources, those that cost nothing first."""
    return (UserDocuments(), Corpus(), Wikidata(), EndpointSource())


@hookimpl
def ilp_judges() -> Sequence[Judge]:
    """The judges, the one that works offline first."""
    return (Consensus(), EndpointJudge())
