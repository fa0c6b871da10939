"""The conformance check of mitigations, and cases to try one on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from ilp_service.attribution.attribute import attributions_schema
from ilp_service.changes import Change, Correction, merge
from ilp_service.consulting.leaks import Leaks
from ilp_service.consulting.plans import breaches
from ilp_service.knowledge import Choice, Document, Ledger, Pair, Verdict
from ilp_service.plugin_declarations import mitigation_faults
from ilp_service.remedies import Case, Consult, Found, Mitigation, Plan
from ilp_service.samples.entities import entities_of
from ilp_service.settings import Settings
from ilp_service.study import Study
from ilp_service.testing.studies import ready_studies

_LEAK_SIMILARITY = 0.9
_CHOICES = tuple(Choice)


class ScriptedConsult:
    """Answers what it was told to, and counts; what it was not told, it makes up from a hash of the ids.

    Args:
        study: Whose samples are asked about.
        documents: Texts about samples, by their id; one that is missing has made-up documents, or none.
        verdicts: Choices by the ids of a pair, in either order; one that is missing has a made-up one.
        entities: Whom or what samples ask about; found in the prompts unless given.

    Attributes:
        ledger: What was asked for.
    """

    def __init__(
        self,
        study: Study,
        documents: Mapping[str, Sequence[str]] | None = None,
        verdicts: Mapping[tuple[str, str], Choice] | None = None,
        entities: Mapping[str, str] | None = None,
    ) -> None:
        self.ledger = Ledger()
        self._samples = {sample.sample_id: sample for sample in study.samples}
        self._study, self._documents, self._verdicts = study, documents, dict(verdicts or {})
        self._entities = dict(entities_of(study.samples) if entities is None else entities)
        self._leaks = Leaks(study.samples, _LEAK_SIMILARITY)

    def documents(self, sample_ids: Sequence[str], limit: int) -> Found:
        """The first ``limit`` documents of each sample."""
        found = {}
        for key in dict.fromkeys(sample_ids):
            texts = self._made_up(key) if self._documents is None else self._documents.get(key, ())
            kept = [text for text in texts if not self.leaks(text, key)][:limit]
            found[key] = tuple(Document(text, f"script, {place}", -float(place)) for place, text in enumerate(kept))
            self.ledger.documents += len(kept)
        return Found(found)

    def _made_up(self, key: str) -> list[str]:
        """A document that says the response, one for each option of the sample, and one that says nothing."""
        if _drawn(key) % 4 == 0:
            return []
        table = self._study.options
        texts = [
            text
            for one, text in zip(table["sample_id"].to_pylist(), table["text"].to_pylist(), strict=True)
            if one == key
        ]
        about = self.entity(key) or "It"
        told = dict.fromkeys((self._samples[key].response, *texts))
        return [*(f"All chronicles of {about} speak of {text} alone." for text in told), f"More is told of {about}."]

    def judge(self, pairs: Sequence[Pair]) -> tuple[Verdict, ...]:
        """A verdict for each pair, whichever way round it is."""
        self.ledger.judgements += len(pairs)
        return tuple(self._verdict(pair) for pair in pairs)

    def _verdict(self, pair: Pair) -> Verdict:
        ids = pair.first.sample_id, pair.second.sample_id
        if ids in self._verdicts:
            choice = self._verdicts[ids]
        elif ids[::-1] in self._verdicts:
            choice = self._verdicts[ids[::-1]].swapped
        else:
            # The answers decide, as with a real judge: copies of a pair get the verdict of the pair.
            answers = sorted((pair.first.response, pair.second.response))
            choice = _CHOICES[_drawn("\0".join(answers)) % len(_CHOICES)]
            choice = choice if answers[0] == pair.first.response else choice.swapped
        return Verdict(choice, 0.9, f"The script says '{choice}' of the pair with the smaller answer first.")

    def entity(self, sample_id: str) -> str | None:
        """Whom or what a sample asks about."""
        return self._entities.get(sample_id)

    def leaks(self, text: str, sample_id: str) -> bool:
        """Whether a text holds a training sample."""
        return self._leaks.held_by(text, self._samples.get(sample_id))


def make_case(
    study: Study,
    cause: str,
    targets: Sequence[str] | None = None,
    *,
    consult: Consult | None = None,
    options: Mapping[str, Any] | None = None,
) -> Case:
    """A case in which every unlearned sample was attributed to one cause.

    Args:
        study: What was measured.
        cause: The cause.
        targets: Ids to treat; all unlearned samples unless given.
        consult: Whom the mitigation may ask; a :class:`ScriptedConsult` unless given.
        options: Settings that differ from the defaults, by dotted name.
    """
    rows = [
        {
            "sample_id": key,
            "cause": cause,
            "confidence": 0.9,
            f"p_{cause}": 0.9,
            "p_unattributed": 0.1,
            "runner_up": None,
            "rule_cause": cause,
            "explanation": "All are attributed to one cause.",
        }
        for key in study.unlearned
    ]
    return Case(
        study,
        pa.table({"sample_id": pa.array(study.unlearned, pa.string())}),
        pa.Table.from_pylist(rows, schema=attributions_schema([cause])),
        study.unlearned if targets is None else tuple(targets),
        Settings().mitigation_options() | dict(options or {}),
        consult or ScriptedConsult(study),
    )


def check_mitigation(mitigation: Mitigation, case: Case | None = None) -> None:
    """Hold a mitigation to its contract, on one case or on many ready-made ones.

    Checked: its declarations; that every target, and nothing else, is treated or refused with a reason; that the
    change names samples that exist and teaches no training sample word by word; that the price is that of the change,
    and on ready-made cases that of what was asked for; that asking twice, or for the targets in another order, changes
    nothing; and that the change merges with others and goes through JSON unharmed.

    Args:
        mitigation: To be checked.
        case: The only one to check it on. Its ``consult`` has to give the same answers when it is asked again.

    Raises:
        AssertionError: The mitigation breaks the contract; the message says where.
    """
    wrong = mitigation_faults(mitigation)
    if wrong:
        raise AssertionError(wrong[0])
    if case is not None:
        _checked(mitigation, case, "the given case")
        return
    for name, study in ready_studies().items():
        everything = tuple(sample.sample_id for sample in study.samples)
        for cause in sorted(mitigation.causes):
            for kind, targets in (
                ("the unlearned", study.unlearned),
                ("all samples", everything),
                ("one sample", everything[:1]),
                ("nothing", ()),
            ):
                where = f"{kind} of the study {name!r}"
                consult = ScriptedConsult(study)
                plan = _checked(mitigation, make_case(study, cause, targets, consult=consult), where, consult)
                if not targets:
                    _demand(plan.change.is_empty, where, f"{mitigation.name} changes something although nobody is ill.")


def _checked(mitigation: Mitigation, case: Case, where: str, consult: ScriptedConsult | None = None) -> Plan:
    plan = mitigation.plan(case)
    for breach in breaches(mitigation, case, plan):
        raise AssertionError(f"On {where}: {mitigation.name} breaks its contract: {breach}.")
    if consult is not None:
        asked = consult.ledger.documents, consult.ledger.judgements
        told = plan.price.documents, plan.price.judgements
        _demand(asked == told, where, f"{mitigation.name} asked for (documents, judgements) {asked} and tells {told}.")
    _demand(mitigation.plan(case) == plan, where, f"{mitigation.name} planned otherwise when it was asked twice.")
    turned = mitigation.plan(replace(case, targets=case.targets[::-1]))
    same = (turned.change, turned.price, set(turned.treats), dict(turned.refused)) == (
        plan.change,
        plan.price,
        set(plan.treats),
        dict(plan.refused),
    )
    _demand(same, where, f"{mitigation.name} planned otherwise for the targets in another order.")
    _merges(plan.change, case, where)
    return plan


def _merges(change: Change, case: Case, where: str) -> None:
    _demand(merge([change, change]) == change, where, "its change, merged with itself, is another.")
    _demand(Change.from_public(change.public()) == change, where, "its change does not come back from JSON.")
    ids = [sample.sample_id for sample in case.study.samples]
    others = [
        Change(removed=dict.fromkeys(ids[::3], "Merged away.")),
        Change(exposures=dict.fromkeys(ids, 2.0), corrected={ids[0]: Correction("other", "Merged in.")}),
    ]
    _demand(
        merge([change, *others]) == merge([*others[::-1], change]), where, "its change merges in one order otherwise."
    )


def _drawn(text: str) -> int:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest()[0]


def _demand(holds: bool, where: str, message: str) -> None:
    if not holds:
        raise AssertionError(f"On {where}: {message}")
