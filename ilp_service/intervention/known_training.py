"""What is known about the training that made a checkpoint, and who says so."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, get_args, get_type_hints

import pyarrow as pa
import yaml
from pydantic import ValidationError

from ilp_service.errors import IlpError, SettingsError
from ilp_service.settings import DataSettings
from ilp_service.tracking.store import Tracking
from ilp_service.tracking.stored_runs import read_run, run_file
from ilp_service.training.adapters import LoraOptions
from ilp_service.training.loop import LoopOptions
from ilp_service.training.trajectory import SEVERAL_DEVICES

if TYPE_CHECKING:
    from ilp_service.intervention.reopening import Diagnosed

ORDERS = ("shuffled", "sequential", "file")
"""All rows mixed in every pass; one subset after the other; every pass in file order."""

_FACTS = {
    "batch_size": "loop.batch_size",
    "gradient_accumulation_steps": "loop.accumulation",
    "learning_rate": "loop.learning_rate",
    "learning_rate_schedule": "loop.decay",
    "seed": "loop.seed",
    "epochs": "epochs",
    "max_length": "data.max_length",
}
_DECAYS = {"constant_with_warmup": "constant", "cosine_with_restarts": "cosine"}
_HINTS = {
    **{f"loop.{name}": hint for name, hint in get_type_hints(LoopOptions).items()},
    **{f"lora.{name}": hint for name, hint in get_type_hints(LoraOptions).items()},
}
_OWN = ("order", "shuffle_inside", "epochs", "method", "limit")
NAMES = (*_OWN, *_HINTS, *(f"data.{name}" for name in DataSettings.model_fields))
"""Everything that a training can be known by; the names of the parameters that ``ilp train`` logs."""
_ABOVE, _HUGE = 5e-324, 1e300
_RANGES: dict[str, tuple[float, float | None]] = {
    "epochs": (_ABOVE, None),
    "limit": (1, None),
    "loop.learning_rate": (_ABOVE, None),
    "loop.warmup": (0, 1),
    "loop.batch_size": (1, None),
    "loop.accumulation": (1, None),
    "loop.save_every": (1, None),
    "loop.seed": (0, 2**32 - 1),
    "lora.rank": (1, None),
    "lora.alpha": (_ABOVE, None),
    "lora.dropout": (0, 1),
}
"""Smallest and largest value of numbers; of the others 0 and none."""


@dataclass(frozen=True, slots=True)
class KnownTraining:
    """How a checkpoint was trained, as far as anybody says.

    Attributes:
        values: By the names of :data:`NAMES`; what is not known is missing.
        where: Who says so, by the same names.
        seconds: Wall-clock time of its optimizer steps; ``None`` where nobody tells.
    """

    values: Mapping[str, Any]
    where: Mapping[str, str]
    seconds: float | None = None

    def part(self, name: str) -> dict[str, Any]:
        """The values whose names begin with ``name`` and a dot, without it."""
        return {key.partition(".")[2]: value for key, value in self.values.items() if key.startswith(f"{name}.")}

    def said_by(self, *names: str) -> str:
        """Who says these, each once, in their order; names that end in a dot mean a whole part."""
        said = [
            self.where[key] for name in names for key in self.where if key == name or (name[-1] == "." and name in key)
        ]
        return ", ".join(dict.fromkeys(said))


def known_training(diagnosed: Diagnosed, tracking: Tracking, file: Path | None = None) -> KnownTraining:
    """Gather what is known: from a recipe file, else the record of ``ilp train``, else the training record's facts.

    Args:
        diagnosed: The diagnosis of the checkpoint.
        tracking: The store.
        file: YAML or JSON with some of :data:`NAMES`, nested or dotted; it wins.

    Raises:
        SettingsError: The file cannot be read, or has a name or value that is none.
    """
    values: dict[str, Any] = {}
    where: dict[str, str] = {}
    record, place = _train_record(diagnosed, tracking)
    layers: list[tuple[Mapping[str, Any], str]] = [
        (_of_facts(diagnosed.prepared.facts), f"the training record {diagnosed.prepared.trajectory_source}"),
        (_of_request(record.get("request", {})), place),
    ]
    if file is not None:
        layers.append((read_recipe(file), f"--recipe {file}"))
    for layer, said in layers:
        values |= layer
        where |= dict.fromkeys(layer, said)
    result = record.get("result", {})
    seconds = None
    if result.get("resumed_from") is None and isinstance(result.get("seconds"), int | float):
        seconds = float(result["seconds"]) - float(result.get("measuring_seconds") or 0.0)
    return KnownTraining(values, where, seconds)


def read_recipe(path: Path) -> dict[str, Any]:
    """What a recipe file says, by dotted name.

    Raises:
        SettingsError: It cannot be read, is no mapping, or has a name or value that is none.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise SettingsError(f"The recipe {path} cannot be read: {first}; expected a YAML or JSON file.") from error
    if not isinstance(loaded, dict):
        raise SettingsError(f"The recipe {path} holds {type(loaded).__name__}; expected names with values.")
    flat: dict[str, Any] = {}
    for name, value in loaded.items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    for name in flat:
        if name not in NAMES:
            raise SettingsError(f"The recipe {path} has {name!r}, which is none; known are {', '.join(NAMES)}.")
    return {name: _typed(name, value, path) for name, value in flat.items()}


