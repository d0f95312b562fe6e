"""Kernels as pictures: a colour tile for each filter of the first convolution, elsewhere a row of tiles, one for each input.

Of a kernel of 1 x 1, which would be a field of grey squares, each filter shows its strongest inputs by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.drawing.contact_sheet import Scale, body_corner, contact_sheet
from pipeline.drawing.palettes import MARK, ground, palette
from pipeline.drawing.text import Note
from pipeline.models.network import Kernel

Order = Literal["norm", "channel"]

_SIDE = 1400  # pixels of a picture's longer side by default
_MOST_SIDE = 8000  # and at most, even if the spec asks for more
_TILE = 48  # pixels of a large tile's longer side
_LEAST_TILE = 18
_WEIGHT = (16, 9)  # pixels of a weight in a kernel of 1 x 1: large, and at the least
_READABLE = 16  # inputs of a kernel of 1 x 1 up to which a row of squares can be read
_STRONGEST = 5  # inputs of a filter, where there are more
_BAR = (7, 44)  # height and width, in pixels, of the bar that is an input's weight
_BEYOND = 0.001  # the share of the weights that may lie beyond the scale: one outlier would leave all others grey
_GAP = 2
_NUMBERS = 13  # pixels of a line of numbers


@dataclass(frozen=True, eq=False)
class Limits:
    """The order, and the largest numbers of filters and inputs to draw; None: as many as fit."""

    sort: Order = "norm"
    filters: int | None = None
    inputs: int | None = None


@dataclass(frozen=True, eq=False)
class KernelSheet:
    """A picture, uint8 RGB, and where on it each filter is: int32 (filters, 4), y1, x1, y2, x2; zeros where it is not."""

    picture: np.ndarray
    boxes: np.ndarray

    @property
    def filters(self) -> np.ndarray:
        """Which filters are on the picture: bool (filters,)."""
        return np.asarray(self.boxes.any(axis=1))


@dataclass(frozen=True, eq=False)
class _Body:
    """A sheet without its heading: uint8 RGB (h, w, 3), the notes and the filters' boxes on it, and its legend."""

    pixels: np.ndarray
    notes: list[Note]
    boxes: np.ndarray
    legend: str


def draw_kernel(
    name: str, kernel: Kernel, limits: Limits, colours: Sequence[int] | None = None, inputs_of: str | None = None
) -> KernelSheet:
    """Draw a kernel on one scale, symmetric about zero.

    Args:
        colours: where the inputs are the image's own colours: for red, green and blue, the number of its input.
        inputs_of: the layer whose channels the inputs are, where there is one.
    """
    largest = _scale_end(kernel.weights)
    filters = _order(kernel.weights, 3, limits.sort)
    if colours is not None or kernel.inputs == 1:
        tiles = kernel.weights if colours is None else kernel.weights[:, :, list(colours)]
        body = _tiles(_grey(tiles, largest), filters, limits)
    elif kernel.weights.shape[:2] == (1, 1) and kernel.inputs > _READABLE and limits.inputs is None:
        body = _strongest(kernel, largest, filters, limits, inputs_of)
    else:
        # In a grouped convolution, a column is one input of every group, and these have no common norm.
        inputs = _order(kernel.weights, 2, limits.sort if kernel.groups == 1 else "channel")
        body = _matrix(_grey(kernel.weights, largest), filters, inputs, limits, kernel.groups)
    meaning = (
        "White is positive, black negative, grey zero."
        if colours is None
        else "Red, green and blue are what the filter weighs them with; grey is zero."
    )
    beyond = float((np.abs(kernel.weights) > largest).mean())
    if beyond:
        meaning += f" {beyond:.2%} of the weights lie beyond the scale."
    if not np.isfinite(kernel.weights).all():
        meaning += " Weights that are no numbers are amber."
    scale = Scale(palette("grey"), f"{-largest:.3g}", f"{largest:.3g}")
    picture = contact_sheet([_title(name, kernel), body.legend, meaning], body.pixels, body.notes, scale)
    top, left = body_corner(body.pixels, picture)
    boxes = body.boxes
    return KernelSheet(picture, np.where(boxes.any(axis=1, keepdims=True), boxes + np.array([top, left, top, left], np.int32), 0))


def kind_of(kernel: Kernel) -> str:
    """The kind of convolution a kernel belongs to."""
    if kernel.transposed:
        return "transposed"
    if kernel.groups > 1:
        return "depthwise" if kernel.inputs == 1 else "grouped"
    return "pointwise" if kernel.weights.shape[:2] == (1, 1) else "standard"


