"""What each remedy is expected to do: recovery beyond its placebo by cause, and what it costs in learned samples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from ilp_service.attribution.rules import UNATTRIBUTED
from ilp_service.errors import SettingsError

_FILE = "effectiveness.json"


@dataclass(frozen=True, slots=True)
class Effect:
    """Share of the treated samples of one cause that a remedy makes learned beyond its placebo.

    Attributes:
        value: The share; below 0 where the remedy does worse than the placebo.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def counted(self) -> Effect:
        """What a decision counts on: nothing where the interval does not exclude 0, and nothing above 1."""
        if self.low <= 0:
            return Effect(0.0, 0.0, max(0.0, min(self.high, 1.0)))
        return Effect(min(self.value, 1.0), min(self.low, 1.0), min(self.high, 1.0))


@dataclass(frozen=True, slots=True)
class Damage:
    """Learned samples that a remedy loses beyond its placebo.

    Attributes:
        lost_per_treated: For each sample that it treats.
        lost_share: Share of all learned samples, for a remedy that treats all data alike, 0-1.
    """

    lost_per_treated: float = 0.0
    lost_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Effectiveness:
    """Expected effects and damage of remedies.

    Attributes:
        effects: By remedy and cause.
        damage: By remedy; one that is not here does none.
        unmeasured: What a remedy that was never measured is expected to do for its own causes, 0-1.
        provenance: Where the figures come from, for people.
    """

    effects: Mapping[str, Mapping[str, Effect]]
    damage: Mapping[str, Damage] = field(default_factory=dict)
    unmeasured: float = 0.5
    provenance: str = ""

    def effect(self, remedy: str, cause: str, own: Iterable[str]) -> Effect:
        """What a decision counts on; a remedy without figures has ``unmeasured`` for its own causes.

        Args:
            remedy: Its name.
            cause: Of the sample.
            own: Causes that the remedy is for.
        """
        known = self.effects.get(remedy)
        if known is None:
            return Effect(self.unmeasured, 0.0, 1.0) if cause in own else Effect(0.0, 0.0, 0.0)
        found = known.get(cause)
        return Effect(0.0, 0.0, 0.0) if found is None else found.counted

    def on_own_causes(self, own: Mapping[str, Iterable[str]]) -> Effectiveness:
        """The same, as if a remedy did nothing for samples of other causes than its own; unattributed ones count.

        Args:
            own: Causes that each remedy is for.
        """
        effects = {
            name: {cause: effect for cause, effect in row.items() if cause in {UNATTRIBUTED, *own.get(name, ())}}
            for name, row in self.effects.items()
        }
        return replace(self, effects=effects)

    def lost(self, remedy: str) -> Damage:
        """What it is expected to lose."""
        return self.damage.get(remedy, Damage())

    def overridden(self, other: Effectiveness) -> Effectiveness:
        """The same with the cells of another where that has any."""
        names = {*self.effects, *other.effects}
        return Effectiveness(
            {name: {**self.effects.get(name, {}), **other.effects.get(name, {})} for name in sorted(names)},
            {**self.damage, **other.damage},
            self.unmeasured,
            f"{other.provenance} Else: {self.provenance}" if other.provenance else self.provenance,
        )

    def public(self) -> dict[str, Any]:
        """Ready for JSON, in the form of the file that :func:`read_effectiveness` takes."""
        return {
            "provenance": self.provenance,
            "unmeasured": self.unmeasured,
            "effects": {
                name: {cause: [one.value, one.low, one.high] for cause, one in row.items()}
                for name, row in self.effects.items()
            },
            "damage": {
                name: {"lost_per_treated": one.lost_per_treated, "lost_share": one.lost_share}
                for name, one in self.damage.items()
            },
        }


def read_effectiveness(path: Path | None = None) -> Effectiveness:
    """Effects from a file, by default those that come with the project.

    Raises:
        SettingsError: The file cannot be read or is of another form.
    """
    try:
        text = files("ilp_service.intervention").joinpath(_FILE).read_text() if path is None else path.read_text()
        return effectiveness_from(json.loads(text))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        said = " ".join(str(error).split())[:120]
        raise SettingsError(
            f"{path or _FILE} is no table of effects ({type(error).__name__}: {said}); expected 'effects' with "
            "[value, low, high] by remedy and cause, as 'ilp benchmark interventions' writes it."
        ) from error


ENOUGH = 20
"""Questions from which one's own measurement of a cell counts more than the general figure."""


def measured_effectiveness(effects: Mapping[str, Any], source: str) -> Effectiveness:
    """What ``ilp intervene`` measured on the same checkpoint, as far as it measured enough.

    A remedy with targets treats the samples of its own causes alone: what became of others says nothing of what it
    would do for them, so that their cells are left as they are. Damage counts where its interval excludes 0.

    Args:
        effects: ``Effects.public()`` of the experiment.
        source: Where it comes from, for people.
    """
    cells: dict[str, dict[str, Effect]] = {}
    for cell in effects["cells"]:
        bounds = [cell[name] for name in ("effect", "low", "high")]
        if "@" not in cell["arm"] and cell["own"] and None not in bounds and cell["questions"] >= ENOUGH:
            value, low, high = map(float, bounds)
            cells.setdefault(cell["arm"], {})[cell["cause"]] = Effect(value, min(low, value), max(high, value))
    damage = {}
    for arm in effects["arms"]:
        found = arm["damage"]
        remedy = arm["kind"] == "remedy" and "@" not in arm["arm"] and arm["treated"]
        if remedy and _proved(found):
            share = max(float(found["effect"]), 0.0)
            damage[arm["arm"]] = Damage(share * found["samples"] / arm["treated"], share)
    return Effectiveness(cells, damage, 0.5, f"Measured on this checkpoint by {source}." if cells or damage else "")


def _proved(estimate: Mapping[str, Any]) -> bool:
    """Whether enough was measured, and the interval of the effect excludes 0."""
    effect, low, high = (estimate[name] for name in ("effect", "low", "high"))
    if effect is None or low is None or high is None or estimate["questions"] < ENOUGH:
        return False
    return bool(low > 0 or high < 0)


def effectiveness_from(public: Mapping[str, Any]) -> Effectiveness:
    """What :meth:`Effectiveness.public` wrote down.

    Raises:
        ValueError: An effect is no triple of numbers in order.
    """
    effects = {
        str(name): {str(cause): Effect(*(float(value) for value in triple)) for cause, triple in row.items()}
        for name, row in public["effects"].items()
    }
    for name, row in effects.items():
        for cause, one in row.items():
            if not one.low <= one.value <= one.high:
                raise ValueError(f"{name} on {cause} is {one.value} outside its interval [{one.low}, {one.high}]")
    damage = {str(name): Damage(**values) for name, values in public.get("damage", {}).items()}
    return Effectiveness(effects, damage, float(public.get("unmeasured", 0.5)), str(public.get("provenance", "")))
