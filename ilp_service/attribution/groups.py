"""Groups among the samples that no cause explains: candidates for causes that nobody has named yet."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.attribution.augmentation import Array, cause_of

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

SMALLEST = 8
"""Samples below which nothing is called a group."""

NEIGHBOURS = 10
"""Nearest samples that cohesion is counted over."""

LEAST_COHESION = 0.5
"""At least half of a member's nearest samples are members too."""

CHANCE_RUNS = 19
"""Made-up tables that a group is compared with; it has to beat all, which chance does once in twenty."""

MOST_ROWS = 3000
"""Samples that are clustered at most; memory and time grow with it, and no longer with the data."""

_DIMENSIONS = 8
_EXAMPLES = 3
_DENSITY_POINTS = 5


@dataclass(frozen=True, slots=True)
class Group:
    """Unattributed samples that are alike and unlike the rest.

    Attributes:
        members: Their ids, sorted.
        examples: Ids of three members in the middle of the group.
        cohesion: Share of a member's ten nearest unlearned samples that are members too, mean over members, 0-1.
        by_chance: The highest cohesion of a group at least as large in tables without any groups, 0-1.
    """

    members: tuple[str, ...]
    examples: tuple[str, ...]
    cohesion: float
    by_chance: float


def find_groups(evidence: pa.Table, unexplained: Collection[str], seed: int = 0) -> list[Group]:
    """Cluster the unexplained samples by their signals, and keep what chance would not make.

    The unexplained samples among whose nearest samples at least half are unexplained too are clustered by density
    (HDBSCAN) in the space of :func:`signal_space`; they are one cluster if that finds none. A cluster is held back
    unless it has :data:`SMALLEST` members and its cohesion is at least :data:`LEAST_COHESION` and above that of every
    cluster of its size or larger in :data:`CHANCE_RUNS` made-up tables, in which each signal is dealt out anew among
    all samples: the same values, with nothing in common. Cohesion counts the explained samples too, so a crowd in the
    midst of them, which is the border of a known cause, is no group.

    Of more than :data:`MOST_ROWS` samples as many are drawn and clustered; the others join by their nearest samples.

    Args:
        evidence: ``sample_id`` and the signals of all unlearned samples; the order of rows does not matter.
        unexplained: Ids of those that no cause explains.
        seed: Of the draws.

    Returns:
        The groups, largest first, ties by the first member's id.
    """
    if len(unexplained) < SMALLEST:
        return []
    evidence = evidence.sort_by("sample_id")
    ids = np.asarray(evidence["sample_id"].to_pylist(), dtype=object)
    wanted = frozenset(unexplained)
    is_open = np.array([key in wanted for key in ids], dtype=np.bool_)
    space = signal_space(evidence)
    points = space.points
    if is_open.sum() < SMALLEST or not points.shape[1]:
        return []
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(len(ids), size=min(len(ids), MOST_ROWS), replace=False))
    found = _clusters(points[drawn], is_open[drawn])
    if not found:
        return []
    made_up = (space.permuted(drawn, rng) for _ in range(CHANCE_RUNS))
    chance = [cluster for table in made_up for cluster in _clusters(table, is_open[drawn])]
    groups = []
    for cluster in found:
        by_chance = max((other.cohesion for other in chance if other.size >= cluster.size), default=0.0)
        if cluster.cohesion >= LEAST_COHESION and cluster.cohesion > by_chance:
            members = _with_the_undrawn(points, drawn, is_open, cluster.members)
            central = members[np.lexsort((members, _distance(points[members])))][:_EXAMPLES]
            groups.append(Group(tuple(ids[members]), tuple(ids[central]), cluster.cohesion, by_chance))
    return sorted(groups, key=lambda group: (-len(group.members), group.members[0]))


@dataclass(frozen=True, slots=True)
class Space:
    """Samples as points whose distance says how differently the causes see them.

    Attributes:
        columns: Weighed ranks, shape ``(rows, columns)``.
        signals: Number of the signal that each column belongs to.
        axes: Principal components, shape ``(columns, components)``.
    """

    columns: Array
    signals: Places
    axes: Array

    @property
    def points(self) -> Array:
        """Shape ``(rows, components)``."""
        return np.asarray(self.columns @ self.axes, dtype=np.float64)

    def permuted(self, rows: Places, rng: np.random.Generator) -> Array:
        """Points of these rows with each signal dealt out anew among them."""
        columns = self.columns[rows]
        for signal in np.unique(self.signals):
            own = np.flatnonzero(self.signals == signal)
            columns[:, own] = columns[np.ix_(rng.permutation(len(rows)), own)]
        return np.asarray(columns @ self.axes, dtype=np.float64)


