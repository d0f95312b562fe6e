"""The mosaics of a layer's winners: patches, whole images with what was cropped, and both side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline.drawing.pixels import decode_png, encode_jpeg, encode_png
from pipeline.drawing.sheet import MARGIN, SheetLayout, draw_page, label_width, lines_above, name_rows
from pipeline.drawing.tiles import light, outline_on, whole_in_tile
from pipeline.geometry import Box
from pipeline.hardware import cores
from pipeline.patches.cut_state import CutState
from pipeline.patches.pictures import SIDE, WHOLE_SIDE, LayerPictures, PatchOptions, WinnerPictures
from pipeline.patches.winners import Winners
from pipeline.progress import counted
from pipeline.store.files import file_name, write_bytes
from pipeline.store.places import Place

_QUALITY = 58  # of JPEG pages: labels and tiles stay readable, and pages take half of the results
FOLDER = "mosaics/activations"

Kind = Literal["crop", "full"]
_PICTURES: dict[str, tuple[Kind, ...]] = {"-crop": ("crop",), "-full": ("full",), "": ("crop", "full")}


@dataclass(frozen=True, eq=False)
class MosaicRows:
    """The contents of a layer's mosaic: a row is a channel.

    first: where only so many of the layer's channels are drawn, the first ones.
    """

    layer: Winners
    made: LayerPictures
    pictures: WinnerPictures
    options: PatchOptions
    kinds: tuple[Kind, ...]
    first: int | None = None

    def heading(self) -> list[str]:
        """The layer, what it looked at, what a unit sees, and how to read the rows."""
        height, width = (int(side) for side in self.layer.extents.max(axis=0))
        fit = self.options.fit
        whole = height >= fit.height and width >= fit.width
        field = (
            "a unit sees the whole image"
            if whole
            else f"a unit sees up to {height} x {width} of {fit.height} x {fit.width} pixels"
        )
        field = "units see nothing" if not self.layer.extents.any() else field
        crop = "cut where the channel's own map is above half its peak" if self.made.map_size else ""
        crop = "cut to effective fields" if self.layer.effective is not None else crop
        crop = "whole images" if self.options.whole else crop
        facts = [
            self.options.network,
            f"{counted(self.options.images, 'image')} of {self.options.data}" if self.options.data else "",
        ]
        below = {
            ("crop",): "below each patch its response",
            ("full",): "bright where the channel responds, a box around what was cut out"
            if self.made.map_size
            else "a box around what was cut out",
            ("crop", "full"): "patches with their responses, then the images they come from",
        }[self.kinds]
        title = self.layer.layer
        if self.first is not None:
            title += f": the first {self.first:,} of {len(self.layer.channels):,} channels"
        names = "below a number the channel's name, where it has one" if self.options.named else ""
        return [
            title,
            ", ".join(fact for fact in facts if fact),
            "; ".join(fact for fact in (field, crop, names) if fact),
            f"A row is a channel, its strongest response first{self._on_clamp()}; {below}.{self._on_ties()}",
        ]

    def _on_clamp(self) -> str:
        unclipped = self.layer.unclipped
        return ", as it is before the upper clamp" if unclipped is not None and np.isfinite(unclipped).any() else ""

    def label(self, row: int) -> tuple[str, str]:
        """The channel's number and, below it, how many images tie with its last winner."""
        ties = 0 if self.layer.ties is None else int(self.layer.ties[row])
        return str(self.layer.channels[row]), f"+{_short(ties)}" if ties > 0 else ""

    def _on_ties(self) -> str:
        return " +n: so many images tie with the last." if self.layer.ties is not None and (self.layer.ties > 0).any() else ""

    def notice(self, row: int) -> str:
        """A line that says that a channel never fires; empty for one that does."""
        if len(self.layer.ranks(row)):
            return ""
        return f"never fires in {counted(self.options.images, 'image')}" if self.options.images else "never fires"

    def tile(self, row: int, group: int, rank: int) -> np.ndarray | None:
        """The patch of a winner, or its whole image."""
        if self.layer.examples[row, rank] < 0:
            return None
        if self.kinds[group] == "full":
            return self._full(row, rank)
        height, width = self.made.tile
        data = self.pictures.spool.get(int(self.made.tiles[row, rank]), 3 * height * width)
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def caption(self, row: int, group: int, rank: int) -> str:
        """A patch's response, before an upper clamp where the layer has one; a whole image's label."""
        if self.kinds[group] == "crop":
            before = np.nan if self.layer.unclipped is None else self.layer.unclipped[row, rank]
            return f"{self.layer.scores[row, rank] if np.isnan(before) else before:.3g}"
        return self.pictures.images[int(self.layer.examples[row, rank])].label or ""

    def _full(self, row: int, rank: int) -> np.ndarray:
        image = self.pictures.images[int(self.layer.examples[row, rank])]
        tile = (
            np.frombuffer(self.pictures.spool.get(image.tile, 3 * WHOLE_SIDE * WHOLE_SIDE), np.uint8)
            .reshape(WHOLE_SIDE, WHOLE_SIDE, 3)
            .copy()
        )
        scale, top, left = whole_in_tile((WHOLE_SIDE, WHOLE_SIDE), image.height, image.width)
        boxes = [self.made.source, self.made.effective_source, self.made.region_source]
        if self.made.maps[row, rank] >= 0:
            high, wide = self.made.map_size
            heat = np.frombuffer(self.pictures.spool.get(int(self.made.maps[row, rank]), high * wide), np.uint8)
            y1, x1, y2, x2 = (offset + scale * edge for offset, edge in zip((top, left) * 2, image.seen, strict=True))
            light(tile, heat.reshape(high, wide), (y1, x1, y2, x2))
        cropped = [boxes_of[row, rank] for boxes_of in boxes if boxes_of[row, rank].any()]
        outline_on(tile, Box.of(cropped[-1]), image.height, image.width)
        return tile