def _typed(name: str, value: Any, path: Path) -> Any:  # noqa: ANN401
    """A value of the type and in the range that the training takes."""
    if name.startswith("data."):
        return _of_data(name, value, path)
    if name == "lora.targets":
        names = [value] if isinstance(value, str) else value
        fits = isinstance(names, list) and bool(names) and all(isinstance(one, str) and one for one in names)
        value, expected = tuple(names) if fits else value, "a name of layers, or a list of them"
    else:
        value, fits, expected = _fitting(name, value)
    if not fits:
        raise SettingsError(f"The recipe {path} has {name} = {value!r}; expected {expected}.")
    return value


def _fitting(name: str, value: Any) -> tuple[Any, bool, str]:  # noqa: ANN401
    """The value as it is taken, whether it can be, and what is expected."""
    hint = int if name == "limit" else bool if name == "shuffle_inside" else _HINTS.get(name, float)
    choices = ORDERS if name == "order" else ("lora", "full") if name == "method" else get_args(hint)
    if choices and all(isinstance(choice, str) for choice in choices):
        return value, value in choices, f"one of {', '.join(choices)}"
    if value is None and (name == "limit" or type(None) in choices):
        return value, True, ""
    if hint is bool:
        return value, isinstance(value, bool), "true or false"
    low, high = _RANGES.get(name, (0, None))
    numbers = f"from {low} to {high}" if high is not None else "above 0" if low == _ABOVE else f"of at least {low}"
    if hint is not float:
        fits = type(value) is int and low <= value <= (_HUGE if high is None else high)
        return value, fits, f"a whole number {numbers}"
    # YAML reads 1e-5, without a point, as text.
    number = _number(value) if isinstance(value, str) else value
    fits = (
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and low <= number <= (_HUGE if high is None else high)
    )
    return float(number) if fits else value, fits, f"a number {numbers}"


def _of_data(name: str, value: Any, path: Path) -> Any:  # noqa: ANN401
    try:
        DataSettings(**{name.removeprefix("data."): value})
    except ValidationError as error:
        raise SettingsError(f"The recipe {path} has {name} = {value!r}: {error.errors()[0]['msg']}.") from error
    return value


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _of_facts(facts: Mapping[str, object]) -> dict[str, Any]:
    found = {name: facts[fact] for fact, name in _FACTS.items() if facts.get(fact) is not None}
    devices = facts.get("devices")
    if devices is None and facts.get("exposures_unknown_because") == SEVERAL_DEVICES:
        # An older record: it has the rows of one device, and not how many there were.
        found.pop("loop.batch_size", None)
    if isinstance(devices, int) and devices > 1 and isinstance(rows := found.get("loop.batch_size"), int):
        # As many rows a step, and no more of them in memory at once than one device held.
        found["loop.batch_size"] = rows // devices
        accumulation = found.get("loop.accumulation")
        found["loop.accumulation"] = (accumulation if isinstance(accumulation, int) else 1) * devices
    decay = _DECAYS.get(str(found.get("loop.decay")), found.get("loop.decay"))
    if decay in get_args(_HINTS["loop.decay"]):
        return {**found, "loop.decay": decay}
    return {name: value for name, value in found.items() if name != "loop.decay"}


