"""Winners: the strongest responses of a layer's channels, and what each of them sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.geometry import Box
from pipeline.sources.fit import Fit


class FindsEffectiveFields(Protocol):
    """Finds the effective fields of a layer's units."""

    def boxes(self, images: np.ndarray, units: np.ndarray) -> np.ndarray:
        """uint8 (n, height, width, 3), fitted; int (n, 3): row, col, channel -> int32 (n, 4); 0, 0, 0, 0 where there is none."""


@dataclass(frozen=True, eq=False)
class Winners:
    """The strongest responses of one layer's channels, and what each of them sees.

    channels: int (channels,): their numbers.
    scores, examples, rows, cols: (channels, k), strongest first; example -1 where there are fewer than k.
    boxes: int32 (channels, k, 4): y1, x1, y2, x2 in pixels of the network's input, clipped to it.
    extents: int32 (channels, 2): height and width of each channel's field where nothing clips it.
    effective: where winners are cropped to their effective fields instead of their boxes.
    table: of the index, where they are listed; those of "activations" alone are cropped and drawn.
    """

    layer: str
    channels: np.ndarray
    scores: np.ndarray
    examples: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    boxes: np.ndarray
    extents: np.ndarray
    effective: FindsEffectiveFields | None = None
    table: str = "activations"

    def ranks(self, c: int) -> range:
        """The ranks of the `c`-th channel that a winner holds."""
        return range(int((self.examples[c] >= 0).sum()))

    def places(self) -> Iterator[tuple[int, int]]:
        """All winners, as (position of the channel, rank)."""
        return ((c, rank) for c in range(len(self.channels)) for rank in self.ranks(c))

    def seen(self, c: int, rank: int, fit: Fit) -> Box:
        """A winner's box; the whole input for a unit that sees nothing."""
        box = Box.of(self.boxes[c, rank])
        return Box.whole(fit.height, fit.width) if box.is_empty else box


def top_label(labels: Sequence[str | None]) -> tuple[str | None, float | None]:
    """The most frequent label of a channel's winners, the first in the alphabet among equals, and its share."""
    counts = Counter(label for label in labels if label is not None)
    if not counts:
        return None, None
    label, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return label, count / len(labels)
