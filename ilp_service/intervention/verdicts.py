"""What an experiment proves about single samples, and how that agrees with labels that were verified otherwise.

If the remedy for a cause makes a sample learned, and as much training without the remedy does not, that was its cause
(arXiv 2604.10079, section 5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ilp_service.intervention.arms import Arm
from ilp_service.intervention.runs import Array, Runs
from ilp_service.report.figures import wilson

Rule = Literal["majority", "all"]
VerdictName = Literal["proved", "several", "not recovered", "placebo", "withdrawn", "learned", "not measured"]


@dataclass(frozen=True, slots=True)
class SampleVerdict:
    """What is proved about one sample.

    Attributes:
        sample_id: The sample.
        attributed: The cause that the diagnosis gave it, or ``unattributed``.
        proved: Causes whose remedy makes it learned while no placebo does under any seed, by name.
        verdict: ``proved``: exactly one cause; ``several``; ``not recovered``: by no remedy; ``placebo``: one
            made it learned under some seed, so nothing is proved; ``withdrawn``: every remedy that ended well took it
            out of the data or corrected it; ``learned``: it was no failure in the diagnosed model; ``not measured``: no
            remedy or no placebo ended well.
        recovered_by: Share of the seeds under which each remedy makes it learned, 0-1, by arm; zeros left out.
        seeds: The fewest seeds that any remedy which proves something was run under; 0 where nothing is proved.
    """

    sample_id: str
    attributed: str
    proved: tuple[str, ...]
    verdict: VerdictName
    recovered_by: dict[str, float]
    seeds: int

    @property
    def confirmed(self) -> bool | None:
        """Whether the attributed cause is among the proved ones; ``None`` where nothing is proved."""
        return self.attributed in self.proved if self.proved else None


def verdicts_of(runs: Runs, rule: Rule = "majority") -> tuple[SampleVerdict, ...]:
    """One verdict for each attributed sample, by id.

    A remedy for one cause speaks for that cause, whether it was meant to treat the sample or not: a wrong attribution
    is found out by the remedy of another cause. One for several causes speaks only for those under which it treats
    the sample.

    Args:
        runs: The experiment.
        rule: ``majority``: more than half of a remedy's seeds have to make the sample learned; ``all``: all of them.
    """
    attributed = np.flatnonzero(runs.cause != "")
    remedies = [arm for arm in runs.arms.values() if arm.kind == "remedy" and runs.done[arm.name]]
    placebos = [arm.name for arm in runs.arms.values() if arm.kind == "placebo" and runs.done[arm.name]]
    shares = {arm.name: _share(runs, arm.name) for arm in remedies}
    withdrawn = {arm.name: runs.withdrawn(arm) for arm in remedies}
    by_chance = np.zeros(len(runs.ids), dtype=np.bool_)
    for placebo in placebos:
        by_chance |= np.nan_to_num(_share(runs, placebo)) > 0
    unlearned = runs.unlearned
    treated = {arm.name: {cause: frozenset(keys) for cause, keys in arm.treats.items()} for arm in remedies}
    found = []
    for row in attributed:
        key = str(runs.ids[row])
        usable = [arm for arm in remedies if not withdrawn[arm.name][row] and not np.isnan(shares[arm.name][row])]
        by_arm = {arm.name: float(shares[arm.name][row]) for arm in usable if shares[arm.name][row] > 0}
        enough = [arm for arm in usable if _enough(by_arm.get(arm.name, 0.0), rule)]
        causes = tuple(sorted({cause for arm in enough for cause in _speaks_for(arm, treated[arm.name], key)}))
        name: VerdictName
        if not unlearned[row]:
            name = "learned"
        elif not remedies or not placebos:
            name = "not measured"
        elif by_chance[row]:
            name = "placebo"
        elif not usable:
            name = "withdrawn" if any(withdrawn[arm.name][row] for arm in remedies) else "not measured"
        elif not causes:
            name = "not recovered"
        else:
            name = "proved" if len(causes) == 1 else "several"
        proves = name in ("proved", "several")
        seeds = min((len(runs.done[arm.name]) for arm in enough), default=0) if proves else 0
        found.append(SampleVerdict(key, str(runs.cause[row]), causes if proves else (), name, by_arm, seeds))
    return tuple(found)


def _share(runs: Runs, arm: str) -> Array:
    """Share of the arm's seeds under which each sample is learned; NaN where it was measured under none."""
    learned = 1 - runs.after("unlearned", arm, tuple(runs.done[arm]))
    known = (~np.isnan(learned)).sum(axis=1)
    return np.where(known > 0, np.nansum(learned, axis=1) / np.maximum(known, 1), np.nan)


