"""Winners to patches: cropped from the source images, stored, indexed and laid out as mosaics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipeline import mosaic
from pipeline.sources.fit import Fit
from pipeline.sources.source import Box, Image, Source
from pipeline.store.files import file_name, write_bytes
from pipeline.store.places import Place
from pipeline.store.spool import Spool
from pipeline.store.tables import BOX, CROPS, INDEX, write_crops, write_images, write_index

_CHUNK = 256  # crops in memory at a time
_SIDE = 96  # pixels of a tile's longer side
_THUMBNAIL = 256  # pixels of a whole image's longer side in index/images.parquet

# Images are held back until so many winners wait for their effective fields, which fill batches then.
_WAITING = 256
_MOST_BYTES = 256_000_000  # of source images held back meanwhile


class EffectiveFields(Protocol):
    """What finds the effective fields of a layer's units."""

    def boxes(self, images: np.ndarray, units: np.ndarray) -> np.ndarray:
        """uint8 (n, height, width, 3), fitted; int (n, 3): row, col, channel -> int32 (n, 4); 0, 0, 0, 0 where there is none."""


@dataclass(frozen=True, eq=False)
class Winners:
    """The strongest responses of one layer's channels, and what each of them sees.

    channels: int (channels,): their numbers.
    scores, examples, rows, cols: (channels, k), strongest first; example -1 where there are fewer than k.
    boxes: int32 (channels, k, 4): y1, x1, y2, x2 in pixels of the network's input, clipped to it.
    extents: int32 (channels, 2): height and width of each channel's field where nothing clips it.
    effective: finds what the winners are cropped to, where that is not the box itself.
    """

    layer: str
    channels: np.ndarray
    scores: np.ndarray
    examples: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    boxes: np.ndarray
    extents: np.ndarray
    effective: EffectiveFields | None = None


@dataclass(frozen=True)
class Shown:
    """What is known of one winner after its image was opened.

    source: its box in pixels of the source image.
    effective, effective_source: its effective field, in pixels of the input and of the source, where one was found.
    """

    key: str
    label: str | None
    source: Box
    effective: Box | None = None
    effective_source: Box | None = None


@dataclass(frozen=True)
class Pictured:
    """A source image that has a winner; its thumbnail is in the spool."""

    key: str
    label: str | None
    height: int
    width: int


@dataclass
class _Album:
    """The encoded crops and thumbnails of all winners, on disk, and what was read beside them.

    tiles: {layer: {"crop" or "full": (height, width)}}: the sizes at which they are shown.
    """

    spool: Spool
    tiles: dict[str, dict[str, tuple[int, int]]]
    shown: dict[tuple[str, int, int], Shown] = field(default_factory=dict)
    images: dict[int, Pictured] = field(default_factory=dict)


def write_patches(
    winners: Sequence[Winners],
    source: Source,
    fit: Fit,
    folder: Place,
    whole: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[list[str | None]]]:
    """Crop every winner from its source image and write the index, the crops and the mosaics.

    Every image is decoded once. Crops have the source's own pixels, at its own resolution. They are cut at the boxes,
    or, in layers that find them, at the effective fields.

    Args:
        fit: how the source's images came to the network's input.
        folder: the job's folder.
        whole: crop the whole image that the network was shown instead of the field.
        progress: told how many images are done, of how many.

    Returns: {layer: for each channel, the labels of its winners, strongest first}.
    Raises: StoreFailed; UnusableData, for a winner that can no longer be read.
    """
    with Spool(folder / "parts") as spool:
        album = _Album(spool, {layer.layer: _tiles(layer, fit, whole) for layer in winners})
        _open_images(winners, source, fit, whole, album, progress)
        write_index(folder, "activations", _index_columns(winners, album))
        write_images(folder, _image_rows(album))
        for layer in winners:
            write_crops(folder / "crops" / f"{file_name(layer.layer)}.parquet", _crop_rows(layer, album))
            _write_mosaics(layer, fit, whole, album, folder / "mosaics" / "activations")
        _remove_others(folder, [file_name(layer.layer) for layer in winners])
        return {
            layer.layer: [
                [album.shown[layer.layer, c, rank].label for rank in _ranks(layer, c)] for c in range(len(layer.channels))
            ]
            for layer in winners
        }


