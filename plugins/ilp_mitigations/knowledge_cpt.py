"""Remedy for cause I: documents about what the base never knew, then fine-tuning (arXiv 2604.10079, section 5)."""

from __future__ import annotations

from typing import ClassVar

from ilp_mitigations._documents import GENERAL, PASSES, SHARED, chosen, fetch, plural, refusing
from ilp_service.plugin import Case, Change, Mitigation, Parameter, Plan, Price, TeachingDocument

_CAUSE = "missing_knowledge"


class KnowledgeCpt(Mitigation):
    """Continued pre-training on documents about the blind items, mixed with general text."""

    name: ClassVar[str] = "knowledge_cpt"
    title: ClassVar[str] = "Teach what the base lacks by documents, then fine-tune again"
    causes: ClassVar[frozenset[str]] = frozenset({_CAUSE})
    parameters: ClassVar[tuple[Parameter, ...]] = SHARED

    def plan(self, case: Case) -> Plan:
        """Documents for each target; one without any is refused."""
        fetched = fetch(case)
        treats = chosen(case.targets, fetched.reasons)
        change = Change()
        if treats:
            change = Change(
                documents=tuple(
                    TeachingDocument(one.text, (key,), (_CAUSE,), (one.source,))
                    for key in treats
                    for one in fetched.useful[key]
                ),
                general_share=float(case.value(GENERAL)),
                document_passes=int(case.value(PASSES)),
            )
        return Plan(
            self.name,
            treats,
            fetched.reasons,
            change,
            Price(case.training_tokens(change), fetched.received),
            f"Continue pre-training on {plural(len(change.documents), 'document')} about "
            f"{plural(len(treats), 'sample')} ({case.value(GENERAL):.0%} general text), then fine-tune again"
            f"{refusing(fetched.reasons)}.",
        )
