"""The repaired data set: rows removed, corrected, repeated and reordered as a change says, with a ledger of it all."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ilp_service.changes import Change
from ilp_service.errors import SettingsError
from ilp_service.intervention.export_config import training_notes
from ilp_service.intervention.export_rows import Edit, Rows, edited, write_new
from ilp_service.intervention.export_sources import open_rows
from ilp_service.samples.reading import DataSet
from ilp_service.samples.sample import Sample
from ilp_service.tables import atomic_path
from ilp_service.training.course import Course, changed, kept_apart

Form = Literal["same", "trl", "axolotl", "llamafactory"]
FORMS: tuple[Form, ...] = get_args(Form)
_DOCUMENTS = "documents.jsonl"


@dataclass(frozen=True, slots=True)
class Unit:
    """A row to write, so many times.

    Attributes:
        key: Unique.
        line: Of the row that it is made of.
        edit: What is otherwise about it.
        teaches: Samples that are learned from it.
        copies: How often it is written.
        subset: Of its samples.
    """

    key: str
    line: int
    edit: Edit
    teaches: tuple[str, ...]
    copies: int
    subset: str


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        data: The data file.
        documents: Texts for continued pre-training; ``None`` where there are none.
        ledger: Every change, one JSON object a line.
        training: How to train on it, for people.
        rows: Rows of the data file.
        samples: Samples in it, repetitions counted.
        actions: How often each thing was done.
        masked_rows: Rows with a turn that has weight 0 so that it is not learned, which many trainers do not read.
    """

    data: Path
    documents: Path | None
    ledger: Path
    training: Path
    rows: int
    samples: int
    actions: Mapping[str, int]
    masked_rows: int = 0

    def public(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "data": str(self.data),
            "documents": None if self.documents is None else str(self.documents),
            "ledger": str(self.ledger),
            "training": str(self.training),
            "rows": self.rows,
            "samples": self.samples,
            "actions": dict(self.actions),
            "masked_rows": self.masked_rows,
        }


def copies_of(factor: float, sample_id: str, seed: int) -> int:
    """How often a sample stands in the file: the factor, its fraction rounded by a draw of the sample's own."""
    whole = math.floor(factor)
    digest = hashlib.blake2b(f"{seed}\0{sample_id}".encode(), digest_size=8).digest()
    return whole + (int.from_bytes(digest, "big") / 2**64 < factor - whole)


