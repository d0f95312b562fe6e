"""Spectral clustering of the maps of each class (Lapuschkin et al., "Unmasking Clever Hans predictors", 2019).

A network may decide for one class by several strategies: by the animal in most images, by a watermark in the others. Maps of
one strategy resemble each other, so their clusters show the strategies; and a cluster whose evidence lies in the same small
part of every image, away from the middle, is what a watermark, a caption or a border looks like.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.attribution.aggregates.subjects import AggregateSubject, Subjects, at_the_border, order_of
from pipeline.attribution.explainer import Explained
from pipeline.attribution.heat import focus
from pipeline.attribution.plan import MapKey
from pipeline.progress import counted
from pipeline.store.columns import append_row
from pipeline.store.tables import INDEX

_MOST, _FEWEST = 400, 10  # maps of a class that are clustered: those with the lowest digests of their images' keys
_NEIGHBOURS, _MOST_CLUSTERS = 10, 8
_ALIKE = 0.9  # cosine of the mean maps of clusters that are one
_NEAREST = 9  # images of a cluster that are named
_SMALL = 0.1  # of the image's area, in which half of the evidence is suspicious
_AS_NARROW = 1.25  # times the area in which single images have half of theirs: what stands still is no wider on average
_OF_WIDEST = 1 / 3  # of the area of the class's widest cluster


@dataclass(frozen=True, order=True)
class _Kept:
    digest: str
    example: int
    key: str


class MapClusters:
    """Keeps a sample of each class's maps, the same in any order of images, and clusters it."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._maps: dict[tuple[MapKey, AggregateSubject], dict[_Kept, np.ndarray]] = {}

    def add(self, explained: Explained) -> None:
        """Take the maps of a batch."""
        for picked, map_key, subject, cells in self._subjects.grids(explained):
            example = -1 if picked.example is None else picked.example
            digest = hashlib.sha256(f"{example} {picked.image.key}".encode()).hexdigest()
            maps = self._maps.setdefault((map_key, subject), {})
            maps[_Kept(digest, example, picked.image.key)] = cells.astype(np.float32)
            if len(maps) > 2 * _MOST:
                self._maps[map_key, subject] = _sample(maps)

    def columns(self) -> dict[str, list[Any]]:
        """The columns of index/evidence_clusters.parquet: method by method and class by class, the largest cluster first."""
        columns: dict[str, list[Any]] = {field.name: [] for field in INDEX["evidence_clusters"]}
        for (method, layer), subject in sorted(self._maps, key=lambda key: order_of(*key)):
            maps = dict(sorted(_sample(self._maps[(method, layer), subject]).items()))
            if len(maps) < _FEWEST:
                continue
            about = (method, layer, subject.logits, subject.number, subject.target)
            for row in _rows(list(maps), np.stack(list(maps.values()))):
                append_row(columns, (*about, *row))
        return columns


def _sample(maps: dict[_Kept, np.ndarray]) -> dict[_Kept, np.ndarray]:
    return {kept: maps[kept] for kept in heapq.nsmallest(_MOST, maps)}


