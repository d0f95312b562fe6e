"""One pass over the winning images: each is decoded once, and every crop and tile of it is made then, from its pixels."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

import numpy as np

from pipeline.drawing.pixels import encode_jpeg, encode_png, shrink
from pipeline.drawing.tiles import fill_tile, fit_whole
from pipeline.geometry import Box, grown
from pipeline.hardware import cores
from pipeline.patches.cut_state import CutState
from pipeline.patches.pictures import SIDE, WHOLE_SIDE, LayerPictures, PatchOptions, SourceImage, WinnerPictures
from pipeline.patches.winners import Winners
from pipeline.sources.source import Image, Source

_THUMBNAIL = 256  # pixels of a whole image's longer side in index/images.parquet
_THUMBNAIL_QUALITY = 80
_LOSSLESS = 48  # pixels of the longer side up to which crops are PNG
_CROP_QUALITY = 70  # docs/decisions.md has the measurements

# Images are held back until a pass of the network is worth it, and no longer than memory allows.
_GROUP = 32
_GROUP_BYTES = 64_000_000
_KEPT_MAPS = 2048  # maps that become regions at a time


def cut_winners(winners: Sequence[Winners], source: Source, state: CutState, options: PatchOptions) -> WinnerPictures:
    """Decode every image that has a winner, once, and make all pictures of its winners that an earlier run has not made.

    The network reads a group of images, for regions and effective fields, while the group before it is cut.

    Raises: UnusableData, for an image that can no longer be read; StoreFailed.
    """
    pictures, done = state.pictures, state.done
    entries, begins, examples = _by_example(winners)
    cutter = _Cutter(winners, options, pictures, entries)
    if not done:
        cutter.regions_of_kept_maps()
    waiting: list[Future[int]] = []
    with ThreadPoolExecutor(cores()) as pool, options.step("patches", "images") as advance:
        advance(done, len(examples))
        items = ((number, *item) for number, item in enumerate(source.fetch(examples[done:]), start=done))
        for group in _groups(items):
            spans = [(example, image, range(begins[number], begins[number + 1])) for number, example, image in group]
            cutter.find_regions(spans, pool)
            done = _finish(waiting, done, len(examples), advance)
            state.advance(done)
            # Windows of one image share its pixels, and what is made of the whole of them.
            shared = [list(same) for _, same in groupby(spans, key=lambda span: id(span[1].pixels))]
            waiting = [pool.submit(cutter.cut, same) for same in shared]
        state.advance(_finish(waiting, done, len(examples), advance))
    return pictures


def _finish(waiting: list[Future[int]], done: int, total: int, advance: Callable[[int, int], None]) -> int:
    """Wait for images to be cut. Returns: how many are done now."""
    for future in waiting:
        done += future.result()
        advance(done, total)
    return done


def _groups(items: Iterable[tuple[int, int, Image]]) -> Iterator[list[tuple[int, int, Image]]]:
    group: list[tuple[int, int, Image]] = []
    size = 0
    for item in items:
        size += 0 if group and item[2].pixels is group[-1][2].pixels else item[2].pixels.nbytes
        group.append(item)
        if len(group) == _GROUP or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _by_example(winners: Sequence[Winners]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """All winners by example: int (n, 3) of layer, channel's position and rank; where each example's begin; the examples."""
    parts, examples = [np.zeros((0, 3), np.int32)], [np.zeros(0, np.int64)]
    for number, layer in enumerate(winners):
        places = np.argwhere(layer.filled).astype(np.int32)
        parts.append(np.column_stack([np.full(len(places), number, np.int32), places]))
        examples.append(layer.examples[layer.filled])
    together = np.concatenate(examples)
    order = np.argsort(together, kind="stable")
    distinct, begins = np.unique(together[order], return_index=True)
    return np.concatenate(parts)[order], np.append(begins, len(order)), [int(example) for example in distinct]


Made = dict[Hashable, tuple[int, int]]  # an image's pictures, in the spool: crops by box, tiles by box and size
Span = tuple[int, Image, range]  # an example, its image, and its winners among the entries


class _Cutter:
    """Makes the pictures of images' winners; different images may be cut at once."""

    def __init__(self, winners: Sequence[Winners], options: PatchOptions, pictures: WinnerPictures, entries: np.ndarray) -> None:
        self._winners, self._options, self._pictures, self._entries = winners, options, pictures, entries
        self._fit, self._spool = options.fit, pictures.spool
        self._extents = [layer.extents.max(axis=0) for layer in winners]

    def regions_of_kept_maps(self) -> None:
        """The regions of the winners whose maps the scan has kept."""
        maps = self._options.maps
        for layer, made in zip(self._winners, self._pictures.layers, strict=True):
            if maps is None or layer.maps is None or layer.effective is not None or layer.layer not in maps.layers:
                continue
            filled = np.argwhere(layer.filled)
            for first in range(0, len(filled), _KEPT_MAPS):  # none at all, where no channel fires
                c, rank = filled[first : first + _KEPT_MAPS].T
                regions = maps.of_shares(layer.layer, layer.maps[c, rank], layer.rows[c, rank], layer.cols[c, rank])
                self._keep(made, (c, rank), *regions)

    def _keep(self, pictures: LayerPictures, units: tuple[np.ndarray, np.ndarray], boxes: np.ndarray, maps: np.ndarray) -> None:
        """Regions of winners at int (n,) positions of channels and ranks: boxes (n, 4) and maps (n, h, w)."""
        pictures.region[units] = boxes
        pictures.maps[units] = self._spool.put(np.ascontiguousarray(maps).tobytes()) + np.arange(len(maps)) * maps[0].size
        pictures.map_size[:] = maps.shape[1:]

    def find_regions(self, spans: Sequence[Span], pool: ThreadPoolExecutor) -> None:
        """The regions and effective fields of some images' winners, in pixels of the input."""
        maps = self._options.maps
        numbers = {
            number
            for number, layer in enumerate(self._winners)
            if layer.effective is not None or (maps is not None and layer.maps is None and layer.layer in maps.layers)
        }
        units: dict[int, list[tuple[int, int, int]]] = {}  # by layer: number of the image, channel's position, rank
        for image, (_, _, entries) in enumerate(spans):
            for number, c, rank in self._entries[entries.start : entries.stop].tolist():
                if number in numbers:
                    units.setdefault(number, []).append((image, c, rank))
        if not units:
            return
        with_units = sorted({image for of_layer in units.values() for image, _, _ in of_layer})
        position = {image: at for at, image in enumerate(with_units)}
        images = np.stack(list(pool.map(lambda image: spans[image][1].given(self._fit), with_units)))
        where = {
            number: np.array([(position[image], *self._unit(number, c, rank)) for image, c, rank in of_layer])
            for number, of_layer in units.items()
        }
        by_map = [number for number in units if self._winners[number].effective is None]
        self._keep_regions({number: where[number] for number in by_map}, units, images)
        for number in units.keys() - set(by_map):
            effective = self._winners[number].effective
            assert effective is not None
            boxes = effective.boxes(images[where[number][:, 0]], where[number][:, 1:])
            _, c, rank = np.array(units[number]).T
            self._pictures.layers[number].effective[c, rank] = boxes

    def _unit(self, number: int, c: int, rank: int) -> tuple[int, int, int]:
        layer = self._winners[number]
        return int(layer.rows[c, rank]), int(layer.cols[c, rank]), int(layer.channels[c])

    def _keep_regions(
        self, where: dict[int, np.ndarray], units: dict[int, list[tuple[int, int, int]]], images: np.ndarray
    ) -> None:
        maps = self._options.maps
        if not where or maps is None:
            return
        names: dict[str, list[int]] = {}
        for number in where:
            names.setdefault(self._winners[number].layer, []).append(number)
        regions = maps.find(images, {name: np.concatenate([where[number] for number in of]) for name, of in names.items()})
        for name, of in names.items():
            boxes, pictures = regions[name]
            begin = 0
            for number in of:
                end = begin + len(where[number])
                _, c, rank = np.array(units[number]).T
                self._keep(self._pictures.layers[number], (c, rank), boxes[begin:end], pictures[begin:end])
                begin = end

    def cut(self, spans: Sequence[Span]) -> int:
        """Make the pictures of images that share their pixels. Returns: how many examples. Raises: StoreFailed."""
        pixels = spans[0][1].pixels
        height, width = pixels.shape[:2]
        small = shrink(pixels, _THUMBNAIL)
        thumbnail = self._put(encode_jpeg(small, _THUMBNAIL_QUALITY))
        tile = self._spool.put(fit_whole(small, (WHOLE_SIDE, WHOLE_SIDE)).tobytes())
        made: Made = {}
        for example, image, entries in spans:
            (scale_y, scale_x), (y, x) = self._fit.scale_and_offset(image.region.height, image.region.width)
            y, x = y + image.region.y1, x + image.region.x1
            seen = (y, x, y + scale_y * self._fit.height, x + scale_x * self._fit.width)
            self._pictures.images[example] = SourceImage(image.key, image.label, height, width, seen, thumbnail, tile)
            of_image = self._entries[entries.start : entries.stop]
            for number in np.unique(of_image[:, 0]):
                _, c, rank = of_image[of_image[:, 0] == number].T
                self._cut_layer(int(number), (c, rank), image, made)
        return len(spans)

    def _cut_layer(self, number: int, at: tuple[np.ndarray, np.ndarray], image: Image, made: Made) -> None:
        """The pictures of an image's winners in one layer, at int (n,) positions of channels and ranks."""
        layer, pictures, fit = self._winners[number], self._pictures.layers[number], self._fit
        size = fit.height, fit.width
        fields = layer.boxes[at]
        blind = (fields[:, 2:] <= fields[:, :2]).any(axis=1)
        fields[blind] = 0, 0, *size  # a unit that sees nothing is shown with the whole input
        least = np.tile(self._extents[number], (len(fields), 1))
        cropped = fit.boxes_to_source(fields, image.region)
        pictures.source[at] = cropped
        for inner_boxes, inner_source in (
            (pictures.effective, pictures.effective_source),
            (pictures.region, pictures.region_source),
        ):
            inner = inner_boxes[at]
            has = inner.any(axis=1)
            part = np.where(has[:, np.newaxis], fit.boxes_to_source(inner, image.region), 0)
            inner_source[at] = part
            fields[has], cropped[has] = inner[has], part[has]
            least[has] = (inner[has, 2:] - inner[has, :2]).max(axis=1, keepdims=True)
        if layer.table != "activations":
            return
        if self._options.whole:
            cropped[:] = image.region.edges
        fills = ~blind & (not self._options.whole)
        drawn = np.where(fills[:, np.newaxis], fit.boxes_to_source(grown(fields, least, size), image.region), cropped)
        for c, rank, crop, tiled, fill in zip(*at, cropped.tolist(), drawn.tolist(), fills.tolist(), strict=True):
            boxes, tile = (Box(*crop), Box(*tiled)), (*pictures.tile, fill)
            pictures.crops[c, rank], pictures.tiles[c, rank] = self._cut_one(image.pixels, boxes, tile, made)

    def _cut_one(
        self, pixels: np.ndarray, boxes: tuple[Box, Box], tile: tuple[int, int, bool], made: Made
    ) -> tuple[tuple[int, int], int]:
        """The crop of the first box and the tile (height, width, filled?) of the second: where they are in the spool."""
        crop, drawn = boxes
        reduced = None
        if crop not in made:
            reduced = shrink(crop.cut(pixels), self._options.crop_size)
            made[crop] = self._put(_encoded(reduced))
        if (drawn, tile) not in made:
            # A tile that shows the same as its crop is made of that, which has fewer pixels than the source.
            if drawn != crop or self._options.crop_size < SIDE:
                content = drawn.cut(pixels)
            else:
                content = shrink(crop.cut(pixels), self._options.crop_size) if reduced is None else reduced
            made[drawn, tile] = self._put(fill_tile(content, tile[:2], tile[2]).tobytes())
        return made[crop], made[drawn, tile][0]

    def _put(self, data: bytes) -> tuple[int, int]:
        return self._spool.put(data), len(data)


def _encoded(pixels: np.ndarray) -> bytes:
    if max(pixels.shape[:2]) <= _LOSSLESS:
        return encode_png(pixels)
    return encode_jpeg(pixels, _CROP_QUALITY)
