"""Plans of all mitigations for one diagnosis, each made alone and held to its contract."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from ilp_service.errors import IlpError
from ilp_service.remedies import Case, Change, Consult, Mitigation, Plan, Price
from ilp_service.settings import Settings
from ilp_service.study import Study


def targets_of(
    mitigation: Mitigation, attributions: pa.Table, at_risk: Mapping[str, Collection[str]] | None = None
) -> tuple[str, ...]:
    """Whom a mitigation is to treat.

    Args:
        mitigation: The remedy.
        attributions: The attributions table; its order is kept.
        at_risk: Further samples by cause, for example learned ones that are near to an unlearned one; they come after
            the attributed ones, sorted.
    """
    rows = zip(attributions["sample_id"].to_pylist(), attributions["cause"].to_pylist(), strict=True)
    attributed = [key for key, cause in rows if cause in mitigation.causes]
    risky = sorted({key for cause, keys in (at_risk or {}).items() if cause in mitigation.causes for key in keys})
    return tuple(dict.fromkeys((*attributed, *risky)))


def plan_all(
    mitigations: Sequence[Mitigation],
    study: Study,
    evidence: pa.Table,
    attributions: pa.Table,
    consult: Consult,
    settings: Settings,
    at_risk: Mapping[str, Collection[str]] | None = None,
) -> tuple[Plan, ...]:
    """What each mitigation would do; one that fails, or breaks its contract, refuses all of its targets.

    Raises:
        IlpError: What a user can mend (a setting, an endpoint that is down) goes through.
    """
    options = settings.mitigation_options()
    return tuple(
        plan_one(one, Case(study, evidence, attributions, targets_of(one, attributions, at_risk), options, consult))
        for one in mitigations
    )


def plan_one(mitigation: Mitigation, case: Case) -> Plan:
    """The plan of a mitigation for a case; one that fails, or breaks its contract, refuses all targets.

    Raises:
        IlpError: What a user can mend goes through.
    """
    if not case.targets:
        return Plan(mitigation.name, (), {}, Change(), Price(), "No sample was attributed to what it treats.")
    try:
        plan = mitigation.plan(case)
        wrong = next(breaches(mitigation, case, plan), None)
    except IlpError:
        raise
    # A plugin's code may raise anything.
    except Exception as error:  # noqa: BLE001
        said = " ".join(str(error).split())[:200]
        wrong = f"it failed: {type(error).__name__}{': ' if said else ''}{said}"
    if wrong is None:
        treated = set(plan.treats)
        return replace(plan, treats=tuple(key for key in case.targets if key in treated))
    reason = f"{mitigation.name} cannot be applied, {wrong.rstrip('.')}."
    return Plan(mitigation.name, (), dict.fromkeys(case.targets, reason), Change(), Price(), reason)


def breaches(mitigation: Mitigation, case: Case, plan: object) -> Iterator[str]:
    """Where a plan breaks the contract of mitigations, one clause each."""
    if not isinstance(plan, Plan):
        yield f"it returned {type(plan).__name__}, expected a Plan"
        return
    if plan.mitigation != mitigation.name:
        yield f"its plan is of {plan.mitigation!r}, expected {mitigation.name!r}"
    yield from _target_breaches(case, plan)
    yield from _change_breaches(mitigation, case, plan)
    yield from _price_breaches(case, plan)
    if not isinstance(plan.summary, str) or not plan.summary.strip() or "\n" in plan.summary:
        yield f"its summary is {plan.summary!r:.80}, expected one sentence"


def _target_breaches(case: Case, plan: Plan) -> Iterator[str]:
    targets, treats = set(case.targets), set(plan.treats)
    if len(treats) != len(plan.treats):
        yield "it treats a sample twice"
    if strangers := sorted((treats | plan.refused.keys()) - targets):
        yield f"it treats or refuses {strangers[0]!r}, which is no target"
    if both := sorted(treats & plan.refused.keys()):
        yield f"it both treats and refuses {both[0]!r}"
    if forgotten := sorted(targets - treats - plan.refused.keys()):
        yield f"it neither treats nor refuses {forgotten[0]!r}"
    for key, reason in plan.refused.items():
        if not isinstance(reason, str) or not reason.strip() or "\n" in reason:
            yield f"it refuses {key!r} with {reason!r:.80}, expected one line"
            return


def _change_breaches(mitigation: Mitigation, case: Case, plan: Plan) -> Iterator[str]:
    change = plan.change
    known = {sample.sample_id for sample in case.study.samples}
    about = {key for document in change.documents for key in document.sample_ids}
    about |= {statement.sample_id for statement in change.conflicting_documents}
    if unknown := sorted((change.sample_ids | about) - known):
        yield f"its change names {unknown[0]!r}, which is no sample"
    if bool(plan.treats) == change.is_empty:
        yield "it treats samples and changes nothing" if plan.treats else "it treats nothing and changes something"
    for document in change.documents:
        if not document.text.strip() or not document.sample_ids:
            yield f"the document {document.text!r:.60} is empty or about no sample"
        if not document.causes or not set(document.causes) <= mitigation.causes:
            yield f"the document {document.text!r:.60} is for {document.causes}, expected some of its causes"
        if any(case.consult.leaks(document.text, key) for key in document.sample_ids if key in known):
            yield f"the document {document.text!r:.60} holds a training sample"


def _price_breaches(case: Case, plan: Plan) -> Iterator[str]:
    price, expected = plan.price, case.training_tokens(plan.change)
    if price.training_tokens != expected:
        yield f"its price has {price.training_tokens} training tokens, expected {expected} for its change"
    if price.documents < 0 or price.judgements < 0:
        yield "its price is negative"