def top_label(labels: Sequence[str | None]) -> tuple[str | None, float | None]:
    """The most frequent label of a channel's winners, the first in the alphabet among equals, and its share."""
    counts = Counter(label for label in labels if label is not None)
    if not counts:
        return None, None
    label, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return label, count / len(labels)


def _ranks(layer: Winners, c: int) -> range:
    return range(int((layer.examples[c] >= 0).sum()))


def _remove_others(folder: Place, names: Sequence[str]) -> None:
    """Remove what an earlier run left of layers that this one does not have."""
    kept = {f"{name}.parquet" for name in names} | {f"{name}{suffix}.png" for name in names for suffix in ("", "-crop", "-full")}
    for path in [*(folder / "crops").glob("*.parquet"), *(folder / "mosaics" / "activations").glob("*.png")]:
        if path.name not in kept:
            path.unlink()


def _open_images(
    winners: Sequence[Winners], source: Source, fit: Fit, whole: bool, album: _Album, progress: Callable[[int, int], None]
) -> None:
    wanted: dict[int, list[tuple[Winners, int, int]]] = {}
    for layer in winners:
        for c in range(len(layer.channels)):
            for rank in _ranks(layer, c):
                wanted.setdefault(int(layer.examples[c, rank]), []).append((layer, c, rank))
    done = 0
    for group in _held_back(source.fetch(sorted(wanted)), wanted):
        effective = _effective(group, wanted, fit)
        for example, image in group:
            album.images[example] = Pictured(image.key, image.label, *image.pixels.shape[:2])
            album.spool.put(("image", example), mosaic.encode_webp(mosaic.shrink(image.pixels, _THUMBNAIL)))
            for layer, c, rank in wanted[example]:
                _keep(layer, c, rank, image, fit, whole, effective.get((layer.layer, c, rank)), album)
            done += 1
            progress(done, len(wanted))


def _held_back(
    images: Iterable[tuple[int, Image]], wanted: Mapping[int, Sequence[tuple[Winners, int, int]]]
) -> Iterator[list[tuple[int, Image]]]:
    """The images in groups with enough winners that wait for their effective fields; where none does, one by one."""
    group: list[tuple[int, Image]] = []
    waiting = size = 0
    for example, image in images:
        waiting += sum(layer.effective is not None for layer, _, _ in wanted[example])
        size += 0 if group and image.pixels is group[-1][1].pixels else image.pixels.nbytes
        group.append((example, image))
        if not waiting or waiting >= _WAITING or size >= _MOST_BYTES:
            yield group
            group, waiting, size = [], 0, 0
    if group:
        yield group


def _effective(
    group: Sequence[tuple[int, Image]], wanted: Mapping[int, Sequence[tuple[Winners, int, int]]], fit: Fit
) -> dict[tuple[str, int, int], Box]:
    """The effective fields of a group's winners that have one, by layer, place of the channel and rank."""
    asked: dict[str, list[tuple[Winners, int, int, np.ndarray]]] = {}
    for example, image in group:
        waiting = [one for one in wanted[example] if one[0].effective is not None]
        if waiting:
            at = image.region
            fitted = fit.apply(image.pixels[at.y1 : at.y2, at.x1 : at.x2])
            for layer, c, rank in waiting:
                asked.setdefault(layer.layer, []).append((layer, c, rank, fitted))
    found: dict[tuple[str, int, int], Box] = {}
    for name, of_layer in asked.items():
        images = np.stack([fitted for _, _, _, fitted in of_layer])
        units = np.array([(layer.rows[c, k], layer.cols[c, k], layer.channels[c]) for layer, c, k, _ in of_layer])
        effective = of_layer[0][0].effective
        assert effective is not None
        for (_, c, rank, _), box in zip(of_layer, effective.boxes(images, units), strict=True):
            if box.any():
                found[name, c, rank] = Box(*(int(edge) for edge in box))
    return found


