"""The exhibition: all dreams in one picture, each beside what it began with, and how their losses went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from pipeline.drawing.mosaic import MosaicLayout, draw_mosaic
from pipeline.drawing.pixels import encode_png, resize, shrink
from pipeline.drawing.plots import named_losses
from pipeline.dream.runner import Made
from pipeline.store.files import write_bytes
from pipeline.store.places import Place

SHEETS = {"picture": "+pictures", "class": "+classes"}  # no file of a subject has a "+" in its name

_SIDE = 320  # pixels of a tile's longer side


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture that was made, without its pixels; small: itself and what it began with, uint8, at most a tile large."""

    made: Made
    path: str
    size: tuple[int, int]
    small: tuple[np.ndarray, np.ndarray]

    @property
    def title(self) -> str:
        """What it is called in plots and messages."""
        return self.made.subject.name


def draw_exhibition(folder: Place, shown: Sequence[Shown]) -> None:
    """Write +pictures.png and +classes.png, and the losses beside them, of what there is. Raises: StoreFailed."""
    for kind, name in SHEETS.items():
        some = [one for one in shown if one.made.subject.kind == kind and one.made.frame == 0]
        paths = [folder / f"{name}.png", folder / f"{name}-loss.png"]
        if some:
            write_bytes(paths[0], _sheet(some))
            write_bytes(paths[1], named_losses([(one.title, one.made.losses) for one in shown if one.made.subject.kind == kind]))
        else:
            for path in paths:
                path.unlink(missing_ok=True)


def small(pixels: np.ndarray) -> np.ndarray:
    """A picture that fits a tile."""
    return shrink(pixels, _SIDE)


def _sheet(shown: Sequence[Shown]) -> bytes:
    """A row each, with the number of the class, or of the picture in the order of the index; below it the name of either."""
    classes = shown[0].made.subject.kind == "class"
    known = [one.made.subject.number for one in shown]
    numbers = [place if number is None else number for place, number in enumerate(known)]
    tiles = [(one.small[1], one.small[0])[classes:] for one in shown]
    high, wide = (max(tile.shape[axis] for row in tiles for tile in row) for axis in (0, 1))
    layout = MosaicLayout.of(len(shown), [len(tiles[0])], [(high, wide)], max(numbers), captioned=True)

    def tile(row: int, group: int, place: int) -> np.ndarray:
        pixels = tiles[row][place]
        scale = min(layout.tile[0][0] / high, layout.tile[0][1] / wide, 1.0)
        height, width = (max(1, int(length * scale)) for length in pixels.shape[:2])
        return resize(pixels, height, width)

    def caption(row: int, group: int, place: int) -> str:
        subject = shown[row].made.subject
        name = subject.key if classes else PurePosixPath(subject.key).name
        return "" if place or name == str(subject.number) else name  # classes without names have their number at the side

    return encode_png(draw_mosaic(layout, numbers, tile, caption))
