"""The contact sheets: a layer's patterns in one picture, alone and beside the channels' strongest patches, and their losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.drawing.mosaic import MosaicLayout, centre_tile, draw_mosaic
from pipeline.drawing.pixels import decode_png, encode_png, resize
from pipeline.drawing.plots import many_losses
from pipeline.patterns.plan import PatternSheet
from pipeline.patterns.results import PatternResult, StrongestPatches
from pipeline.store.files import write_bytes
from pipeline.store.places import Place

_SIDE = 128  # pixels of a picture's longer side, at most
_PATCH = 96  # pixels of a patch's longer side


def draw_sheet(folder: Place, sheet: PatternSheet, results: Sequence[PatternResult], patches: StrongestPatches) -> None:
    """Write SHEET.png, SHEET-loss.png, and where there are patches SHEET-found.png. Raises: StoreFailed."""
    rows: dict[Any, list[PatternResult]] = {}
    for result in results:
        rows.setdefault(result.pattern.channel if result.pattern.name is None else result.pattern.name, []).append(result)
    write_bytes(folder / f"{sheet.file}.png", _mosaic(rows, None))
    write_bytes(
        folder / f"{sheet.file}-loss.png",
        many_losses(sheet.name, np.stack([result.losses * result.pattern.sign for result in results])),
    )
    if patches.images:
        write_bytes(folder / f"{sheet.file}-found.png", _mosaic(rows, patches))
    else:
        (folder / f"{sheet.file}-found.png").unlink(missing_ok=True)


def remove_other_sheets(folder: Place, sheets: Sequence[PatternSheet]) -> None:
    """Remove files of layers that an earlier run had and this one does not."""
    names = [sheet.file for sheet in sheets]
    kept = {f"{name}.parquet" for name in names} | {f"{name}{suffix}.png" for name in names for suffix in ("", "-found", "-loss")}
    for path in [*(folder / "patterns").glob("*.parquet"), *(folder / "mosaics" / "patterns").glob("*.png")]:
        if path.name not in kept:
            path.unlink()


def caption(result: PatternResult) -> str:
    """The caption of a pattern: the value it reached, or its state if that is not done."""
    return _number(result.reached) if result.state == "done" else result.state


def _mosaic(rows: dict[Any, list[PatternResult]], patches: StrongestPatches | None) -> bytes:
    """A row a channel or name: its pictures, then its strongest patches; below each how strongly it fires."""
    numbers = [key if isinstance(key, int) else number for number, key in enumerate(rows)]
    images = [patches.images.get(number, []) if patches else [] for number in numbers]
    pictures = list(rows.values())
    groups, tiles = [len(pictures[0])], [_tile_size(*pictures[0][0].picture.shape[:2])]
    if patches:
        groups, tiles = [*groups, max(map(len, images))], [*tiles, (_PATCH, _PATCH)]
    layout = MosaicLayout.of(len(rows), groups, tiles, max(numbers), captioned=True)

    def tile(row: int, group: int, column: int) -> np.ndarray | None:
        if group == 0:
            return resize(pictures[row][column].picture, *layout.tile[0])
        if column >= len(images[row]):
            return None
        return centre_tile(decode_png(images[row][column]), layout.tile[1])

    def words(row: int, group: int, column: int) -> str:
        if group == 0:
            return caption(pictures[row][column])
        scores = patches.scores[numbers[row]] if patches and column < len(images[row]) else []
        return _number(scores[column]) if scores else ""

    return encode_png(draw_mosaic(layout, numbers, tile, words))


def _number(value: float) -> str:
    """A number with three digits, or with all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """The size at which a picture is drawn: small ones are enlarged by a whole factor, large ones are reduced."""
    longest = max(height, width)
    scale = max(1, _SIDE // longest) if longest <= _SIDE else _SIDE / longest
    return round(height * scale), round(width * scale)
