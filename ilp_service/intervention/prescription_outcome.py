"""What a prescription did: the diagnosed model and the new one, sample by sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ilp_service.attribution.rules import UNATTRIBUTED

if TYPE_CHECKING:
    from ilp_service.intervention.deciding import Decision


@dataclass(frozen=True, slots=True)
class Outcome:
    """Before and after. Samples that are removed, corrected or held out are in none of the figures: nobody taught them.

    Attributes:
        samples: Samples that are compared.
        before: Unlearned before.
        after: Unlearned after.
        recovered: Unlearned before and not after, by attributed cause.
        of_cause: Unlearned before, by attributed cause.
        lost: Learned before and unlearned after.
        withdrawn: Samples that are removed or corrected.
        held_out: Further samples that were not trained on, so that their loss could tell when to stop.
        forms: Share of samples below the threshold of detection when asked otherwise (``paraphrase``, ``cloze``),
            before and after, of those measured both times.
        general_loss: Held-out loss on general text after, nats a token; ``None`` where there is none.
    """

    samples: int
    before: int
    after: int
    recovered: Mapping[str, int]
    of_cause: Mapping[str, int]
    lost: int
    withdrawn: int
    held_out: int
    forms: Mapping[str, tuple[float, float]]
    general_loss: float | None

    @property
    def rate_before(self) -> float:
        """Share of samples that were unlearned, 0-1."""
        return self.before / self.samples if self.samples else 0.0

    @property
    def rate_after(self) -> float:
        """Share of samples that are unlearned now, 0-1."""
        return self.after / self.samples if self.samples else 0.0

    @property
    def damage(self) -> float:
        """Share of the learned samples that were lost, 0-1."""
        learned = self.samples - self.before
        return self.lost / learned if learned else 0.0

    def worse(self, max_damage: float) -> str:
        """Why it is not better, one sentence; empty when it is."""
        if self.after >= self.before:
            return f"{self.after} samples are unlearned, and {self.before} were before."
        if self.damage > max_damage:
            return f"it lost {self.damage:.1%} of the learned samples, more than {max_damage:.1%}."
        return ""

    def public(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "samples": self.samples,
            "unlearned_before": self.before,
            "unlearned_after": self.after,
            "unlearned_rate_before": self.rate_before,
            "unlearned_rate_after": self.rate_after,
            "recovered": dict(self.recovered),
            "of_cause": dict(self.of_cause),
            "lost": self.lost,
            "damage": self.damage,
            "withdrawn": self.withdrawn,
            "held_out": self.held_out,
            "forms": {name: {"before": one, "after": other} for name, (one, other) in self.forms.items()},
            "general_loss": self.general_loss,
        }

    def metrics(self) -> dict[str, float]:
        """For the tracking store."""
        found = {
            "ilp.unlearned": float(self.after),
            "ilp.unlearned_before": float(self.before),
            "ilp.unlearned_rate": self.rate_after,
            "ilp.unlearned_rate_before": self.rate_before,
            "ilp.damage": self.damage,
            "ilp.lost": float(self.lost),
        }
        found |= {f"ilp.{name}_unlearned_rate": after for name, (_, after) in self.forms.items()}
        if self.general_loss is not None:
            found["ilp.general_loss"] = self.general_loss
        return found


def outcome_of(
    decision: Decision, before: pa.Table, after: pa.Table, general_loss: float | None, held_out: Iterable[str] = ()
) -> Outcome:
    """Compare two measurements of the same samples (:data:`~ilp_service.intervention.arms.MEASURED`)."""
    change = decision.prescription.change
    return compare(
        before,
        after,
        withdrawn={*change.removed, *change.corrected},
        held_out=held_out,
        cause_of=decision.diagnosed.cause_of(),
        threshold=decision.diagnosed.settings.detection.threshold,
        general_loss=general_loss,
    )


def compare(
    before: pa.Table,
    after: pa.Table,
    *,
    withdrawn: Iterable[str],
    cause_of: Mapping[str, str],
    threshold: float,
    general_loss: float | None = None,
    held_out: Iterable[str] = (),
) -> Outcome:
    """What changed between two measurements.

    Args:
        before: Of the diagnosed model.
        after: Of the new one.
        withdrawn: Samples that are not taught any more.
        cause_of: Attributed cause by sample id.
        threshold: Pass rate below which a sample counts as unlearned in other forms.
        general_loss: Held-out loss on general text, nats a token.
        held_out: Samples that the new model was not trained on.
    """
    gone = set(withdrawn)
    untaught = set(held_out) - gone
    old, new = (_by_id(table) for table in (before, after))
    ids = [key for key in old if key in new and key not in gone and key not in untaught]
    sick = [key for key in ids if old[key]["unlearned"]]
    causes = [cause_of.get(key, UNATTRIBUTED) for key in sick]
    mended = [cause for key, cause in zip(sick, causes, strict=True) if not new[key]["unlearned"]]
    forms = {}
    for form in ("paraphrase", "cloze"):
        name = f"p_{form}"
        asked = [key for key in ids if old[key][name] is not None and new[key][name] is not None]
        if asked:
            shares = [sum(table[key][name] < threshold for key in asked) / len(asked) for table in (old, new)]
            forms[form] = shares[0], shares[1]
    return Outcome(
        samples=len(ids),
        before=len(sick),
        after=sum(bool(new[key]["unlearned"]) for key in ids),
        recovered={cause: mended.count(cause) for cause in sorted(set(causes))},
        of_cause={cause: causes.count(cause) for cause in sorted(set(causes))},
        lost=sum(not old[key]["unlearned"] and bool(new[key]["unlearned"]) for key in ids),
        withdrawn=len(gone & old.keys()),
        held_out=len(untaught & old.keys()),
        forms=forms,
        general_loss=general_loss,
    )


def _by_id(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["sample_id"]: row for row in table.to_pylist()}


def outcome_text(outcome: Outcome) -> str:
    """For people."""
    lines = [
        f"Unlearned: {outcome.before} of {outcome.samples} before ({outcome.rate_before:.1%}), {outcome.after} after "
        f"({outcome.rate_after:.1%}); {outcome.lost} learned samples were lost ({outcome.damage:.1%})."
    ]
    lines += [
        f"  {cause}: {outcome.recovered.get(cause, 0)} of {count} recovered"
        for cause, count in outcome.of_cause.items()
    ]
    lines += [f"  asked as {name}: {one:.1%} before, {other:.1%} after" for name, (one, other) in outcome.forms.items()]
    if outcome.withdrawn:
        lines.append(f"{outcome.withdrawn} samples were removed or corrected, and are not counted.")
    if outcome.held_out:
        lines.append(f"{outcome.held_out} samples were held out to tell when to stop, and are not counted.")
    return "\n".join(lines)
