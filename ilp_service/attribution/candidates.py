"""What a group of unexplained samples has in common, in words and figures that a person can act on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.attribution.groups import Group, find_groups
from ilp_service.attribution.rules import UNATTRIBUTED
from ilp_service.evidence.collection import Evidence
from ilp_service.samples.sample import Sample

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from ilp_service.settings import AttributionSettings

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_SIGNALS = 4
_PHRASES = 5
_SUBSETS = 5
_FEWEST = 5
"""Explained samples that a comparison needs; with fewer, a group is compared with all other unlearned samples."""
_SEPARATION = 0.75
_SAME = 0.8
"""Rank correlation from which a second signal tells nothing new."""
_CHARACTERS = 2000
_SURE = 0.001


def _listed(**fields: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct([pa.field(name, kind) for name, kind in fields.items()]))


def _field(name: str, kind: pa.DataType, unit: str, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "meaning": meaning})


CANDIDATE_CAUSES = pa.schema(
    [
        _field("group", pa.int64(), "", "number of the group, 1 is the largest"),
        _field("size", pa.int64(), "count", "samples in it"),
        _field("share", pa.float64(), "0-1", "part of all unattributed samples"),
        _field("cohesion", pa.float64(), "0-1", "how many of a member's ten nearest unlearned samples are members"),
        _field("cohesion_by_chance", pa.float64(), "0-1", "the highest of a group as large in tables without groups"),
        _field("description", pa.string(), "", "the group in a sentence or two"),
        _field(
            "signals",
            _listed(
                signal=pa.string(),
                unit=pa.string(),
                direction=pa.string(),
                meaning=pa.string(),
                statistic=pa.string(),
                group=pa.float64(),
                others=pa.float64(),
                separation=pa.float64(),
            ),
            "",
            "what sets it apart: median (or mean of a flag) in the group and among the attributed samples; separation "
            "is how often a member's value lies on the group's side of another sample's (0.5-1)",
        ),
        _field(
            "phrases",
            _listed(phrase=pa.string(), share=pa.float64(), others=pa.float64()),
            "0-1",
            "words of the prompts: share of the group's prompts and of the other unlearned samples' that have them",
        ),
        _field(
            "subsets",
            _listed(subset=pa.string(), size=pa.int64(), share=pa.float64()),
            "",
            "where its samples stand: share of the group",
        ),
        _field("examples", pa.list_(pa.string()), "", "ids of three samples in the middle of the group"),
        _field("sample_ids", pa.list_(pa.string()), "", "ids of all its samples"),
    ]
)
"""Columns of ``candidate_causes.parquet``."""


def candidate_causes(
    evidence: Evidence,
    attributions: pa.Table,
    samples: Sequence[Sample],
    settings: AttributionSettings,
    seed: int = 0,
) -> pa.Table:
    """Groups among the samples without a sure cause, each a candidate for a cause that nobody has named.

    Args:
        evidence: Signals of the unlearned samples.
        attributions: Their attributions.
        samples: The data set.
        settings: A confidence below ``min_confidence`` counts as no cause.
        seed: Of the tables that groups are compared with.

    Returns:
        One row a group, largest first (schema :data:`CANDIDATE_CAUSES`).
    """
    unexplained = unexplained_ids(attributions, settings)
    groups = find_groups(evidence.table, unexplained, seed)
    if not groups:
        return CANDIDATE_CAUSES.empty_table()
    table = evidence.table.sort_by("sample_id")
    ids = table["sample_id"].to_pylist()
    by_id = {sample.sample_id: sample for sample in samples}
    known = [by_id.get(key) for key in ids]
    words = _Words([sample.prompt[:_CHARACTERS] if sample else "" for sample in known])
    explained = np.array([key not in unexplained for key in ids], dtype=np.bool_)
    rows = []
    for number, group in enumerate(groups, start=1):
        members = np.isin(np.asarray(ids, dtype=object), group.members)
        others = explained if explained.sum() >= _FEWEST else ~members
        signals = _telling_signals(table, members, others)
        phrases = words.telling(members)
        subsets = _subsets([sample for sample, inside in zip(known, members, strict=True) if inside and sample])
        rows.append(
            {
                "group": number,
                "size": len(group.members),
                "share": len(group.members) / len(unexplained),
                "cohesion": group.cohesion,
                "cohesion_by_chance": group.by_chance,
                "description": _sentences(group, signals, phrases, subsets),
                "signals": signals,
                "phrases": phrases,
                "subsets": subsets,
                "examples": list(group.examples),
                "sample_ids": list(group.members),
            }
        )
    return pa.Table.from_pylist(rows, schema=CANDIDATE_CAUSES)


def told_briefly(candidates: pa.Table) -> list[dict[str, Any]]:
    """The groups as ``summary.json`` lists them."""
    rows: list[dict[str, Any]] = candidates.select(["group", "size", "cohesion", "description", "examples"]).to_pylist()
    return rows


def unexplained_ids(attributions: pa.Table, settings: AttributionSettings) -> frozenset[str]:
    """The samples for which no cause is named, or none with enough confidence."""
    columns = (attributions[name].to_pylist() for name in ("sample_id", "cause", "confidence"))
    return frozenset(
        key
        for key, cause, confidence in zip(*columns, strict=True)
        if cause == UNATTRIBUTED or confidence is None or confidence < settings.min_confidence
    )


def _telling_signals(table: pa.Table, members: Mask, others: Mask) -> list[dict[str, Any]]:
    """The signals that tell the group from the others best, none of which says what another has said."""
    from sklearn.metrics import roc_auc_score

    found: list[tuple[float, str, Array]] = []
    if not others.any():
        return []
    both = members | others
    for field in table.schema:
        if "." not in field.name or not pa.types.is_floating(field.type):
            continue
        values = table[field.name].combine_chunks().to_numpy(zero_copy_only=False).astype(np.float64)
        known = both & np.isfinite(values)
        # A value that is rarely known on either side describes neither.
        if 2 * (known & members).sum() < members.sum() or 2 * (known & others).sum() < others.sum():
            continue
        area = float(roc_auc_score(members[known], values[known]))
        found.append((max(area, 1 - area), field.name, values))
    found.sort(key=lambda item: (-round(item[0], 9), item[1]))
    chosen: list[tuple[float, str, Array]] = []
    for separation, name, values in found:
        if len(chosen) == _SIGNALS or separation < _SEPARATION:
            break
        if all(_correlation(values[both], earlier[both]) < _SAME for _, _, earlier in chosen):
            chosen.append((separation, name, values))
    return [_signal(table.schema.field(name), values, members, others, part) for part, name, values in chosen]


def _correlation(left: Array, right: Array) -> float:
    """Absolute rank correlation where both are known, 0 where one of them does not vary."""
    from scipy.stats import spearmanr

    known = np.isfinite(left) & np.isfinite(right)
    if known.sum() < _FEWEST or np.ptp(left[known]) == 0 or np.ptp(right[known]) == 0:
        return 0.0
    return abs(float(spearmanr(left[known], right[known]).statistic))


def _signal(field: pa.Field, values: Array, members: Mask, others: Mask, separation: float) -> dict[str, Any]:
    metadata: Mapping[bytes, bytes] = field.metadata or {}
    flag = bool(np.isin(values[np.isfinite(values)], (0.0, 1.0)).all())
    summary = np.nanmean if flag else np.nanmedian
    return {
        "signal": field.name,
        **{key: metadata.get(key.encode(), b"").decode() for key in ("unit", "direction", "meaning")},
        "statistic": "mean" if flag else "median",
        "group": float(summary(values[members])),
        "others": float(summary(values[others])),
        "separation": separation,
    }


class _Words:
    """Which prompts have which words and pairs of words."""

    def __init__(self, prompts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        counter = CountVectorizer(ngram_range=(1, 2), binary=True, min_df=2)
        self._names: npt.NDArray[np.object_] = np.zeros(0, dtype=object)
        self._has: csr_matrix | None = None
        try:
            self._has = counter.fit_transform(prompts).tocsr()
        except ValueError:  # no word stands in two prompts
            return
        self._names = counter.get_feature_names_out()

    def telling(self, members: Mask) -> list[dict[str, Any]]:
        """What at least three in ten of the group's prompts have and the others far more rarely (chi-square).

        The threshold is divided by the number of phrases that were tried. Of a phrase and its words, those that
        stand in the same prompts are told once.
        """
        from sklearn.feature_selection import chi2

        if self._has is None or members.all():
            return []
        inside = np.asarray(self._has[members].mean(axis=0)).ravel()
        outside = np.asarray(self._has[~members].mean(axis=0)).ravel()
        statistic, p = chi2(self._has, members)
        fit = np.flatnonzero((inside >= 0.3) & (inside >= 2 * outside) & (p * len(p) < _SURE))
        chosen: list[int] = []
        for place in sorted(fit, key=lambda at: (-statistic[at], -len(self._names[at]), self._names[at])):
            name = str(self._names[place]).split()
            told = any(
                set(name) & set(str(self._names[other]).split()) and abs(inside[place] - inside[other]) < 0.1
                for other in chosen
            )
            if not told:
                chosen.append(int(place))
            if len(chosen) == _PHRASES:
                break
        return [
            {"phrase": str(self._names[at]), "share": float(inside[at]), "others": float(outside[at])} for at in chosen
        ]


def _subsets(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    counts = Counter(sample.subset for sample in samples)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_SUBSETS]
    return [{"subset": name, "size": count, "share": count / len(samples)} for name, count in ranked]


def _sentences(
    group: Group,
    signals: Sequence[Mapping[str, Any]],
    phrases: Sequence[Mapping[str, Any]],
    subsets: Sequence[Mapping[str, Any]],
) -> str:
    parts = [
        f"{len(group.members)} samples that no cause explains and that are alike: of the ten nearest unlearned samples "
        f"of each, {10 * group.cohesion:.1f} are in the group."
    ]
    if signals:
        told = "; ".join(
            f"{signal['signal'].partition('.')[2].replace('_', ' ')} {signal['group']:.3g} where the others have "
            f"{signal['others']:.3g}{_unit(signal['unit'])}"
            for signal in signals[:3]
        )
        parts.append(f"They differ from the attributed samples in {told}.")
    if phrases:
        told = ", ".join(f"'{phrase['phrase']}' ({_percent(phrase['share'])} against {_percent(phrase['others'])})"
                         for phrase in phrases[:3])  # fmt: skip
        parts.append(f"Their prompts have {told}.")
    if len(subsets) and subsets[0]["subset"]:
        parts.append(f"{_percent(subsets[0]['share'])} are from {subsets[0]['subset']}.")
    return " ".join(parts)


def _unit(unit: str) -> str:
    """A unit to put after a number; a range says nothing there."""
    return f" {unit}" if unit and not unit.endswith("-1") else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