def _of_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request of ``ilp train`` by dotted name."""
    if not request:
        return {}
    found = {name: request[name] for name in ("order", "shuffle_inside", "epochs", "limit") if name in request}
    known = {field.name for field in fields(LoopOptions)}
    found |= {f"loop.{name}": value for name, value in request["loop"].items() if name in known}
    found |= {f"data.{name}": value for name, value in request.get("data_settings", {}).items()}
    lora = request.get("lora")
    found["method"] = "full" if lora is None else "lora"
    if lora is not None:
        found |= {f"lora.{name}": tuple(value) if name == "targets" else value for name, value in lora.items()}
    return found


def _train_record(diagnosed: Diagnosed, tracking: Tracking) -> tuple[Mapping[str, Any], str]:
    """What ``ilp train`` wrote down about the training of the checkpoint, and where that is; empty without one."""
    prepared = diagnosed.prepared
    reference = prepared.reference
    if reference.run_id is not None:
        run = read_run(tracking, reference.run_id)
        if run.tags.get("ilp.kind") == "train":
            try:
                path = run_file(tracking, run, "train.json", diagnosed.settings.work_dir / "downloads")
                record = json.loads(path.read_text(encoding="utf-8"))
                if _is_record(record):
                    return record, f"the run {run.run_id} of ilp train"
            except (IlpError, OSError, ValueError):
                pass
            return _of_params(run.params), f"the parameters of the run {run.run_id} of ilp train"
    folders = [reference.model_dir.parent]
    # A record beside the trajectory is of the same training only where both are of this very model.
    if prepared.trajectory_path is not None and prepared.facts.get("model_digest") == reference.digest:
        folders.append(prepared.trajectory_path.parent)
    for folder in folders:
        try:
            record = json.loads((folder / "train.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        # Data may have that name as well.
        if not _is_record(record):
            continue
        if Path(record["result"]["model"]).absolute() == reference.model_dir.absolute() or folder != folders[0]:
            return record, str(folder / "train.json")
    return {}, ""


def _is_record(found: object) -> TypeGuard[dict[str, Any]]:
    """Whether this is what ``ilp train`` writes."""
    if not isinstance(found, dict):
        return False
    request, result = found.get("request"), found.get("result")
    return (
        isinstance(request, dict)
        and isinstance(request.get("loop"), dict)
        and isinstance(request.get("data_settings", {}), dict)
        and isinstance(result, dict)
        and isinstance(result.get("model"), str)
    )


def _of_params(params: Mapping[str, str]) -> dict[str, Any]:
    """The same from the parameters of an MLflow run, which are text."""

    def value(text: str) -> Any:  # noqa: ANN401
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    parts: dict[str, dict[str, Any]] = {"loop": {}, "lora": {}, "data": {}}
    request: dict[str, Any] = {}
    for name, text in params.items():
        part, dot, rest = name.partition(".")
        if dot and part in parts:
            parts[part][rest] = value(text)
        else:
            request[name] = value(text)
    request |= {"loop": parts["loop"], "lora": parts["lora"] or None, "data_settings": parts["data"]}
    return {"request": request}


def order_of(trajectory: pa.Table | None, subsets: Sequence[str]) -> str | None:
    """In which order subsets were trained on, by when the exposures of each grew.

    Args:
        trajectory: The training record.
        subsets: Subsets of the data by first appearance.

    Returns:
        ``shuffled`` or ``sequential``; ``None`` where the record does not tell.
    """
    if len(subsets) < 2:
        return "shuffled"
    if trajectory is None:
        return None
    totals: dict[int, dict[str, int]] = {}
    rows = zip(*(trajectory[name].to_pylist() for name in ("step", "subset", "exposures")), strict=True)
    for step, subset, count in rows:
        if count is not None and subset is not None:
            at = totals.setdefault(step, {})
            at[subset] = at.get(subset, 0) + count
    steps = sorted(totals)
    grew: dict[str, list[int]] = {}
    for number, (before, after) in enumerate(pairwise(steps)):
        for subset, count in totals[after].items():
            if count > totals[before].get(subset, 0):
                grew.setdefault(subset, []).append(number)
    if set(grew) != set(subsets) or len(steps) <= len(subsets):
        return None
    spans = [(grew[subset][0], grew[subset][-1]) for subset in subsets]
    # The interval in which one ends and the next begins belongs to both.
    apart = all(earlier[1] <= later[0] for earlier, later in pairwise(spans))
    return "sequential" if apart else "shuffled"
