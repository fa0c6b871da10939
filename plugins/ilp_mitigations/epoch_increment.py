"""Remedy for cause V: train longer, or better, show what is undertrained more often (arXiv 2604.10079, section 5)."""

from __future__ import annotations

from typing import ClassVar

from ilp_mitigations._documents import PAPER, chosen, plural, refusing
from ilp_service.plugin import Case, Change, EpochIncrement, Mitigation, Parameter, Plan, Price, SettingsError

_TARGETED, _GLOBAL = "targeted", "global"
_MODE = Parameter(
    "mitigations.epochs",
    _TARGETED,
    "'targeted' shows the targets more often, 'global' adds passes over all data.",
    f"'global' is {PAPER}; 'targeted' is ours: further passes also memorise what other causes left unlearned.",
)
_FACTOR = Parameter(
    "mitigations.exposure_factor",
    5.0,
    "Times as often as before.",
    "Ours: as often as in the benchmark's counterfactual.",
)
_MOST = Parameter("mitigations.epochs_most", 5, "Most passes that are added.", "Ours: the paper sets no bound.")
_TOLERANCE = Parameter(
    "mitigations.epochs_tolerance",
    0.01,
    "Rise of held-out loss that ends it, nats a token.",
    f"{PAPER}: it stops when L_val(e) > L_val(e-1) + 0.01",
)


class EpochIncrementing(Mitigation):
    """More exposures of the targets, or further passes over everything while held-out loss improves."""

    name: ClassVar[str] = "epoch_increment"
    title: ClassVar[str] = "Train longer: the undertrained samples, or everything"
    causes: ClassVar[frozenset[str]] = frozenset({"insufficient_optimization"})
    parameters: ClassVar[tuple[Parameter, ...]] = (_MODE, _FACTOR, _MOST, _TOLERANCE)

    def plan(self, case: Case) -> Plan:
        """A factor for each target, or further epochs; what never enters the loss is refused.

        Raises:
            SettingsError: The mode is none.
        """
        mode = str(case.value(_MODE))
        if mode not in (_TARGETED, _GLOBAL):
            raise SettingsError(f"{_MODE.name} is {mode!r}; expected {_TARGETED!r} or {_GLOBAL!r}.")
        refused = _outside_the_loss(case)
        treats = chosen(case.targets, refused)
        factor, most, tolerance = float(case.value(_FACTOR)), int(case.value(_MOST)), float(case.value(_TOLERANCE))
        change = Change()
        if treats and mode == _TARGETED:
            change = Change(exposures=dict.fromkeys(treats, factor))
        elif treats:
            change = Change(epochs=EpochIncrement(most, tolerance))
        doing = (
            f"Show {plural(len(treats), 'sample')} {factor:g} times as often"
            if mode == _TARGETED
            else f"For {plural(len(treats), 'sample')}, add up to {plural(most, 'pass', 'passes')} over all data, one "
            "at a time while held-out loss improves"
        )
        return Plan(
            self.name,
            treats,
            refused,
            change,
            Price(case.training_tokens(change)),
            f"{doing}{refusing(refused)}.",
        )


def _outside_the_loss(case: Case) -> dict[str, str]:
    """Targets that no number of exposures can teach, with the reason."""
    table = case.study.rendering
    cut = {
        key
        for key, response, truncated in zip(
            *(table[name].to_pylist() for name in ("sample_id", "response_tokens", "truncated_tokens")), strict=True
        )
        if truncated >= response > 0
    }
    masked = _masked(case)
    refused = {}
    for key in case.targets:
        if key in cut:
            refused[key] = "Its whole response lies beyond the training length, so no exposure teaches it."
        elif key in masked:
            refused[key] = "It was trained on without any of its response in the loss, so no exposure teaches it."
    return refused


def _masked(case: Case) -> set[str]:
    """Samples that were in batches, and never with a token of theirs in the loss."""
    if case.study.trajectory is None:
        return set()
    most: dict[str, tuple[int, int]] = {}
    table = case.study.trajectory
    columns = (table[name].to_pylist() for name in ("sample_id", "exposures", "trained_tokens"))
    for key, shown, trained in zip(*columns, strict=True):
        if shown is not None and trained is not None:
            before = most.get(key, (0, 0))
            most[key] = max(before[0], shown), max(before[1], trained)
    return {key for key, (shown, trained) in most.items() if shown > 0 and trained == 0}