def _title(name: str, kernel: Kernel) -> str:
    height, width, inputs, filters = kernel.weights.shape
    all_inputs = inputs * kernel.groups
    grouped = f" in {kernel.groups:,} groups" if kernel.groups > 1 and inputs > 1 else ""
    return f"{name}: {kind_of(kernel)} kernel, {height} x {width}, {all_inputs:,} inputs{grouped}, {filters:,} filters"


def _scale_end(weights: np.ndarray) -> float:
    finite = np.abs(weights[np.isfinite(weights)])
    end = float(np.quantile(finite, 1 - _BEYOND, method="higher")) if finite.size else 0.0
    return end or float(finite.max(initial=0.0)) or 1.0


def _order(weights: np.ndarray, axis: int, sort: Order) -> np.ndarray:
    """The filters (axis 3) or inputs (axis 2) in the order in which they are drawn."""
    if sort == "channel":
        return np.arange(weights.shape[axis])
    others = tuple(other for other in range(4) if other != axis)
    return np.argsort(-np.square(weights, dtype=np.float64).sum(axis=others), kind="stable")


def _grey(weights: np.ndarray, largest: float) -> np.ndarray:
    """Weights as grey: uint8, 128 for zero, and 1 and 255 for the ends of the scale; 0 for what is no number."""
    scaled = np.clip(np.nan_to_num(weights / largest, nan=0.0), -1, 1)
    return np.where(np.isfinite(weights), np.rint(128 + 127 * scaled), 0).astype(np.uint8)