@dataclass(frozen=True)
class _Mosaic:
    """One mosaic of a layer: what its rows hold, its layout, and its files, one a page.

    first: where it has only so many of the layer's channels, the first ones.
    """

    kinds: tuple[Kind, ...]
    layout: SheetLayout
    names: list[str]
    first: int | None = None


def _short(number: int) -> str:
    """A number in at most four letters, for the little room that a label has: 999, 13k, 1.3M."""
    size, unit = next(((size, unit) for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")) if number >= size), (1, ""))
    return f"{number / size:.1f}{unit}" if unit and number < 9.95 * size else f"{number // size}{unit}"


def _tiles_of(kinds: tuple[Kind, ...], tile: tuple[int, int]) -> list[tuple[int, int]]:
    return [tile if kind == "crop" else (WHOLE_SIDE, WHOLE_SIDE) for kind in kinds]


def _mosaics_of(
    layer: str, shape: Sequence[int], tile: tuple[int, int], beside: tuple[int, int], enlarged: bool
) -> Iterator[_Mosaic]:
    """The mosaics of a layer whose heap is of this shape, (channels, k); beside: pixels of labels, and lines of headings."""
    pages = 0
    for suffix, kinds in _PICTURES.items():
        layout = SheetLayout.of(shape[0], shape[1], _tiles_of(kinds, tile), *beside)
        pages = pages or len(layout.pages)
        if len(kinds) == 2 and (pages > 1 or len(layout.pages) > 1):
            first = len(layout.pages[0])
            yield _Mosaic(kinds, replace(layout, count=first), [f"{file_name(layer)}.jpg"], first)
        else:
            names = page_names(f"{file_name(layer)}{suffix}", len(layout.pages), enlarged and kinds == ("crop",))
            yield _Mosaic(kinds, layout, names)


def name_mosaics(folder: Place, layer: str, k: int, rows: pa.Table, names: Mapping[int, tuple[str, str, bool]]) -> None:
    """Write the names of a layer's channels into its mosaics, below their numbers.

    Pages are opened, and written again as they were, but for the names: what made them is no longer there. JPEG pages keep
    their quality, so that tiles change by less than the eye can see.

    Args:
        k: winners of a channel. rows: the layer's in index/mosaics.parquet.
        names: by channel its name, what it rests on, and whether a mark is below its number.

    Raises: StoreFailed.
    """
    if not len(rows):
        return
    channels = rows["channel"].to_pylist()
    first = rows.slice(0, 1).to_pylist()[0]
    beside = min(rows["x"].to_pylist()) - MARGIN, lines_above(min(rows["y"].to_pylist()))
    of_rows = [names[channel] for channel in channels]
    enlarged = first["picture"].endswith("-001.png")

    def renew(mosaic: _Mosaic, page: int) -> None:
        path = folder / FOLDER / mosaic.names[page]
        if path.exists():
            picture = decode_png(path.read_bytes()).copy()
            name_rows(picture, mosaic.layout, page, of_rows)
            _save(picture, path)

    tile = first["tile_height"], first["tile_width"]
    mosaics = _mosaics_of(layer, (len(channels), k), tile, beside, enlarged)
    with ThreadPoolExecutor(cores()) as pool:
        tasks = [pool.submit(renew, mosaic, page) for mosaic in mosaics for page in range(len(mosaic.names))]
        for task in tasks:
            task.result()


def write_mosaics(
    winners: Sequence[tuple[Winners, LayerPictures]], state: CutState, folder: Place, options: PatchOptions
) -> list[dict[str, int | str]]:
    """Write the mosaics of some layers: LAYER-crop, LAYER-full and LAYER, which has both side by side.

    One page is LAYER-crop.png; several are LAYER-crop-001.jpg and so on. LAYER.jpg then has both for the first channels alone.

    Returns: the rows of index/mosaics.parquet. Raises: StoreFailed.
    """
    tasks, places, kept = [], [], set()
    for layer, pictures in winners:
        label = label_width(int(layer.channels.max()), options.named)
        enlarged = bool(0 < layer.extents.max() <= SIDE // 3)
        every = {kinds: MosaicRows(layer, pictures, state.pictures, options, kinds) for kinds in _PICTURES.values()}
        count, k = layer.examples.shape
        lines = max(
            SheetLayout.under(rows.heading(), count, k, _tiles_of(kinds, pictures.tile), label).lines
            for kinds, rows in every.items()
        )
        for mosaic in _mosaics_of(layer.layer, (count, k), pictures.tile, (label, lines), enlarged):
            rows = replace(every[mosaic.kinds], first=mosaic.first)
            kept |= set(mosaic.names)
            tasks += [(mosaic.layout, page, rows, folder / FOLDER / name) for page, name in enumerate(mosaic.names)]
            if mosaic.kinds == ("crop",):
                places += _places(layer, mosaic.layout, mosaic.names)
    left = [task for task in tasks if not state.has_page(task[-1])]
    with ThreadPoolExecutor(cores()) as pool, options.step("mosaics", "pages") as advance:
        advance(len(tasks) - len(left), len(tasks))
        for done, page in enumerate([pool.submit(_write_page, state, *task) for task in left], start=len(tasks) - len(left) + 1):
            page.result()
            advance(done, len(tasks))
    for path in (folder / FOLDER).glob("*.*"):
        if path.name not in kept and path.suffix in (".png", ".jpg"):
            path.unlink()
    return places


def page_names(name: str, pages: int, enlarged: bool = False) -> list[str]:
    """The files of a mosaic. A single page is lossless, and so are pages of patches whose pixels are shown as squares."""
    if pages == 1:
        return [f"{name}.png"]
    return [f"{name}-{page:03}.{'png' if enlarged else 'jpg'}" for page in range(1, pages + 1)]


def _write_page(state: CutState, layout: SheetLayout, page: int, rows: MosaicRows, path: Place) -> None:
    _save(draw_page(layout, page, rows), path)
    state.add_page(path)


def _save(picture: np.ndarray, path: Place) -> None:
    write_bytes(path, encode_png(picture) if path.suffix == ".png" else encode_jpeg(picture, _QUALITY, spent=True), durable=False)


def _places(layer: Winners, layout: SheetLayout, names: Sequence[str]) -> list[dict[str, int | str]]:
    """The position of each channel's row of patches."""
    rows: list[dict[str, int | str]] = []
    for page, name in enumerate(names):
        height, width = layout.size(page)
        for row in layout.pages[page]:
            y, x = layout.tile_corner(row)
            step_y, step_x = layout.step()
            tile: dict[str, int | str] = {
                "layer": layer.layer,
                "channel": int(layer.channels[row]),
                "picture": f"{FOLDER}/{name}",
                "y": y,
                "x": x,
                "tile_height": layout.tile[0][0],
                "tile_width": layout.tile[0][1],
                "per_line": layout.per_line,
                "step_y": step_y,
                "step_x": step_x,
                "height": height,
                "width": width,
            }
            rows.append(tile)
    return rows
