"""A picture of a layer's field: the boxes of two units, and how much of the gradient lies where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.drawing import mosaic
from pipeline.fields.survey import Surveyed
from pipeline.geometry import Box

_PANEL = 400  # pixels of a panel's longer side
_MARGIN, _LINE = 20, 26
_WHITE, _CYAN = (245, 245, 245), (0, 225, 255)
_MOST = 0.75  # of the input's height and width that a box may have to be shown enlarged
_DASH = 6
_TEXT = 52  # pixels from a mark's left end to the text beside it


def draw(found: Surveyed) -> np.ndarray:
    """One layer's picture: uint8 RGB.

    On the left the whole input, on the right the central unit's box alone, enlarged, unless it is nearly the whole input.
    The heat map shows the root of the mean energy, from nothing to its maximum.
    """
    height, width = found.energy.shape
    box, corner = Box.of(found.field.boxes[found.unit]), Box.of(found.field.boxes[0, 0])
    heat = np.sqrt(found.energy)
    heat = heat / heat.max() if heat.any() else heat
    panels = [_Panel.of(Box.whole(height, width), heat)]
    if 0 < box.height < _MOST * height and box.width < _MOST * width:
        panels.append(_Panel.of(box, heat))
    panels[0].outline(corner, _CYAN)
    panels[0].outline(box, _WHITE)
    if found.effective:
        panels[-1].outline(found.effective, _WHITE, dashed=True)
    lines = _legend(found, box, corner)
    texts = [_length(found.layer.name, 0.7), _length(_measures(found), 0.5), *(_TEXT + _length(text, 0.5) for _, text in lines)]
    wide = max(_MARGIN + sum(panel.pixels.shape[1] + _MARGIN for panel in panels), 2 * _MARGIN + max(texts))
    top = 2 * _MARGIN + 2 * _LINE
    bottom = top + max(panel.pixels.shape[0] for panel in panels) + _MARGIN
    picture = np.full((bottom + _LINE * len(lines) + _MARGIN, wide, 3), mosaic.GROUND, np.uint8)
    _write(picture, found.layer.name, _MARGIN, _MARGIN + 14, 0.7)
    _write(picture, _measures(found), _MARGIN, _MARGIN + 14 + _LINE, 0.5)
    left = _MARGIN
    for panel in panels:
        high, across = panel.pixels.shape[:2]
        picture[top : top + high, left : left + across] = panel.pixels
        left += across + _MARGIN
    for number, (mark, text) in enumerate(lines):
        y = bottom + _LINE * number
        mark(picture[y : y + 14, _MARGIN : _MARGIN + 40])
        _write(picture, text, _MARGIN + _TEXT, y + 12, 0.5)
    return picture


@dataclass(frozen=True, eq=False)
class _Panel:
    """A part of the input, enlarged: the heat map as colours, and boxes drawn over it."""

    region: Box
    scale: float
    pixels: np.ndarray

    @classmethod
    def of(cls, region: Box, heat: np.ndarray) -> _Panel:
        scale = _PANEL / max(region.height, region.width)
        part = _coloured(region.cut(heat))
        how = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
        size = (max(1, round(region.width * scale)), max(1, round(region.height * scale)))
        return cls(region, scale, cv2.resize(part, size, interpolation=how))

    def outline(self, box: Box, colour: tuple[int, int, int], dashed: bool = False) -> None:
        """Draw the lines of a box just inside its pixels, dark on both sides, so that they stand out on any colour."""
        high, wide = self.pixels.shape[:2]
        y1, y2 = (int(np.clip(round((edge - self.region.y1) * self.scale), 0, high)) for edge in (box.y1, box.y2))
        x1, x2 = (int(np.clip(round((edge - self.region.x1) * self.scale), 0, wide)) for edge in (box.x1, box.x2))
        if y2 <= y1 or x2 <= x1:
            return
        lines = np.zeros((high, wide), np.uint8)
        cv2.rectangle(lines, (x1, y1), (x2 - 1, y2 - 1), 255, 2)
        if dashed:
            lines[(np.add.outer(np.arange(high), np.arange(wide)) // _DASH) % 2 == 1] = 0
        self.pixels[(cv2.dilate(lines, np.ones((3, 3), np.uint8)) > 0) & (lines == 0)] = 0
        self.pixels[lines > 0] = colour


def _measures(found: Surveyed) -> str:
    height, width = found.energy.shape
    rows, cols = found.field.boxes.shape[:2]
    size, stride = found.field.size, found.field.stride
    seen = "the whole image" if found.field.is_global else f"{size[0]} x {size[1]} of {height} x {width} pixels"
    step = "" if found.field.is_global else f", stride {stride[0]:g} x {stride[1]:g}"
    return f"field: {seen}{step}; map {rows} x {cols}; height before width"


def _legend(found: Surveyed, box: Box, corner: Box) -> list[tuple[Callable[[np.ndarray], None], str]]:
    """What the marks mean: for each line something that draws the mark, and its text."""
    heard, asked = found.gradients
    lines = [(_line_mark(_WHITE), f"unit {found.unit}: {_told(box)}")]
    if corner == box and found.unit != (0, 0):
        lines = [(_line_mark(_WHITE), f"unit {found.unit}, and unit (0, 0) in the corner: {_told(box)}")]
    elif corner != box:
        lines.append((_line_mark(_CYAN), f"unit (0, 0) in the corner: {_told(corner)}"))
    if found.effective:
        lines.append((_line_mark(_WHITE, dashed=True), f"95 % of its gradient's energy: {_told(found.effective)}"))
        lines.append((_heat_mark, f"its gradient, root mean square of {heard} out of {asked}: 0 to the largest"))
    else:
        lines.append((_line_mark(mosaic.GROUND), f"no gradient: each of {asked} was zero"))
    return lines


def _told(box: Box) -> str:
    if box.is_empty:
        return "sees nothing"
    return f"{box.height} x {box.width}, rows {box.y1} to {box.y2}, columns {box.x1} to {box.x2}"


def _line_mark(colour: tuple[int, int, int], dashed: bool = False) -> Callable[[np.ndarray], None]:
    def mark(pixels: np.ndarray) -> None:
        pixels[6:8] = colour
        if dashed:
            pixels[:, (np.arange(pixels.shape[1]) // _DASH) % 2 == 1] = mosaic.GROUND

    return mark


def _heat_mark(pixels: np.ndarray) -> None:
    pixels[:] = _coloured(np.tile(np.linspace(0, 1, pixels.shape[1]), (len(pixels), 1)))


def _coloured(heat: np.ndarray) -> np.ndarray:
    """0 to 1 as colours that grow lighter evenly, also for eyes that tell few colours apart: uint8 RGB."""
    return np.ascontiguousarray(cv2.applyColorMap((255 * heat).round().astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1])


def _write(picture: np.ndarray, text: str, x: int, y: int, scale: float) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, _WHITE, 1, cv2.LINE_AA)


def _length(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0])