def _rows(kept: list[_Kept], maps: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """The columns of each cluster that follow those of its class; maps are shares, float32 (images, h, w)."""
    labels, gap = clusters_of(maps)
    sizes = np.bincount(labels)
    means = [maps[labels == label].astype(np.float64).mean(axis=0) for label in range(len(sizes))]
    widest = max(_half_of(mean)[1] for mean in means)
    for number, label in enumerate(np.argsort(-sizes, kind="stable").tolist()):
        members, mean = np.flatnonzero(labels == label), means[label]
        distances = ((maps[members] - mean) ** 2).sum(axis=(1, 2))
        nearest = members[np.argsort(distances, kind="stable")[:_NEAREST]]
        edges, area = _half_of(mean)
        central = _part_of(edges) == "middle middle"
        # An object that moves about has narrow clusters too: but then all are, and most are wider than each of their maps.
        alone = float(np.median([_half_of(member)[1] for member in maps[members]]))
        narrow = area <= _AS_NARROW * alone and (len(sizes) == 1 or area <= _OF_WIDEST * widest)
        suspicious = area <= _SMALL and not central and narrow
        share, _ = at_the_border(mean)
        yield (
            *(number, len(members), len(members) / len(maps), gap, share, list(edges), area, suspicious),
            *([kept[at].key for at in nearest], mean.ravel(), mean.shape),
        )


def _half_of(cells: np.ndarray) -> tuple[tuple[float, float, float, float], float]:
    """The smallest box with half of what a map has above its median, in shares of the image, and its area."""
    height, width = cells.shape
    box = focus(np.maximum(cells - np.median(cells), 0), height, width).box  # what lies everywhere points nowhere
    edges = (box.y1 / height, box.x1 / width, box.y2 / height, box.x2 / width)
    return edges, (edges[2] - edges[0]) * (edges[3] - edges[1])


def clusters_of(maps: np.ndarray) -> tuple[np.ndarray, float]:
    """Spectral clusters of maps, float32 (images, h, w): as many as the largest gap between eigenvalues says, eight at most.

    Returns: the number of each map's cluster, int (images,), and that gap; of one cluster, the second eigenvalue.
    """
    from scipy.sparse.csgraph import laplacian
    from sklearn.cluster import KMeans
    from sklearn.neighbors import kneighbors_graph

    flat = maps.reshape(len(maps), -1).astype(np.float64)
    near = kneighbors_graph(flat, min(_NEIGHBOURS, len(maps) - 1), include_self=True).toarray()
    affinity = np.maximum(near, near.T)
    values, vectors = np.linalg.eigh(laplacian(affinity, normed=True))
    gaps = np.diff(values[: _MOST_CLUSTERS + 1])
    count = int(gaps.argmax()) + 1
    if count == 1:
        return np.zeros(len(maps), int), float(gaps[0])
    leading = vectors[:, :count]
    lengths = np.linalg.norm(leading, axis=1, keepdims=True)  # rows of unit length: Ng, Jordan and Weiss, 2001
    labels = KMeans(count, n_init=10, random_state=0).fit_predict(leading / np.maximum(lengths, 1e-12))
    return _joined(labels, flat), float(gaps[count - 1])


def _joined(labels: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """The labels with those clusters as one whose mean maps look alike: neighbours among equals part by chance."""
    from scipy.sparse.csgraph import connected_components

    means = np.stack([flat[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    _, components = connected_components(unit @ unit.T >= _ALIKE, directed=False)
    return np.asarray(components[labels])


def suspicions(columns: dict[str, list[Any]]) -> list[str]:
    """A sentence for each small part of the image, away from the middle, in which the evidence of suspicious clusters lies."""
    names = ("method", "layer", "target", "images", "share", "box", "area", "suspicious")
    clusters: dict[tuple[str, str | None, str, str], list[tuple[int, float, float]]] = {}
    for method, layer, target, images, share, box, area, suspicious in zip(*(columns[name] for name in names), strict=True):
        if suspicious:
            clusters.setdefault((target, layer, method, _part_of(box)), []).append((images, share, area))
    lines = []
    for (target, layer, method, part), rows in clusters.items():
        images, share = sum(cluster[0] for cluster in rows), sum(cluster[1] for cluster in rows)
        area = max(cluster[2] for cluster in rows)
        lines.append(
            f"{target}: in {counted(images, 'image')} ({share:.0%}) half of the evidence lies in the same {area:.0%} of the "
            f"image, at the {part} ({method}{f' at {layer}' if layer else ''}). Look whether something stands there that is "
            "not the object, such as a watermark."
        )
    return lines


def _part_of(box: Sequence[float]) -> str:
    """In which ninth of the image the middle of a box lies, in words."""
    y1, x1, y2, x2 = box
    down, across = _third((y1 + y2) / 2, ("top", "middle", "bottom")), _third((x1 + x2) / 2, ("left", "middle", "right"))
    return f"{down} {across}"


def _third(position: float, names: tuple[str, str, str]) -> str:
    return names[min(2, int(position * 3))]
