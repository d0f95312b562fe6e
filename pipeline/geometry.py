"""Box: a rectangle of pixels, as all packages use it; and how a line of cells is read between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import SupportsInt

import numpy as np

EDGES = ("y1", "x1", "y2", "x2")  # the order of a box in arrays, and the names of its columns in tables


@dataclass(frozen=True)
class Box:
    """A half-open rectangle of pixels: rows y1 up to, not including, y2; columns x1 up to, not including, x2.

    Its user says whether they are pixels of the network's input, of the source image or of a picture. recfield and the
    heaps keep many boxes in one int32 array (…, 4), in the order of EDGES; `Box.of` and `edges` convert.
    """

    y1: int
    x1: int
    y2: int
    x2: int

    @classmethod
    def of(cls, edges: Iterable[SupportsInt]) -> Box:
        """The box whose edges are given as an array (4,), a tuple or a list, in the order of EDGES."""
        y1, x1, y2, x2 = edges.tolist() if isinstance(edges, np.ndarray) else edges
        return cls(int(y1), int(x1), int(y2), int(x2))

    @classmethod
    def whole(cls, height: int, width: int) -> Box:
        """All of an image of this size."""
        return cls(0, 0, height, width)

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """y1, x1, y2, x2."""
        return self.y1, self.x1, self.y2, self.x2

    @property
    def height(self) -> int:
        return self.y2 - self.y1

    @property
    def width(self) -> int:
        return self.x2 - self.x1

    @property
    def is_empty(self) -> bool:
        """Whether no pixel lies inside."""
        return self.y2 <= self.y1 or self.x2 <= self.x1

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """The pixels inside: a view of an array (height, width, …)."""
        return pixels[self.y1 : self.y2, self.x1 : self.x2]

    def shifted(self, down: int, right: int) -> Box:
        """The box, moved by so many pixels."""
        return Box(self.y1 + down, self.x1 + right, self.y2 + down, self.x2 + right)

    def columns(self, prefix: str = "") -> dict[str, int]:
        """The edges by the names of their columns: {"PREFIXy1": …, …}."""
        return {f"{prefix}{name}": edge for name, edge in zip(EDGES, self.edges, strict=True)}


def grown(boxes: np.ndarray, least: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Boxes, at least so high and wide, in an image of that size: moved into it where they would reach over an edge.

    Args:
        boxes: int (n, 4), in the order of EDGES. least: int (n, 2) or (2,): heights and widths. size: the image's.

    Returns: int (n, 4).
    """
    first, last = boxes[:, :2], boxes[:, 2:]
    length = np.minimum(np.maximum(last - first, least), size)
    low = np.clip((first + last - length) // 2, 0, np.asarray(size) - length)
    return np.concatenate([low, low + length], axis=1)


def interpolation(positions: np.ndarray, cells: int) -> np.ndarray:
    """The matrix that reads a line of cells at positions between their centres, linearly; beyond the ends nothing changes.

    Args:
        positions: float (n,): 0 is the centre of the first cell, 1 that of the second.

    Returns: float32 (n, cells).
    """
    clipped = np.clip(positions, 0, cells - 1)
    return np.maximum(1 - abs(clipped[:, np.newaxis] - np.arange(cells)), 0).astype(np.float32)
