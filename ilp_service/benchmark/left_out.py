"""What becomes of the samples of a cause that nobody knows: it is left out of the training and its plugin is off.

A classifier that has seen only samples with one of its causes may name the least unlikely one for whatever is
foreign to it. Each cause plays the unknown one in turn; its samples should be *unattributed*, and found as a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ilp_service.attribution.attribute import attribute
from ilp_service.attribution.augmentation import cause_of
from ilp_service.attribution.candidates import unexplained_ids
from ilp_service.attribution.groups import Group, find_groups
from ilp_service.attribution.meta import KEYS, MetaClassifier, train_meta
from ilp_service.attribution.rules import UNATTRIBUTED
from ilp_service.evidence.collection import Evidence
from ilp_service.plugin import Cause
from ilp_service.settings import Settings


@dataclass(frozen=True, slots=True)
class _Seen:
    """One held-out world as a diagnosis without the cause sees it: the cause named for each sample, and the groups."""

    world: str
    named: Mapping[str, str]
    groups: Sequence[Group]
    truth: Mapping[str, str]


def left_out(
    train: pa.Table,
    held_out: Sequence[tuple[Evidence, pa.Table]],
    causes: Sequence[Cause],
    settings: Settings,
    seed: int = 0,
) -> dict[str, Any]:
    """Leave each cause out of training and diagnosis in turn, and once none.

    Args:
        train: Signals of the training worlds (``world, family, sample_id, cause``, signals).
        held_out: Evidence and labels of worlds that are not among them.
        causes: All causes that are asked.
        settings: ``attribution.min_confidence`` decides what counts as named.
        seed: Of the training and of the groups' comparison with chance.

    Returns:
        Ready for JSON. ``causes`` has for each left-out cause ``samples`` (with a verified label of it alone),
        ``unattributed`` (their share without a named cause, or ``None`` where there are no samples), ``by_world`` (the
        same for each world), ``blamed`` (how often which cause was named instead), ``grouped`` (share of the
        unattributed ones that are in a group most of whose labelled members have this cause), ``purity`` (share of the
        labelled members of such groups that have it) and ``groups`` (how many were found, such and others).
        ``nothing_left_out`` has the false alarms: ``worlds``, ``groups`` and the samples in them by label.
        ``least`` and ``median`` are of ``unattributed`` over the causes.

    Raises:
        ValueError: With the cause left out, fewer than two causes or two worlds remain to train on.
    """
    labelled = [cause for cause in causes if cause.name in set(train["cause"].to_pylist())]
    told = {
        cause.name: _figures(
            cause.name, _diagnosed(without(train, cause.name), held_out, causes, cause, settings, seed)
        )
        for cause in labelled
    }
    shares = [figures["unattributed"] for figures in told.values() if figures["unattributed"] is not None]
    return {
        "causes": told,
        "nothing_left_out": _false_alarms(_diagnosed(train, held_out, causes, None, settings, seed)),
        "least": min(shares, default=None),
        "median": median(shares) if shares else None,
    }


def without(train: pa.Table, cause: str) -> pa.Table:
    """The training table as if the cause had never been known: neither its rows nor its signals."""
    columns = [name for name in train.column_names if name in KEYS or cause_of(name) != cause]
    return train.filter(pc.fill_null(pc.not_equal(train["cause"], cause), False)).select(columns)


def switched_off(evidence: Evidence, cause: str) -> Evidence:
    """The evidence as it is without the cause's plugin."""
    columns = [name for name in evidence.table.column_names if cause_of(name) != cause]
    return replace(
        evidence,
        table=evidence.table.select(columns),
        status={name: value for name, value in evidence.status.items() if name != cause},
        reasons={name: value for name, value in evidence.reasons.items() if name != cause},
        rules={name: value for name, value in evidence.rules.items() if name != cause},
        excluded={name: value for name, value in evidence.excluded.items() if name != cause},
    )


def _diagnosed(
    train: pa.Table,
    held_out: Sequence[tuple[Evidence, pa.Table]],
    causes: Sequence[Cause],
    unknown: Cause | None,
    settings: Settings,
    seed: int,
) -> list[_Seen]:
    meta = train_meta(train, seed)
    asked = [cause for cause in causes if cause is not unknown]
    return [
        _seen(
            evidence if unknown is None else switched_off(evidence, unknown.name), labels, asked, meta, settings, seed
        )
        for evidence, labels in held_out
    ]


def _seen(
    evidence: Evidence, labels: pa.Table, causes: Sequence[Cause], meta: MetaClassifier, settings: Settings, seed: int
) -> _Seen:
    attributions = attribute(evidence, causes, meta, settings.attribution)
    unexplained = unexplained_ids(attributions, settings.attribution)
    columns = zip(*(attributions[name].to_pylist() for name in ("sample_id", "cause")), strict=True)
    named = {key: UNATTRIBUTED if key in unexplained else cause for key, cause in columns}
    verified = zip(*(labels[name].to_pylist() for name in ("sample_id", "causes", "verdict")), strict=True)
    truth = {
        key: found[0] for key, found, verdict in verified if verdict == "verified" and len(found) == 1 and key in named
    }
    world = str(labels["world"][0]) if labels.num_rows else ""
    return _Seen(world, named, find_groups(evidence.table, unexplained, seed), truth)


def _figures(cause: str, worlds: Sequence[_Seen]) -> dict[str, Any]:
    blamed: Counter[str] = Counter()
    by_world: dict[str, float] = {}
    open_rows = labelled_members = right_members = own_groups = other_groups = 0
    for seen in worlds:
        own = [key for key, true in seen.truth.items() if true == cause]
        names = Counter(seen.named[key] for key in own)
        blamed.update(names)
        if own:
            by_world[seen.world] = names[UNATTRIBUTED] / len(own)
        open_rows += names[UNATTRIBUTED]
        for group in seen.groups:
            true = [seen.truth[key] for key in group.members if key in seen.truth]
            if 2 * true.count(cause) <= len(true):
                other_groups += 1
                continue
            own_groups += 1
            right_members += true.count(cause)
            labelled_members += len(true)
    samples = blamed.total()
    return {
        "samples": samples,
        "unattributed": blamed[UNATTRIBUTED] / samples if samples else None,
        "by_world": by_world,
        "blamed": {name: count for name, count in sorted(blamed.items()) if name != UNATTRIBUTED},
        "grouped": right_members / open_rows if open_rows else None,
        "purity": right_members / labelled_members if labelled_members else None,
        "groups": {"of_this_cause": own_groups, "others": other_groups},
    }


def _false_alarms(worlds: Sequence[_Seen]) -> dict[str, Any]:
    members = Counter(
        seen.truth.get(key, "unlabelled") for seen in worlds for group in seen.groups for key in group.members
    )
    named = [name for seen in worlds for name in seen.named.values()]
    labelled = [seen.named[key] for seen in worlds for key in seen.truth]
    return {
        "worlds": len(worlds),
        "unattributed": named.count(UNATTRIBUTED) / len(named) if named else None,
        "unattributed_labelled": labelled.count(UNATTRIBUTED) / len(labelled) if labelled else None,
        "groups": sum(len(seen.groups) for seen in worlds),
        "members": dict(sorted(members.items())),
    }
