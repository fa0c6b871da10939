"""Remedy for cause IV: shuffle everything together, and draw forgotten subsets again (arXiv 2604.10079, section 5)."""

from __future__ import annotations

from typing import ClassVar

from ilp_mitigations._documents import PAPER, plural
from ilp_service.plugin import Case, Change, Mitigation, Parameter, Plan, Price, Resampling

_EVERY = Parameter("mitigations.resample_every", 500, "K: steps between two looks.", f"{PAPER}: K = 500")
_FALL = Parameter("mitigations.resample_fall", 0.05, "Relative fall of a subset's accuracy, 0-1.", f"{PAPER}: 5 %")
_FACTOR = Parameter(
    "mitigations.resample_factor", 2.0, "Times as often, until the next look.", "Ours: the paper does not say."
)


class ReplayResampling(Mitigation):
    """A global shuffle, and re-sampling of the subsets whose accuracy falls."""

    name: ClassVar[str] = "replay_resampling"
    title: ClassVar[str] = "Shuffle all data together, and draw forgotten subsets more often"
    causes: ClassVar[frozenset[str]] = frozenset({"left_side_forgetting"})
    parameters: ClassVar[tuple[Parameter, ...]] = (_EVERY, _FALL, _FACTOR)

    def plan(self, case: Case) -> Plan:
        """The same for whatever targets there are: it changes the order of all data; none is refused."""
        every, fall, factor = (case.value(parameter) for parameter in (_EVERY, _FALL, _FACTOR))
        change = Change()
        if case.targets:
            change = Change(shuffled=True, resampling=Resampling(int(every), float(fall), float(factor)))
        subsets = len({sample.subset for sample in case.study.samples})
        drawn = (
            f"draw any of the {subsets} subsets {factor:g} times as often where its accuracy falls by {fall:.0%}, with "
            f"a look every {plural(int(every), 'step')}"
            if subsets > 1
            else "watch the one subset that they are"
        )
        return Plan(
            self.name,
            case.targets,
            {},
            change,
            Price(case.training_tokens(change)),
            f"Shuffle all data together for {plural(len(case.targets), 'forgotten sample')}, and {drawn}.",
        )