def _tiles(grey: np.ndarray, filters: np.ndarray, limits: Limits) -> _Body:
    """A tile a filter, its number above it. `grey`: (height, width, 1 or 3, filters)."""
    height, width = grey.shape[:2]
    digits = 8 * len(str(len(filters) - 1)) + 2

    def cell(pixels: int) -> tuple[int, int]:
        return height * pixels + _NUMBERS + 2 * _GAP, max(width * pixels, digits) + 2 * _GAP

    def capacity(pixels: int, side: int) -> int:
        return (side // cell(pixels)[0]) * (side // cell(pixels)[1])

    most = min(len(filters), limits.filters or len(filters))
    sizes = _sizes(height, width)
    pixels = next((size for size in sizes if capacity(size, _SIDE) >= most), sizes[-1])
    side = _MOST_SIDE if limits.filters else _SIDE
    high, wide = cell(pixels)
    most = max(1, min(most, capacity(pixels, side)))
    columns = int(np.clip(round((1.5 * most * high / wide) ** 0.5), 1, max(1, side // wide)))
    boxes = np.zeros((len(filters), 4), np.int32)
    body = ground(-(-most // columns) * high, columns * wide)
    notes = []
    for number, filter in enumerate(filters[:most]):
        y, x = number // columns * high, number % columns * wide
        tile = _enlarged(grey[..., filter], pixels)
        body[y + _NUMBERS : y + _NUMBERS + tile.shape[0], x : x + tile.shape[1]] = tile
        boxes[filter] = (y + _NUMBERS, x, y + _NUMBERS + tile.shape[0], x + tile.shape[1])
        notes.append(Note(y + _NUMBERS - 1, x, str(filter), "lb"))
    every = "Every filter" if most == len(filters) else f"{most:,} of {len(filters):,} filters"
    return _Body(body, notes, boxes, f"{every}, {_first(limits.sort)} first; its number is above it.")


def _matrix(grey: np.ndarray, filters: np.ndarray, inputs: np.ndarray, limits: Limits, groups: int) -> _Body:
    """A row of tiles a filter, a column an input. `grey`: (height, width, inputs, filters)."""
    height, width = grey.shape[:2]
    gap = _GAP if (height, width) != (1, 1) else 0
    left, top = 8 * len(str(len(filters) - 1)) + 6, 8 * len(str(len(inputs) - 1)) + 6
    most = (min(len(filters), limits.filters or len(filters)), min(len(inputs), limits.inputs or len(inputs)))

    sizes = _sizes(height, width)
    fits = (size for size in sizes if most[0] * (height * size + gap) <= _SIDE and most[1] * (width * size + gap) <= _SIDE)
    pixels = next(fits, sizes[-1])
    high, wide = height * pixels + gap, width * pixels + gap
    rows = max(1, min(most[0], (_MOST_SIDE if limits.filters else _SIDE) // high))
    columns = max(1, min(most[1], (_MOST_SIDE if limits.inputs else _SIDE) // wide))
    body = ground(top + rows * high, left + columns * wide)
    boxes = np.zeros((len(filters), 4), np.int32)
    size = min(11, max(8, high))
    middles = left + wide * np.arange(columns) + (wide - gap) // 2
    notes = [
        Note(top - 3, int(x), str(number), "mb", size, upright=False) for x, number in zip(middles, inputs[:columns], strict=True)
    ]
    for row, filter in enumerate(filters[:rows]):
        y = top + row * high
        boxes[filter] = (y, left, y + height * pixels, left + columns * wide - gap)
        notes.append(Note(y + (high - gap) // 2, left - 4, str(filter), "rm", size))
        for column, number in enumerate(inputs[:columns]):
            x = left + column * wide
            body[y : y + height * pixels, x : x + width * pixels] = _enlarged(grey[:, :, number : number + 1, filter], pixels)
    legend = f"A row is a filter: {_part(rows, len(filters))}, {_first(limits.sort)} first. A column is an input"
    legend += f": {_part(columns, len(inputs))}" + (
        " of the filter's group." if groups > 1 else f", {_first(limits.sort)} first."
    )
    return _Body(body, notes, boxes, legend)


def _strongest(kernel: Kernel, largest: float, filters: np.ndarray, limits: Limits, inputs_of: str | None) -> _Body:
    """A row a filter: the numbers of its strongest inputs, each above its weight as a bar."""
    weights = kernel.weights[0, 0]
    order = np.argsort(-np.abs(np.nan_to_num(weights, nan=np.inf)), axis=0, kind="stable")[:_STRONGEST]
    (bar, wide), step = _BAR, _BAR[1] + 3 * _GAP
    left, high = 8 * len(str(len(filters) - 1)) + 6, _NUMBERS + bar + 3 * _GAP
    cell = left + _STRONGEST * step + 4 * _GAP
    side = _MOST_SIDE if limits.filters else _SIDE
    most = max(1, min(limits.filters or len(filters), len(filters), (side // high) * max(1, side // cell)))
    columns = int(np.clip(round((most * high / cell) ** 0.5), -(-most // (side // high)), max(1, side // cell)))
    rows = -(-most // columns)
    body = ground(rows * high, columns * cell)
    boxes, notes = np.zeros((len(filters), 4), np.int32), []
    for number, filter in enumerate(filters[:most]):
        y, x = number % rows * high, number // rows * cell + left
        notes.append(Note(y + _NUMBERS + bar // 2, x - 4, str(filter), "rm"))
        boxes[filter] = y, x, y + _NUMBERS + bar, x + (_STRONGEST - 1) * step + wide
        for at, input in enumerate(order[:, filter]):
            first = x + at * step
            notes.append(Note(y + _NUMBERS - 1, first + wide // 2, str(kernel.first_input(filter) + int(input)), "mb"))
            body[y + _NUMBERS : y + _NUMBERS + bar, first : first + wide] = _bar(float(weights[input, filter]) / largest, wide)
    owner = f" among the channels of {inputs_of}" if inputs_of else ""
    legend = (
        f"{_part(most, len(filters)).capitalize()} filters, {_first(limits.sort)} first, each with its {_STRONGEST} strongest "
    )
    return _Body(body, notes, boxes, f"{legend}inputs: their numbers{owner}, and their weights as bars.")


def _bar(share: float, wide: int) -> np.ndarray:
    """A weight as a line of a bar, uint8 (wide, 3): white to the right of the middle, or black to the left, on grey."""
    if not np.isfinite(share):
        return np.tile(np.array(MARK, np.uint8), (wide, 1))
    line, middle = np.full((wide, 3), 128, np.uint8), wide // 2
    length = max(1, round(min(abs(share), 1) * middle))
    line[middle : middle + length] = 255 if share > 0 else 128
    line[middle - length : middle] = 0 if share < 0 else 128
    return line


def _part(drawn: int, count: int) -> str:
    return f"all {count:,}" if drawn == count else f"{drawn:,} of {count:,}"


def _first(sort: Order) -> str:
    return "the largest norm" if sort == "norm" else "the lowest number"


def _sizes(height: int, width: int) -> list[int]:
    """The pixels that a weight may be drawn with, the largest first."""
    longer = max(height, width)
    large, least = _WEIGHT if longer == 1 else (max(1, _TILE // longer), max(1, -(-_LEAST_TILE // longer)))
    return list(range(max(large, least), least - 1, -1))


def _enlarged(grey: np.ndarray, pixels: int) -> np.ndarray:
    """(h, w, 1 or 3) to RGB, each weight a square; what is no number is marked."""
    colour = np.where(
        (grey == 0).any(axis=2, keepdims=True), np.array(MARK, np.uint8), np.broadcast_to(grey, (*grey.shape[:2], 3))
    )
    return colour.repeat(pixels, axis=0).repeat(pixels, axis=1)