def _keep(layer: Winners, c: int, rank: int, image: Image, fit: Fit, whole: bool, effective: Box | None, album: _Album) -> None:
    """Crop one winner and draw its thumbnail."""
    source = fit.to_source(_seen(layer, c, rank, fit), image.region)
    effective_source = fit.to_source(effective, image.region) if effective else None
    part = effective_source or source
    crop = image.region if whole else part
    name = (layer.layer, c, rank)
    album.shown[name] = Shown(image.key, image.label, source, effective, effective_source)
    album.spool.put(("crop", *name), mosaic.encode_png(image.pixels[crop.y1 : crop.y2, crop.x1 : crop.x2]))
    drawn = mosaic.thumbnail(image.pixels, _edges(part), album.tiles[layer.layer]["full"])
    album.spool.put(("full", *name), mosaic.encode_png(drawn))


def _seen(layer: Winners, c: int, rank: int, fit: Fit) -> Box:
    """A winner's box; the whole input for a unit that sees nothing."""
    y1, x1, y2, x2 = (int(edge) for edge in layer.boxes[c, rank])
    return Box(y1, x1, y2, x2) if y2 > y1 and x2 > x1 else Box(0, 0, fit.height, fit.width)


def _edges(box: Box) -> tuple[int, int, int, int]:
    return box.y1, box.x1, box.y2, box.x2


def _told(layer: Winners, c: int, rank: int, album: _Album) -> dict[str, Any]:
    """What the tables tell of one winner, by column."""
    shown = album.shown[layer.layer, c, rank]
    told = {
        "layer": layer.layer,
        "channel": int(layer.channels[c]),
        "rank": rank,
        "score": layer.scores[c, rank],
        "example": layer.examples[c, rank],
        "key": shown.key,
        "label": shown.label,
        "row": layer.rows[c, rank],
        "col": layer.cols[c, rank],
    }
    boxes = {"": Box(*layer.boxes[c, rank]), "src_": shown.source, "eff_": shown.effective, "eff_src_": shown.effective_source}
    for prefix, box in boxes.items():
        told |= {f"{prefix}{edge}": getattr(box, edge, None) for edge in BOX}
    return told


