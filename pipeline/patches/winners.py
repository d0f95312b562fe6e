"""Winners: the strongest responses of a layer's channels, and what each of them sees."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recfield import ReceptiveField


class FindsEffectiveFields(Protocol):
    """Finds the effective fields of a layer's units."""

    def boxes(self, images: np.ndarray, units: np.ndarray) -> np.ndarray:
        """uint8 (n, height, width, 3), fitted; int (n, 3): row, col, channel -> int32 (n, 4); 0, 0, 0, 0 where there is none."""


class FindsMapRegions(Protocol):
    """Finds, for some layers, the parts of images where the winners' channels respond."""

    @property
    def layers(self) -> Collection[str]:
        """The names of those layers."""

    def find(self, images: np.ndarray, units: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """uint8 (n, height, width, 3), fitted; by layer, int (m, 4): the image's number, row, col, channel.

        Returns: by layer, boxes int32 (m, 4) in pixels of the input, and maps uint8 (m, h, w) that lie evenly on the input.
        """

    def of_shares(self, layer: str, shares: np.ndarray, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for units, int (m,) each, whose maps are known: uint8 (m, cells), shares of their responses."""


@dataclass(frozen=True, eq=False)
class Winners:
    """The strongest responses of one layer's channels, and what each of them sees.

    channels: int (channels,): their numbers.
    scores, examples, rows, cols: (channels, k), strongest first; example -1 where there are fewer than k, and throughout for a
        channel that never fires.
    boxes: int32 (channels, k, 4): y1, x1, y2, x2 in pixels of the network's input, clipped to it.
    extents: int32 (channels, 2): height and width of each channel's field where nothing clips it.
    effective: where winners are cropped to their effective fields instead of their boxes.
    table: of the index, where they are listed; those of "activations" alone are cropped and drawn.
    unclipped: float32 (channels, k): what the scores were before an upper clamp; NaN, or no array, where there is none.
    inactive: bool (channels,): the channels that never fire; None: none of them is known to.
    maps: uint8 (channels, k, cells): the channels' maps as shares of the responses; None where the scan has kept none.
    ties: int (channels,): how many images that are not among a channel's winners respond as strongly as its last; None where
        that is not known.
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
    unclipped: np.ndarray | None = None
    inactive: np.ndarray | None = None
    ties: np.ndarray | None = None
    maps: np.ndarray | None = None

    def ranks(self, c: int) -> range:
        """The ranks of the `c`-th channel that a winner holds."""
        return range(int((self.examples[c] >= 0).sum()))

    @property
    def filled(self) -> np.ndarray:
        """bool (channels, k): which places a winner holds."""
        return self.examples >= 0


class Ranked(Protocol):
    """The strongest responses of some channels, (channels, k) each, as a heap holds them."""

    @property
    def scores(self) -> np.ndarray: ...
    @property
    def examples(self) -> np.ndarray: ...
    @property
    def rows(self) -> np.ndarray: ...
    @property
    def cols(self) -> np.ndarray: ...
    @property
    def unclipped(self) -> np.ndarray: ...
    @property
    def maps(self) -> np.ndarray: ...


def winners_of(layer: str, channels: np.ndarray, heap: Ranked, field: ReceptiveField, own_boxes: bool) -> Winners:
    """The winners of a layer's channels with their boxes.

    Args:
        channels: int (channels,): the number of each channel of the heap.
        own_boxes: whether each channel gets the boxes of its own field instead of the layer's.
    """
    rows, cols = np.maximum(heap.rows, 0), np.maximum(heap.cols, 0)
    boxes = field.boxes[rows, cols]
    extents = np.tile(np.array(field.size, np.int32), (len(channels), 1))
    if own_boxes:
        for c, channel in enumerate(channels):
            channel_boxes = field.channel_boxes(int(channel))
            boxes[c] = channel_boxes[rows[c], cols[c]]
            extents[c] = (channel_boxes[..., 2:] - channel_boxes[..., :2]).max(axis=(0, 1))
    columns = heap.scores, heap.examples, heap.rows, heap.cols, boxes, extents
    maps = heap.maps if heap.maps.shape[2] else None
    return Winners(layer, channels, *columns, unclipped=heap.unclipped, maps=maps)
