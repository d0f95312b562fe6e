"""The pictures of winners: how they are made, and where what was made lies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np

from pipeline.patches.winners import FindsMapRegions, Winners
from pipeline.sources.fit import Fit
from pipeline.store.spool import Spool

SIDE = 72  # pixels of a patch's longer side in mosaics and on the page
WHOLE_SIDE = 64  # pixels of a whole image's longer side in mosaics


@dataclass(frozen=True)
class PatchOptions:
    """How winners are cropped and drawn.

    fit: how the source's images are resized to the network's input.
    whole: crop the whole image that the network was shown instead of the field.
    crop_size: pixels of a crop's longer side; larger ones are shrunk.
    maps: finds regions in the layers that are cropped to them.
    network, data: as the mosaics' headings name them; images: how many were scanned.
    named: whether rows of mosaics have room for names, which the stage `concepts` writes into them.
    step: opens a step whose progress is reported: its title and the unit that it counts.
    save_every: seconds between two saves of what is done.
    """

    fit: Fit
    whole: bool = False
    crop_size: int = 128
    maps: FindsMapRegions | None = None
    network: str = ""
    data: str = ""
    images: int = 0
    named: bool = False
    step: Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]] = lambda title, unit: nullcontext(_silent)
    save_every: float = 60.0


def _silent(done: int, total: int) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class SourceImage:
    """A source image that has a winner.

    seen: float (4,): the network's input, y1, x1, y2, x2 in pixels of the source; it may reach over the image's edges.
    thumbnail, tile: where its thumbnail (begin, length) and the pixels of its tile (begin) are in the spool.
    """

    key: str
    label: str | None
    height: int
    width: int
    seen: tuple[float, float, float, float]
    thumbnail: tuple[int, int]
    tile: int


@dataclass(frozen=True, eq=False)
class LayerPictures:
    """The crops, tiles and regions of one layer's winners; arrays (channels, k, …), as `Winners` has them.

    source, effective, effective_source, region, region_source: int32 (channels, k, 4): boxes, 0 where there is none;
        those of the source in its pixels, the others in pixels of the input.
    crops: int64 (channels, k, 2): begin and length of the encoded crop in the spool; tiles: int64 (channels, k): begin of
        the tile's pixels; maps: int64 (channels, k): begin of the channel's map, -1 where it has none.
    tile, map_size: height and width of its tiles and maps.
    """

    source: np.ndarray
    effective: np.ndarray
    effective_source: np.ndarray
    region: np.ndarray
    region_source: np.ndarray
    crops: np.ndarray
    tiles: np.ndarray
    maps: np.ndarray
    tile: tuple[int, int]
    map_size: list[int] = field(default_factory=list)

    @classmethod
    def empty(cls, layer: Winners, tile: tuple[int, int]) -> LayerPictures:
        """For a layer's winners, before the pass."""
        shape = layer.examples.shape
        source, effective, effective_source, region, region_source = np.zeros((5, *shape, 4), np.int32)
        tiles, maps = np.full((2, *shape), -1, np.int64)
        crops = np.full((*shape, 2), -1, np.int64)
        return cls(source, effective, effective_source, region, region_source, crops, tiles, maps, tile)


@dataclass(frozen=True, eq=False)
class WinnerPictures:
    """The pictures of all winners, in a spool, and what was read beside them; `layers` are in the order of the winners."""

    spool: Spool
    layers: list[LayerPictures]
    images: dict[int, SourceImage] = field(default_factory=dict)


def tile_of(layer: Winners, options: PatchOptions) -> tuple[int, int]:
    """The size of a layer's tiles: of its field's shape or, where crops differ in shape, of the input's."""
    height, width = (int(side) for side in layer.extents.max(axis=0))
    regions = options.maps is not None and layer.layer in options.maps.layers
    longest = max(height, width)
    scale = SIDE // max(longest, 1) if longest <= SIDE // 3 else SIDE / longest  # small patches grow by a whole number
    if options.whole or regions or layer.effective is not None or not layer.extents.all():
        height, width = options.fit.height, options.fit.width
        scale = SIDE / max(height, width)
    return max(8, round(height * scale)), max(8, round(width * scale))
