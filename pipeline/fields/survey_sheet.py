"""The picture of a layer's field: the boxes of two units, and the energy of the gradient of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.drawing.boxes import DASH, outline
from pipeline.drawing.palettes import CYAN, GROUND, WHITE, coloured, ground
from pipeline.drawing.pixels import resize
from pipeline.drawing.text import write, written_size
from pipeline.fields.solving import as_ratio
from pipeline.fields.survey import FieldSurvey
from pipeline.geometry import Box

_PANEL = 400  # pixels of a panel's longer side
_MARGIN, _LINE = 20, 26
_MOST = 0.75  # of the input's height and width that a box may have to be drawn enlarged
_TEXT = 52  # pixels from a mark's left end to the text beside it
_TITLE, _SMALL = 0.7, 0.5  # sizes of letters


def draw_survey(survey: FieldSurvey) -> np.ndarray:
    """One layer's picture: uint8 RGB.

    On the left the whole input, on the right the central unit's box alone, enlarged, unless it is nearly the whole input.
    The heat map is the square root of the mean energy, from zero to its maximum.
    """
    height, width = survey.energy.shape
    box, corner = Box.of(survey.field.boxes[survey.unit]), Box.of(survey.field.boxes[0, 0])
    heat = np.sqrt(survey.energy)
    heat = heat / heat.max() if heat.any() else heat
    panels = [_Panel.of(Box.whole(height, width), heat)]
    if 0 < box.height < _MOST * height and box.width < _MOST * width:
        panels.append(_Panel.of(box, heat))
    panels[0].outline(corner, CYAN)
    panels[0].outline(box, WHITE)
    if survey.effective:
        panels[-1].outline(survey.effective, WHITE, dashed=True)
    return _joined(panels, survey.layer.name, _measures(survey), _legend(survey, box, corner))


@dataclass(frozen=True, eq=False)
class _Panel:
    """A part of the input, enlarged: the heat map in colours, and boxes drawn over it."""

    region: Box
    scale: float
    pixels: np.ndarray

    @classmethod
    def of(cls, region: Box, heat: np.ndarray) -> _Panel:
        scale = _PANEL / max(region.height, region.width)
        size = max(1, round(region.height * scale)), max(1, round(region.width * scale))
        return cls(region, scale, resize(coloured(region.cut(heat), "inferno"), *size, squares=1.0))

    def outline(self, box: Box, colour: tuple[int, int, int], dashed: bool = False) -> None:
        """Draw a box of the input over the panel."""
        high, wide = self.pixels.shape[:2]
        y1, y2 = (int(np.clip(round((edge - self.region.y1) * self.scale), 0, high)) for edge in (box.y1, box.y2))
        x1, x2 = (int(np.clip(round((edge - self.region.x1) * self.scale), 0, wide)) for edge in (box.x1, box.x2))
        outline(self.pixels, Box(y1, x1, y2, x2), colour, dashed)


@dataclass(frozen=True, eq=False)
class _Entry:
    """A line of the legend: a function that draws its mark into an array, and its text."""

    mark: Callable[[np.ndarray], None]
    text: str


def _joined(panels: list[_Panel], title: str, measures: str, legend: list[_Entry]) -> np.ndarray:
    """Title and measures above the panels, the legend below them."""
    lengths = [written_size(title, _TITLE)[1], written_size(measures, _SMALL)[1]]
    lengths += [_TEXT + written_size(entry.text, _SMALL)[1] for entry in legend]
    width = max(_MARGIN + sum(panel.pixels.shape[1] + _MARGIN for panel in panels), 2 * _MARGIN + max(lengths))
    top = 2 * _MARGIN + 2 * _LINE
    bottom = top + max(panel.pixels.shape[0] for panel in panels) + _MARGIN
    picture = ground(bottom + _LINE * len(legend) + _MARGIN, width)
    write(picture, title, (_MARGIN + 14, _MARGIN), _TITLE, WHITE)
    write(picture, measures, (_MARGIN + 14 + _LINE, _MARGIN), _SMALL, WHITE)
    left = _MARGIN
    for panel in panels:
        high, wide = panel.pixels.shape[:2]
        picture[top : top + high, left : left + wide] = panel.pixels
        left += wide + _MARGIN
    for number, entry in enumerate(legend):
        y = bottom + _LINE * number
        entry.mark(picture[y : y + 14, _MARGIN : _MARGIN + 40])
        write(picture, entry.text, (y + 12, _MARGIN + _TEXT), _SMALL, WHITE)
    return picture


def _measures(survey: FieldSurvey) -> str:
    height, width = survey.energy.shape
    rows, cols = survey.field.boxes.shape[:2]
    size, stride = survey.field.size, survey.field.stride
    seen = "the whole image" if survey.field.is_global else f"{size[0]} x {size[1]} of {height} x {width} pixels"
    step = "" if survey.field.is_global else f", stride {as_ratio(stride[0])} x {as_ratio(stride[1])}"
    return f"field: {seen}{step}; map {rows} x {cols}; height before width"


def _legend(survey: FieldSurvey, box: Box, corner: Box) -> list[_Entry]:
    nonzero, computed = survey.gradients
    entries = [_Entry(_line_mark(WHITE), f"unit {survey.unit}: {_extent(box)}")]
    if corner == box and survey.unit != (0, 0):
        entries = [_Entry(_line_mark(WHITE), f"unit {survey.unit}, and unit (0, 0) in the corner: {_extent(box)}")]
    elif corner != box:
        entries.append(_Entry(_line_mark(CYAN), f"unit (0, 0) in the corner: {_extent(corner)}"))
    if survey.effective:
        entries.append(_Entry(_line_mark(WHITE, dashed=True), f"95% of its gradient's energy: {_extent(survey.effective)}"))
        entries.append(_Entry(_heat_mark, f"its gradient, root mean square of {nonzero} out of {computed}: 0 to the largest"))
    else:
        entries.append(_Entry(_line_mark(GROUND), f"no gradient: each of {computed} was zero"))
    return entries


def _extent(box: Box) -> str:
    if box.is_empty:
        return "sees nothing"
    return f"{box.height} x {box.width}, rows {box.y1} to {box.y2}, columns {box.x1} to {box.x2}"


def _line_mark(colour: tuple[int, int, int], dashed: bool = False) -> Callable[[np.ndarray], None]:
    def mark(pixels: np.ndarray) -> None:
        pixels[6:8] = colour
        if dashed:
            pixels[:, (np.arange(pixels.shape[1]) // DASH) % 2 == 1] = GROUND

    return mark


def _heat_mark(pixels: np.ndarray) -> None:
    pixels[:] = coloured(np.tile(np.linspace(0, 1, pixels.shape[1]), (len(pixels), 1)), "inferno")
