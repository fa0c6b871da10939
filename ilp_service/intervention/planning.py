"""Plans of the remedies that are to be tried, kept once they are made: sources and judges are asked only once."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilp_service import __version__
from ilp_service.consulting.consultation import Consultation
from ilp_service.consulting.plans import plan_one, targets_of
from ilp_service.errors import SettingsError
from ilp_service.remedies import Case, Change, Mitigation, Plan, Price
from ilp_service.settings import MitigationSettings, load_settings
from ilp_service.stages import digest_of, stage
from ilp_service.tables import atomic_path

if TYPE_CHECKING:
    from ilp_service.intervention.reopening import Diagnosed

_PLANS = "plans.json"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mitigation that is to be tried.

    Attributes:
        name: Of the arm: the mitigation's, with ``@parameter=value`` where a parameter is to be otherwise.
        mitigation: The remedy.
        options: Settings of mitigations that differ, by dotted name.
    """

    name: str
    mitigation: Mitigation
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Planned:
    """What the remedies would do.

    Attributes:
        plans: One an arm, ``mitigation`` being the arm's name; those that treat nobody among them.
        failures: One sentence why a source or the judge failed, by its name.
    """

    plans: tuple[Plan, ...]
    failures: Mapping[str, str]


def wanted_arms(mitigations: Sequence[Mitigation], names: Sequence[str]) -> tuple[Wanted, ...]:
    """The mitigations of some names, in their order; all of them without names.

    ``conflict_bucketing@contradictions=deletion`` is a mitigation with a parameter of its own, for ablations; the
    parameter's name may leave its part (``mitigations.``) out.

    Raises:
        SettingsError: There is no such mitigation or parameter, or it does not take the value.
    """
    by_name = {one.name: one for one in mitigations}
    found = []
    for name in names or tuple(by_name):
        plain, *given = name.split("@")
        if plain not in by_name:
            raise SettingsError(
                f"--arms names {plain!r}, which is no mitigation; loaded are {', '.join(by_name) or 'none'}."
            )
        found.append(Wanted(name, by_name[plain], dict(_option(by_name[plain], text) for text in given)))
    return tuple({one.name: one for one in found}.values())


def _option(mitigation: Mitigation, text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    known = {parameter.name: parameter for parameter in mitigation.parameters}
    known |= {parameter.name.rpartition(".")[2]: parameter for parameter in mitigation.parameters}
    if not equals or key not in known:
        raise SettingsError(
            f"--arms has '@{text}' for {mitigation.name}; expected @parameter=value with one of "
            f"{', '.join(sorted({name.rpartition('.')[2] for name in known})) or 'no parameters'}."
        )
    parameter = known[key]
    try:
        part, _, field = parameter.name.rpartition(".")
        if part == "mitigations" and field in MitigationSettings.model_fields:
            return parameter.name, getattr(load_settings({}, [f"{parameter.name}={value}"]).mitigations, field)
        return parameter.name, parameter.typed(value)
    except SettingsError as error:
        raise SettingsError(f"--arms has '@{text}' for {mitigation.name}, which cannot be: {error}") from error


def plan_arms(
    diagnosed: Diagnosed, wanted: Sequence[Wanted], folder: Path, causes: Collection[str] | None = None
) -> Planned:
    """What each mitigation would do for the samples that were attributed to what it treats.

    Args:
        diagnosed: The diagnosis.
        wanted: The mitigations.
        folder: Where plans are kept, and read from where nothing they depend on has changed.
        causes: Treat samples of these causes alone.

    Raises:
        SettingsError: A cause is none, or a source or judge is not set up.
        IlpError: What a user can mend.
    """
    known = {cause.name for cause in diagnosed.causes}
    if unknown := sorted(set(causes or ()) - known):
        raise SettingsError(f"--causes names {unknown[0]!r}, which is no cause; known are {', '.join(sorted(known))}.")
    digest = _digest(diagnosed, wanted, causes)
    place = folder / f"plans-{digest[:12]}"
    with stage(place, digest) as empty:
        if empty is not None:
            made = _made(diagnosed, wanted, causes)
            with atomic_path(empty / _PLANS) as temporary:
                temporary.write_text(json.dumps(_public(made)), encoding="utf-8")
    return _read(json.loads((place / _PLANS).read_text(encoding="utf-8")))


def _made(diagnosed: Diagnosed, wanted: Sequence[Wanted], causes: Collection[str] | None) -> Planned:
    settings, study = diagnosed.settings, diagnosed.study
    plugins = diagnosed.plugins
    consult = Consultation(plugins.sources, plugins.judges, settings, study)
    cause_of = diagnosed.cause_of()
    plans = []
    for one in wanted:
        targets = targets_of(one.mitigation, diagnosed.attributions)
        if causes is not None:
            targets = tuple(key for key in targets if cause_of[key] in causes)
        options = {**settings.mitigation_options(), **one.options}
        case = Case(study, diagnosed.evidence.table, diagnosed.attributions, targets, options, consult)
        plans.append(replace(plan_one(one.mitigation, case), mitigation=one.name))
    return Planned(tuple(plans), dict(consult.failures))


def _digest(diagnosed: Diagnosed, wanted: Sequence[Wanted], causes: Collection[str] | None) -> str:
    settings = diagnosed.settings
    asked = {
        name: getattr(settings, name).model_dump(mode="json") for name in ("knowledge_sources", "judge", "mitigations")
    }
    files = (settings.knowledge_sources.corpus, settings.knowledge_sources.user_documents)
    return digest_of(
        __version__,
        sorted(diagnosed.prepared.digests.items()),
        sorted(diagnosed.cause_of().items()),
        [[one.name, sorted(one.options.items())] for one in wanted],
        sorted(causes) if causes is not None else None,
        asked,
        [_contents(path) for path in files if path is not None],
        sorted(diagnosed.plugins.digests.items()),
    )


def _contents(path: Path) -> list[list[Any]]:
    """Names, sizes and times of files: what is in them may have changed under the same name."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files if file.is_file()]
    return [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def _public(planned: Planned) -> dict[str, Any]:
    plans = [
        {
            "mitigation": plan.mitigation,
            "treats": list(plan.treats),
            "refused": dict(plan.refused),
            "change": plan.change.public(),
            "price": asdict(plan.price),
            "summary": plan.summary,
        }
        for plan in planned.plans
    ]
    return {"plans": plans, "failures": dict(planned.failures)}


def _read(public: Mapping[str, Any]) -> Planned:
    plans = tuple(
        Plan(
            mitigation=one["mitigation"],
            treats=tuple(one["treats"]),
            refused=one["refused"],
            change=Change.from_public(one["change"]),
            price=Price(**one["price"]),
            summary=one["summary"],
        )
        for one in public["plans"]
    )
    return Planned(plans, public["failures"])