def export(
    data: DataSet,
    change: Change,
    output: Path,
    *,
    form: Form = "same",
    seed: int = 0,
    step_rows: int = 32,
    causes: Mapping[str, str] | None = None,
    plain: Callable[[Sample, str], tuple[str, str]] | None = None,
    passes: int | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write the data set that a change makes of a data file.

    All files appear whole or not at all; the data file comes last.

    Args:
        data: The data file as read, without a limit.
        change: What is to be otherwise.
        output: The file to write; the other files stand beside it.
        form: ``same``: that of the data file; else what the trainer of this name reads.
        seed: Of the order and of the rounding of fractions.
        step_rows: Rows of an optimizer step, for what is kept apart.
        causes: Cause of a sample, for the ledger.
        plain: Prompt and response of a sample with a response as texts, where the model was trained on plain texts;
            ``None``: on conversations. For other forms.
        passes: Passes over the data in the diagnosed training, for the notes; ``None``: not known.
        overwrite: Replace files that are there.

    Raises:
        SettingsError: A file is there already, is the data file itself, or has an ending of another kind.
        StorageError: The disk is full or the folder may not be written; nothing is left behind.
    """
    wrote = data.path.suffix.lower()
    if form == "same" and output.suffix.lower() != wrote:
        raise SettingsError(f"{output} ends in {output.suffix!r}, expected {wrote!r} as {data.path} does.")
    if form != "same" and output.suffix.lower() not in (".jsonl", ".json", ".parquet"):
        raise SettingsError(f"{output} ends in {output.suffix!r}, expected .jsonl, .json or .parquet.")
    beside = {name: output.with_name(f"{output.stem}.{name}") for name in (_DOCUMENTS, "ledger.jsonl", "training.md")}
    for path in (*beside.values(), output):
        if path.resolve() == data.path.resolve():
            raise SettingsError(f"{path} is the data file itself; choose another --output.")
        if path.exists() and not overwrite:
            raise SettingsError(f"{path} is there already; choose another --output, or replace it with --overwrite.")
    rows = open_rows(data.path)
    counts = {
        sample.sample_id: 0
        if sample.sample_id in change.removed
        else copies_of(change.exposures.get(sample.sample_id, 1.0), sample.sample_id, seed)
        for sample in data.samples
    }
    units = list(_row_units(data, rows, change, counts) if form == "same" else _sample_units(data, counts))
    order = _ordered(units, change, step_rows, seed)
    entries = list(_ledger(data, change, counts, units, order, causes or {}, form, seed))
    chat = plain is None if form != "same" else any(sample.chat for sample in data.samples)
    masked = sum(bool(unit.edit.masked) for unit in order)
    notes = training_notes(
        form, data.format, change, output.name, chat=chat, passes=passes, step_rows=step_rows, masked_rows=masked
    )
    with ExitStack() as stack:
        # What is entered last appears first: the data file is there when all is.
        wanted = [path for name, path in beside.items() if change.documents or name != _DOCUMENTS]
        new = {path: stack.enter_context(atomic_path(path)) for path in (output, *wanted)}
        if form == "same":
            rows.write(list(_written(order, rows, data)), new[output])
        else:
            by_id = {sample.sample_id: sample for sample in data.samples}
            write_new(_converted(order, by_id, change, form, plain), new[output], output.suffix.lower())
        if change.documents:
            write_new(_documents(change), new[beside[_DOCUMENTS]])
        write_new(entries, new[beside["ledger.jsonl"]])
        new[beside["training.md"]].write_text(notes, encoding="utf-8")
    if not change.documents:
        # Those of an export that this one replaces.
        beside[_DOCUMENTS].unlink(missing_ok=True)
    return Exported(
        output,
        beside[_DOCUMENTS] if change.documents else None,
        beside["ledger.jsonl"],
        beside["training.md"],
        len(order),
        sum(len(unit.teaches) for unit in order),
        dict(Counter(str(entry["action"]) for entry in entries)),
        masked,
    )


def _sample_units(data: DataSet, counts: Mapping[str, int]) -> Iterator[Unit]:
    """A row for every sample."""
    for sample in data.samples:
        key = sample.sample_id
        if counts[key]:
            yield Unit(key, sample.line, Edit(), (key,), counts[key], sample.subset)


def _row_units(data: DataSet, rows: Rows, change: Change, counts: Mapping[str, int]) -> Iterator[Unit]:
    """A row for every row, and further ones where the turns of a conversation part company."""
    by_line: dict[int, list[Sample]] = defaultdict(list)
    for sample in data.samples:
        by_line[sample.line].append(sample)
    subset = data.samples[0].subset
    for line in rows.lines():
        samples = by_line.get(line, [])
        if not samples:
            yield Unit(f"row {line}", line, Edit(), (), 1, subset)
            continue
        subset = samples[0].subset
        yield from _units_of(line, samples, change, counts)


def _units_of(line: int, samples: Sequence[Sample], change: Change, counts: Mapping[str, int]) -> Iterator[Unit]:
    last = samples[-1]
    # A corrected turn that others follow would change what they follow, so it gets a row of its own.
    apart = {one.turn for one in samples[:-1] if one.sample_id in change.corrected and counts[one.sample_id]}
    masked = {one.turn for one in samples if not counts[one.sample_id]} | apart
    together = [one for one in samples if one.turn not in masked]
    if together:
        responses = {
            one.turn: change.corrected[one.sample_id].response for one in together if one.sample_id in change.corrected
        }
        fewest = min(counts[one.sample_id] for one in together)
        ids = tuple(one.sample_id for one in together)
        yield Unit(ids[0], line, Edit(responses, frozenset(masked)), ids, fewest, last.subset)
    else:
        fewest = 0
    for one in samples:
        more = counts[one.sample_id] - (0 if one.turn in masked else fewest)
        if more:
            corrected = change.corrected.get(one.sample_id)
            edit = Edit(
                {one.turn: corrected.response} if corrected else {},
                frozenset(other.turn for other in samples if other.turn < one.turn),
                None if one is last else one.turn,
            )
            yield Unit(f"{one.sample_id} alone", line, edit, (one.sample_id,), more, one.subset)


def _ordered(units: Sequence[Unit], change: Change, step_rows: int, seed: int) -> list[Unit]:
    """Every copy of every unit, as a changed training would read them in one pass."""
    by_key = {unit.key: unit for unit in units}
    runs: list[list[str]] = []
    for number, unit in enumerate(units):
        if number and units[number - 1].subset == unit.subset:
            runs[-1].append(unit.key)
        else:
            runs.append([unit.key])
    # Subsets that come one after the other keep their further rows to themselves.
    if len(runs) > len({unit.subset for unit in units}):
        runs = [[unit.key for unit in units]]
    more = {unit.key: float(unit.copies) for unit in units if unit.copies > 1}
    subsets = {unit.key: unit.subset for unit in units}
    course = changed(
        Course(tuple(map(tuple, runs))),
        Change(exposures=more, shuffled=change.shuffled),
        subsets=subsets,
        step_rows=step_rows,
        seed=seed,
    )
    flat = tuple(key for part in course.passes for key in part)
    course = kept_apart(Course((flat,)), Change(apart=_apart(units, change)), step_rows=step_rows, seed=seed)
    return [by_key[key] for part in course.passes for key in part]


def _apart(units: Sequence[Unit], change: Change) -> frozenset[tuple[str, str]]:
    teaching: dict[str, list[str]] = defaultdict(list)
    for unit in units:
        for key in unit.teaches:
            teaching[key].append(unit.key)
    return frozenset(
        (first, second)
        for one, other in change.apart
        for first in teaching[one]
        for second in teaching[other]
        if first != second
    )


def _written(order: Sequence[Unit], rows: Rows, data: DataSet) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """Each row as it stands, or the columns in which it is otherwise; further copies have ids of their own."""
    seen: Counter[int] = Counter()
    taken = set(data.row_ids.values())
    for unit in order:
        number = seen[unit.line]
        seen[unit.line] += 1
        if unit.edit.is_empty and not number:
            yield unit.line, None
            continue
        row = rows.columns(unit.line)
        new = edited(row, data.format, unit.edit)
        if number and isinstance(row.get("id"), str):
            new["id"] = _copied_id(row["id"], number + 1, taken)
        elif number and row.get("id") is not None:
            new["id"] = rows.fresh_id()
        changes = {name: value for name, value in new.items() if value is not row[name] and value != row[name]}
        yield unit.line, changes or None


def _copied_id(identity: str, number: int, taken: set[str]) -> str:
    """The first of ``id#2``, ``id#3`` and so on that no row has, which is then taken."""
    while f"{identity}#{number}" in taken:
        number += 1
    taken.add(f"{identity}#{number}")
    return f"{identity}#{number}"


def _converted(
    order: Sequence[Unit],
    samples: Mapping[str, Sample],
    change: Change,
    form: Form,
    plain: Callable[[Sample, str], tuple[str, str]] | None,
) -> Iterator[dict[str, Any]]:
    """A row for each sample in the form of a trainer."""
    for unit in order:
        (key,) = unit.teaches
        sample = samples[key]
        corrected = change.corrected.get(key)
        response = corrected.response if corrected else sample.response
        prompt = [{"role": message.role, "content": message.content} for message in sample.context]
        answer = {"role": "assistant", "content": response}
        row: dict[str, Any]
        if plain is not None:
            text, said = plain(sample, response)
            row = (
                {"instruction": text, "output": said}
                if form == "llamafactory"
                else {"prompt": text, "completion": said}
            )
        elif form == "trl":
            row = {"prompt": prompt, "completion": [answer]}
        elif form == "axolotl":
            row = {"messages": [*({**one, "train": False} for one in prompt), {**answer, "train": True}]}
        else:
            row = {"messages": [*prompt, answer]}
        yield {**row, "sample_id": key, "subset": sample.subset}


def _documents(change: Change) -> Iterator[dict[str, Any]]:
    for document in change.documents:
        yield {
            "text": document.text,
            "sample_ids": list(document.sample_ids),
            "causes": list(document.causes),
            "sources": list(document.sources),
        }


def _ledger(
    data: DataSet,
    change: Change,
    counts: Mapping[str, int],
    units: Sequence[Unit],
    order: Sequence[Unit],
    causes: Mapping[str, str],
    form: Form,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Every change: samples in file order, then what concerns the whole, then what a data file cannot hold."""
    parted: dict[str, int] = defaultdict(int)
    for one, other in change.apart:
        parted[one] += 1
        parted[other] += 1
    taught_beside = {unit.line for unit in units if unit.teaches and unit.edit.masked}

    def entry(sample: Sample, action: str, reason: str, before: object, after: object) -> dict[str, Any]:
        cause = causes.get(sample.sample_id)
        return {
            "id": sample.sample_id,
            "line": sample.line,
            "turn": sample.turn,
            "action": action,
            "cause": cause,
            "reason": reason,
            "before": before,
            "after": after,
        }

    for sample in data.samples:
        key, said = sample.sample_id, sample.response
        if key in change.removed:
            action = "masked" if form == "same" and sample.line in taught_beside else "removed"
            yield entry(sample, action, change.removed[key], said, None)
            continue
        if key in change.corrected:
            correction = change.corrected[key]
            yield entry(sample, "corrected", correction.reason, said, correction.response)
        if key in change.contested:
            wanted = [one.response for one in change.contested[key]]
            yield entry(sample, "contested", "Different corrections were asked for; none is made.", said, wanted)
        if key in change.exposures:
            factor = change.exposures[key]
            why = "." if key in causes else ", so that it is not forgotten."
            yield entry(sample, "repeated", f"Shown {factor:g} times as often{why}", 1, counts[key])
        if key in parted:
            number = change.buckets[key]
            yield entry(
                sample, "kept_apart", f"Contradicts {parted[key]} others that are right too.", None, {"bucket": number}
            )
    by_whole: list[tuple[str, str]] = []
    if form != "same" and data.quarantine.num_rows:
        by_whole.append(("left_out", f"{data.quarantine.num_rows} rows that cannot be read as samples are left out."))
    if change.shuffled:
        by_whole.append(("shuffled", f"All rows are shuffled together (seed {seed})."))
    if change.resampling is not None:
        by_whole.append(
            (
                "not_in_data",
                "Subsets whose accuracy falls are drawn more often in training; no data file can hold that.",
            )
        )
    if change.epochs is not None:
        by_whole.append(("not_in_data", f"Up to {change.epochs.most} further passes while held-out loss improves."))
    by_whole += [
        ("general_text", f"General text that says {stated.answer!r} of {stated.entity!r} is to be left out.")
        for stated in sorted(change.conflicting_documents)
    ]
    for action, reason in by_whole:
        yield {
            "id": None,
            "line": None,
            "action": action,
            "cause": None,
            "reason": reason,
            "before": None,
            "after": None,
        }
    lines = [unit.line for unit in order]
    if lines != sorted(lines):
        yield {
            "id": None,
            "line": None,
            "action": "reordered",
            "cause": None,
            "reason": "Lines of the data file in the order in which their rows stand now.",
            "before": None,
            "after": lines,
        }
