"""Where vectors lie on a map, by UMAP, and the cells of grids over it."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import WrongSpec, require_module

# Functions of UMAP that Numba compiles in every process, for ten seconds, where nobody asks it to keep what it compiled.
_COMPILED = ("fast_knn_indices", "smooth_knn_dist", "compute_membership_strengths")


def require_umap() -> None:
    """Raises: UnusableModel, where it is not installed."""
    require_module("umap", "an atlas needs the package umap-learn")


Progress = Callable[[int, int], None]

_BAR = {"bar_format": "{n_fmt}/{total_fmt}", "mininterval": 0.5, "disable": False}  # of UMAP, for tqdm


class _Epochs(io.StringIO):
    """The file on which UMAP's bar, by tqdm, writes "12/200": it hands these numbers on, and keeps nothing."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def write(self, text: str) -> int:
        for done, total in re.findall(r"(\d+)/(\d+)", text):
            self._progress(int(done), int(total))
        return len(text)


def lay_out(
    vectors: np.ndarray, neighbours: int, seed: int, where: str = "the layer", progress: Progress = lambda done, total: None
) -> np.ndarray:
    """Vectors on a map of one unit by one: float32 (n, 2), x and y.

    UMAP (McInnes et al. 2018) by the cosine of vectors, from a spectral start, on one thread: the same seed gives the same map
    on one machine.

    Args:
        vectors: float32 (n, channels).
        progress: is called with the epochs that the points have been moved, and how many there will be. Before the first, UMAP
            looks for each vector's neighbours and a start, which takes a good part of the time and has no progress to report.

    Raises: WrongSpec, for fewer vectors than UMAP needs; UnusableModel, without UMAP.
    """
    require_umap()
    check_size(len(vectors), neighbours, where)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads, which a fixed seed excludes, and about start values
        import umap

        keep_compiled(umap.umap_)
        bar = {**_BAR, "file": _Epochs(progress)}
        reducer = umap.UMAP(n_neighbors=neighbours, min_dist=0.1, metric="cosine", random_state=seed, n_jobs=1, tqdm_kwds=bar)
        points = np.asarray(_fitted(reducer, vectors), np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    side = float((high - low).max()) or 1.0
    return ((points - (low + high) / 2) / side + 0.5).clip(0, 1).astype(np.float32)


def keep_compiled(module: Any) -> None:
    """Have Numba keep on disk what it compiles of UMAP, as UMAP asks of other functions; no other process compiles it again."""
    for name in _COMPILED:
        with suppress(AttributeError, RuntimeError):  # another version of UMAP; no folder that may be written
            getattr(module, name).enable_caching()


def _fitted(reducer: Any, vectors: np.ndarray) -> np.ndarray:
    """What UMAP makes of vectors, on a full disk too: what Numba could not keep it has compiled, and goes on from there."""
    for _ in _COMPILED:
        with suppress(OSError):
            return reducer.fit_transform(vectors)
    return reducer.fit_transform(vectors)


def check_size(n: int, neighbours: int, where: str) -> None:
    """Raises: WrongSpec, for a sample of `n` vectors that is too small for UMAP."""
    if n < max(neighbours + 2, 4):
        raise WrongSpec(
            f"an atlas of {where} with atlas.neighbours = {neighbours} needs at least {max(neighbours + 2, 4)} vectors, but the "
            f"sample has {n}. Raise atlas.vectors or atlas.per_image, or lower atlas.neighbours."
        )


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of a grid over a map.

    grid: cells in a row. row, col: of the cell. members: int64: the vectors in it.
    mean: float32 (channels,): their mean. label: their most frequent label, with its share of them; None where they have none.
    """

    grid: int
    row: int
    col: int
    members: np.ndarray
    mean: np.ndarray
    label: str | None
    label_share: float


def cells_of(points: np.ndarray, vectors: np.ndarray, labels: Sequence[str | None], grid: int, least: int) -> list[Cell]:
    """The cells of a grid that hold at least `least` vectors, row by row.

    Args:
        points: float32 (n, 2), as of `lay_out`.
        labels: of the vectors' images.
    """
    cols, rows = (np.minimum((points * grid).astype(np.int64), grid - 1)).T
    numbers = rows * grid + cols
    cells = []
    for number in np.unique(numbers):
        members = np.flatnonzero(numbers == number)
        if len(members) >= least:
            named = Counter(label for label in (labels[int(member)] for member in members) if label is not None)
            label, count = min(named.items(), key=lambda item: (-item[1], item[0])) if named else (None, 0)
            row, col = divmod(int(number), grid)
            cells.append(Cell(grid, row, col, members, vectors[members].mean(axis=0), label, count / len(members)))
    return cells


def striking_channels(vectors: np.ndarray, cells: Sequence[Cell]) -> list[int]:
    """For each cell the channel that is furthest above its mean over all vectors, in standard deviations; the first of equals.

    Args:
        vectors: float32 (n, channels): all of the layer.
    """
    mean, spread = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
    spread = np.where(spread > 0, spread, np.inf)
    return [int(((cell.mean - mean) / spread).argmax()) for cell in cells]