def _index_columns(winners: Sequence[Winners], album: _Album) -> Mapping[str, Sequence[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in INDEX["activations"].names}
    for layer in winners:
        for c in range(len(layer.channels)):
            for rank in _ranks(layer, c):
                told = _told(layer, c, rank, album)
                for name, column in columns.items():
                    column.append(told[name])
    return columns


def _image_rows(album: _Album) -> Iterator[dict[str, list[Any]]]:
    """The rows of index/images.parquet by example, in chunks; one empty chunk where there are none."""
    examples = sorted(album.images)
    for start in range(0, max(len(examples), 1), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        pictured = [album.images[example] for example in chunk]
        yield {
            "image": [{"bytes": album.spool.get(("image", example)), "path": f"{example}.webp"} for example in chunk],
            "example": chunk,
            **{name: [getattr(one, name) for one in pictured] for name in ("key", "label", "height", "width")},
        }


def _crop_rows(layer: Winners, album: _Album) -> Iterator[dict[str, list[Any]]]:
    """The rows of crops/LAYER.parquet, in chunks; one empty chunk where there are none."""
    places = [(int(c), rank) for c in np.argsort(layer.channels) for rank in _ranks(layer, int(c))]
    for start in range(0, max(len(places), 1), _CHUNK):
        rows = []
        for c, rank in places[start : start + _CHUNK]:
            data, path = album.spool.get(("crop", layer.layer, c, rank)), f"{layer.channels[c]}-{rank}.png"
            rows.append({"image": {"bytes": data, "path": path}, **_told(layer, c, rank, album)})
        yield {name: [row[name] for row in rows] for name in CROPS.names}


def _write_mosaics(layer: Winners, fit: Fit, whole: bool, album: _Album, folder: Place) -> None:
    """LAYER-crop.png, LAYER-full.png with the boxes drawn on whole images, and LAYER.png with both side by side.

    Below whole images stand their labels.
    """
    k, tiles = layer.examples.shape[1], album.tiles[layer.layer]
    labels = {(c, rank): album.shown[layer.layer, c, rank].label for c in range(len(layer.channels)) for rank in _ranks(layer, c)}
    numbers = [int(channel) for channel in layer.channels]
    for suffix, kinds in (("-crop", ("crop",)), ("-full", ("full",)), ("", ("crop", "full"))):
        captioned = "full" in kinds and any(labels.values())
        layout = mosaic.Layout.of(len(numbers), [k] * len(kinds), [tiles[kind] for kind in kinds], max(numbers), captioned)

        def tile(
            row: int, group: int, place: int, kinds: Sequence[str] = kinds, layout: mosaic.Layout = layout
        ) -> np.ndarray | None:
            if place >= len(_ranks(layer, row)):
                return None
            pixels = mosaic.decode_png(album.spool.get((kinds[group], layer.layer, row, place)))
            if kinds[group] == "full" or _each_to_its_own_scale(layer, whole) or not layer.boxes[row, place].any():
                return _centred(pixels, layout.tile[group])
            if not layer.boxes[row, place].any():  # a unit that sees nothing is shown with the whole image
                return _centred(pixels, layout.tile[group])
            return mosaic.fit_patch(pixels, _inside(layer, row, place, fit), layout.tile[group])

        def caption(row: int, group: int, place: int, kinds: Sequence[str] = kinds) -> str:
            return (labels.get((row, place)) or "") if kinds[group] == "full" else ""

        picture = mosaic.draw(layout, numbers, tile, caption)
        write_bytes(folder / f"{file_name(layer.layer)}{suffix}.png", mosaic.encode_png(picture))


def _tiles(layer: Winners, fit: Fit, whole: bool) -> dict[str, tuple[int, int]]:
    """The sizes of the tiles of a layer, so that both kinds fit into one picture."""
    own_scale = _each_to_its_own_scale(layer, whole) or not layer.extents.any()  # what sees nothing is shown whole
    extent = (fit.height, fit.width) if own_scale else (int(layer.extents[:, 0].max()), int(layer.extents[:, 1].max()))
    k = layer.examples.shape[1]
    sizes = [_tile(*extent), (_SIDE, _SIDE)]
    both = mosaic.Layout.of(len(layer.channels), [k, k], sizes, int(layer.channels.max()), captioned=True)
    return dict(zip(("crop", "full"), both.tile, strict=True))


def _each_to_its_own_scale(layer: Winners, whole: bool) -> bool:
    """Whether patches fill their tiles: whole images, which stand for fields of no size too, and effective fields."""
    return whole or layer.effective is not None or not layer.extents.all()


def _tile(height: int, width: int) -> tuple[int, int]:
    """The size of a tile for patches of this many input pixels; small ones are enlarged by a whole number."""
    longest = max(height, width)
    scale = _SIDE // longest if longest <= _SIDE // 3 else _SIDE / longest
    return max(8, round(height * scale)), max(8, round(width * scale))


def _centred(pixels: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    scale = min(tile[0] / pixels.shape[0], tile[1] / pixels.shape[1])
    high, wide = pixels.shape[0] * scale / tile[0], pixels.shape[1] * scale / tile[1]
    return mosaic.fit_patch(pixels, ((1 - high) / 2, (1 - wide) / 2, (1 + high) / 2, (1 + wide) / 2), tile)


def _inside(layer: Winners, c: int, rank: int, fit: Fit) -> tuple[float, float, float, float]:
    """Where in its tile a patch lies: against the far side where the near one was clipped by the image's border."""
    y1, x1, y2, x2 = (int(edge) for edge in layer.boxes[c, rank])
    largest = layer.extents.max(axis=0)
    top, bottom = _placed(y1, y2, fit.height, int(layer.extents[c, 0]), int(largest[0]))
    left, right = _placed(x1, x2, fit.width, int(layer.extents[c, 1]), int(largest[1]))
    return top, left, bottom, right


def _placed(first: int, last: int, size: int, extent: int, largest: int) -> tuple[float, float]:
    length = last - first
    missing = max(extent - length, 0)
    if missing and first == 0 and last < size:
        before = missing
    elif missing and last == size and first > 0:
        before = 0
    else:
        before = missing // 2
    before += (largest - extent) // 2
    return before / largest, min((before + length) / largest, 1.0)