def signal_space(evidence: pa.Table) -> Space:
    """Put the samples into one space.

    Every number signal is replaced by its rank, so that no unit and no outlier matters; one that is the same
    everywhere is dropped. A missing value lies in the middle, and whether it is missing is a column of its own.
    All signals of a cause together weigh as much as those of any other. Principal components keep what varies most.
    """
    from scipy.stats import rankdata
    from sklearn.decomposition import PCA

    columns: list[Array] = []
    owners: list[str] = []
    signals: list[int] = []
    for number, field in enumerate(evidence.schema):
        if "." not in field.name or not pa.types.is_floating(field.type):
            continue
        values = evidence[field.name].combine_chunks().to_numpy(zero_copy_only=False).astype(np.float64)
        known = np.isfinite(values)
        if known.any() and values[known].min() < values[known].max():
            ranks = np.zeros(len(values))
            ranks[known] = rankdata(values[known]) / known.sum()
            ranks[known] -= ranks[known].mean()
            columns.append(ranks)
            owners.append(cause_of(field.name))
            signals.append(number)
        if known.any() and not known.all():
            columns.append(known - known.mean())
            owners.append(cause_of(field.name))
            signals.append(number)
    if not columns:
        return Space(np.zeros((evidence.num_rows, 0)), np.zeros(0, dtype=np.int64), np.zeros((0, 0)))
    spread = {name: sum(c.var() for c, o in zip(columns, owners, strict=True) if o == name) for name in set(owners)}
    weighed = np.stack([c / np.sqrt(spread[o]) for c, o in zip(columns, owners, strict=True)], axis=1)
    components = min(_DIMENSIONS, *weighed.shape)
    axes = PCA(components, svd_solver="full").fit(weighed).components_.T
    return Space(weighed, np.array(signals, dtype=np.int64), np.asarray(axes, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class _Cluster:
    members: Places
    cohesion: float

    @property
    def size(self) -> int:
        return len(self.members)


def _clusters(points: Array, is_open: Mask) -> list[_Cluster]:
    """Clusters of the open rows that are large enough, and how many of the nearest rows of all kinds are members."""
    from sklearn.cluster import HDBSCAN
    from sklearn.neighbors import NearestNeighbors

    if len(points) <= NEIGHBOURS:
        return []
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(points).kneighbors(return_distance=False)
    # Strays among explained rows would only blur where a crowd ends.
    rows = np.flatnonzero(is_open & (is_open[nearest].mean(axis=1) >= LEAST_COHESION))
    if len(rows) < SMALLEST:
        return []
    finder = HDBSCAN(min_cluster_size=SMALLEST, min_samples=_DENSITY_POINTS, copy=True)
    labels = np.full(len(points), -1)
    labels[rows] = finder.fit_predict(points[rows])
    if labels.max() < 0:
        # Density clustering splits or finds nothing; one crowd is what is left then.
        labels[rows] = 0
    found = []
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        found.append(_Cluster(members, float((labels[nearest[members]] == label).mean())))
    return found


def _with_the_undrawn(points: Array, drawn: Places, is_open: Mask, members: Places) -> Places:
    """The members' rows among all, and the open rows that were not drawn but have mostly members beside them."""
    from sklearn.neighbors import NearestNeighbors

    whole = drawn[members]
    others = np.setdiff1d(np.flatnonzero(is_open), drawn)
    if not len(others):
        return whole
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(drawn))).fit(points[drawn])
    beside = np.isin(nearest.kneighbors(points[others], return_distance=False), members).mean(axis=1)
    return np.sort(np.concatenate([whole, others[beside > 0.5]]))


def _distance(points: Array) -> Array:
    """From the middle of the points, rounded so that equal rows tie."""
    return np.asarray(np.round(np.linalg.norm(points - np.median(points, axis=0), axis=1), 9), dtype=np.float64)