def _enough(share: float, rule: Rule) -> bool:
    return share > 0.5 if rule == "majority" else share == 1.0


def _speaks_for(arm: Arm, treated: Mapping[str, frozenset[str]], key: str) -> list[str]:
    if len(arm.treats) == 1:
        return list(arm.treats)
    return [cause for cause, keys in treated.items() if key in keys]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How verdicts of interventions agree with verified labels.

    Attributes:
        labelled: Samples whose label holds (``verified`` or ``two_causes``) and that have a verdict.
        proved: Those of them of which a cause is proved.
        agreeing: Those of whose proved causes one is among the label's.
        exact: Those whose proved causes are the label's, no more and no less.
        rate: ``agreeing`` by ``proved``, 0-1; ``None`` where nothing is proved.
        low: Lower end of its 95 % interval (Wilson).
        high: Upper end.
        coverage: ``proved`` by ``labelled``, 0-1; ``None`` without labelled samples.
        by_cause: ``labelled``, ``proved``, ``agreeing`` and ``exact`` of every own cause of a label.
        confusion: How often each set of causes was proved (or the verdict, where none was), by own cause of the label.
    """

    labelled: int
    proved: int
    agreeing: int
    exact: int
    rate: float | None
    low: float | None
    high: float | None
    coverage: float | None
    by_cause: Mapping[str, Mapping[str, int]]
    confusion: Mapping[str, Mapping[str, int]]

    def public(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def agreement(verdicts: Sequence[SampleVerdict], labels: pa.Table) -> Agreement:
    """Compare what an experiment proved with labels that hold.

    Args:
        verdicts: Of one model.
        labels: Columns ``sample_id``, ``causes`` (the own one first) and ``verdict`` of the same model's samples, as
            the benchmark verifies them; rows that hold no label are not looked at.
    """
    names = (labels[name].to_pylist() for name in ("sample_id", "causes", "verdict"))
    held = {key: causes for key, causes, verdict in zip(*names, strict=True) if causes and verdict != "unverified"}
    rows = [(one, held[one.sample_id]) for one in verdicts if one.sample_id in held]
    counts: dict[str, Counter[str]] = {}
    confusion: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    for verdict, causes in rows:
        agrees = bool(set(verdict.proved) & set(causes))
        seen = {
            "labelled": 1,
            "proved": int(bool(verdict.proved)),
            "agreeing": int(agrees),
            "exact": int(set(verdict.proved) == set(causes)),
        }
        total.update(seen)
        counts.setdefault(causes[0], Counter()).update(seen)
        confusion.setdefault(causes[0], Counter())[" + ".join(verdict.proved) or verdict.verdict] += 1
    bounds = wilson(total["agreeing"], total["proved"]) if total["proved"] else None
    return Agreement(
        total["labelled"],
        total["proved"],
        total["agreeing"],
        total["exact"],
        bounds.rate if bounds else None,
        bounds.low if bounds else None,
        bounds.high if bounds else None,
        total["proved"] / total["labelled"] if rows else None,
        {name: dict(counts[name]) for name in sorted(counts)},
        {name: dict(sorted(confusion[name].items())) for name in sorted(confusion)},
    )
