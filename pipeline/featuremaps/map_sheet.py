"""The picture of one image's maps of one layer: a tile for each channel, below a heading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.drawing.boxes import cross_out
from pipeline.drawing.contact_sheet import Scale, contact_sheet
from pipeline.drawing.palettes import FRAME, LETTERS, MARK, Palette, coloured, ground, palette
from pipeline.drawing.pixels import resize
from pipeline.drawing.text import strip
from pipeline.featuremaps.statistics import MapStatistics

_SIDE = 1600  # pixels of a picture's longer side, roughly
_TILE = 112  # pixels of a large tile's longer side
_LEAST_TILE = 24
_GAP = 4
_NUMBERS, _NUMBER = 14, 11  # pixels of a line of numbers, and of their letters
_MOST_VALUES = 1_000_000  # that are coloured at a time


@dataclass(frozen=True)
class MapStyle:
    """How maps are drawn.

    shared: one scale for all maps, instead of one for each; maps of a single unit always share one.
    channels: the largest number to draw.
    """

    colours: Palette = "viridis"
    shared: bool = False
    channels: int = 4096


def draw_maps(maps: np.ndarray, lines: Sequence[str], image: np.ndarray, style: MapStyle) -> np.ndarray:
    """One image's maps of one layer as one picture: uint8 RGB.

    Args:
        maps: float32 (h, w, channels).
        lines: the first lines of the heading.
        image: uint8 (h, w, 3), drawn small in the corner.
    """
    height, width, channels = maps.shape
    count = min(style.channels, channels)
    statistics = MapStatistics.of(maps[..., :count])
    shared = style.shared or (height, width) == (1, 1)  # a single value has no scale of its own
    tile_height, tile_width, size = _tile_size(height, width, count)
    low, high = np.nan_to_num(statistics.low), np.nan_to_num(statistics.high)
    if shared:
        low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
    cell_height, cell_width = tile_height + _NUMBERS + _GAP, max(tile_width, 8 * len(str(count - 1)) + 2) + _GAP
    columns = int(np.clip(round((1.3 * count * cell_height / cell_width) ** 0.5), 1, count))
    tiles = _tiles(maps[..., :count], low, high, (tile_height, tile_width), style.colours)
    for channel in np.flatnonzero(statistics.dead).tolist():
        cross_out(tiles[channel])
    body = _placed(tiles, (cell_height, cell_width), columns)
    for channel in range(count):
        y, x = channel // columns * cell_height, channel % columns * cell_width + 1
        number = strip(str(channel), _NUMBER, MARK if statistics.dead[channel] else LETTERS, "head")
        body[y : y + _NUMBERS - 1, x : x + number.shape[1]] = number[: _NUMBERS - 1]
    heading = "Every channel" if count == channels else f"The first {count:,} of {channels:,} channels"
    lines = [*lines, f"{heading}{size}; {'one scale for all' if shared else 'each map has a scale of its own'}."]
    if statistics.dead.any():
        lines.append(f"{int(statistics.dead.sum()):,} dead maps, the same everywhere, are crossed out.")
    if statistics.nans.any():
        lines.append("Values that are no numbers are amber.")
    ends = (f"{low[0]:.3g}", f"{high[0]:.3g}") if shared else ("a map's least", "its greatest value")
    return contact_sheet(lines, body, [], Scale(palette(style.colours), *ends), image)


def _tile_size(height: int, width: int, count: int) -> tuple[int, int, str]:
    """Height and width of a map's tile, so that so many fill one picture, and how the head names its size."""
    longer = max(height, width)
    if longer == 1:
        return _LEAST_TILE, _LEAST_TILE, ""
    side = next((side for side in range(_TILE, _LEAST_TILE, -4) if count * (side + _NUMBERS) * side <= _SIDE**2), _LEAST_TILE)
    if longer <= side:
        times = side // longer
        return height * times, width * times, "" if times == 1 else f", at {times} times its size"
    part = -(-longer // side)
    return max(1, height // part), max(1, width // part), f", at 1/{part} of its size"


def _tiles(maps: np.ndarray, low: np.ndarray, high: np.ndarray, size: tuple[int, int], name: Palette) -> np.ndarray:
    """Each map in colours and in the size of its tile: uint8 (channels, height, width, 3).

    What grows stays made of squares: a smoothed map would look finer than it is.
    """
    (height, width), several = size, max(1, _MOST_VALUES // (maps.shape[0] * maps.shape[1]))
    tiles = np.empty((maps.shape[2], height, width, 3), np.uint8)
    for start in range(0, maps.shape[2], several):
        part = slice(start, start + several)
        small = _coloured(np.moveaxis(maps[..., part], 2, 0), low[part], high[part], name)
        if height < small.shape[1] or width < small.shape[2]:
            for tile, large in zip(tiles[part], small, strict=True):
                tile[:] = resize(large, height, width)
        else:
            # One above the other, as one picture: OpenCV is ten times as fast as NumPy's repeat.
            column = small.reshape(-1, small.shape[2], 3)
            cv2.resize(
                column, (width, len(small) * height), tiles[part].reshape(-1, width, 3), interpolation=cv2.INTER_NEAREST_EXACT
            )
    return tiles


def _placed(tiles: np.ndarray, cell: tuple[int, int], columns: int) -> np.ndarray:
    """The tiles in rows of so many, each in a frame, below room for its number: uint8 RGB."""
    count, height, width, _ = tiles.shape
    rows = -(-count // columns)
    body = ground(rows * cell[0], columns * cell[1])
    cells = body.reshape(rows, cell[0], columns, cell[1], 3)[:, _NUMBERS - 1 : _NUMBERS + height + 1, :, : width + 2]
    full = count // columns * columns
    for there, some in ((cells[: count // columns], tiles[:full]), (cells[count // columns :, :, : count - full], tiles[full:])):
        if len(some):
            there[:, [0, -1]] = there[..., [0, -1], :] = FRAME
            there[:, 1:-1, :, 1:-1] = some.reshape(len(there), -1, height, width, 3).swapaxes(1, 2)
    return body


def _coloured(maps: np.ndarray, low: np.ndarray, high: np.ndarray, name: Palette) -> np.ndarray:
    """Maps (count, h, w), each with its own least and greatest value, in colours: uint8 (count, h, w, 3)."""
    least, span = (ends[:, np.newaxis, np.newaxis].astype(np.float64) for ends in (low, high))
    span = span - least
    finite = np.isfinite(maps)
    whole = bool(finite.all())
    colours = coloured(((maps if whole else np.where(finite, maps, least)) - least) / np.where(span, span, 1), name)
    return colours if whole else np.where(finite[..., np.newaxis], colours, np.array(MARK, np.uint8))
