"""The contact sheets: all dreams in one picture, each beside its original, and the curves of their losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from pipeline.drawing.mosaic import MosaicLayout, draw_mosaic
from pipeline.drawing.pixels import encode_png, resize, shrink
from pipeline.drawing.plots import named_losses
from pipeline.dream.results import WrittenDream
from pipeline.store.files import write_bytes
from pipeline.store.places import Place

SHEETS = {"picture": "+pictures", "class": "+classes"}  # no subject's file has a "+" in its name

_SIDE = 320  # pixels of a tile's longer side


def draw_sheets(folder: Place, dreams: Sequence[WrittenDream]) -> None:
    """Write +pictures.png and +classes.png, for the kinds that exist, and the plots of their losses. Raises: StoreFailed."""
    for kind, name in SHEETS.items():
        of_kind = [dream for dream in dreams if dream.subject.kind == kind]
        first_frames = [dream for dream in of_kind if dream.result.frame == 0]
        sheet, losses = folder / f"{name}.png", folder / f"{name}-loss.png"
        if first_frames:
            write_bytes(sheet, _sheet(first_frames))
            write_bytes(losses, named_losses([(dream.subject.name, dream.result.losses) for dream in of_kind]))
        else:
            for path in (sheet, losses):
                path.unlink(missing_ok=True)


def shrink_to_tile(pixels: np.ndarray) -> np.ndarray:
    """A picture that fits a tile of the sheet."""
    return shrink(pixels, _SIDE)


def _sheet(dreams: Sequence[WrittenDream]) -> bytes:
    """A row each, with the number of the class, or of the picture in the order of the index; below it the name of either."""
    classes = dreams[0].subject.kind == "class"
    known = [dream.subject.number for dream in dreams]
    numbers = [row if number is None else number for row, number in enumerate(known)]
    tiles = [(dream.small_original, dream.small)[classes:] for dream in dreams]
    high, wide = (max(tile.shape[axis] for row in tiles for tile in row) for axis in (0, 1))
    layout = MosaicLayout.of(len(dreams), [len(tiles[0])], [(high, wide)], max(numbers), captioned=True)

    def tile(row: int, group: int, column: int) -> np.ndarray:
        pixels = tiles[row][column]
        scale = min(layout.tile[0][0] / high, layout.tile[0][1] / wide, 1.0)
        height, width = (max(1, int(length * scale)) for length in pixels.shape[:2])
        return resize(pixels, height, width)

    def caption(row: int, group: int, column: int) -> str:
        subject = dreams[row].subject
        name = subject.key if classes else PurePosixPath(subject.key).name
        return "" if column or name == str(subject.number) else name  # classes without names have their number at the side

    return encode_png(draw_mosaic(layout, numbers, tile, caption))
