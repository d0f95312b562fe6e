"""The pictures of winners, made from the source images, each of which is decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.drawing.boxes import thumbnail
from pipeline.drawing.pixels import encode_png, encode_webp, shrink
from pipeline.geometry import Box
from pipeline.patches.winners import Winners
from pipeline.sources.fit import Fit
from pipeline.sources.source import Image, Source
from pipeline.store.spool import Spool

_THUMBNAIL = 256  # pixels of a whole image's longer side in index/images.parquet

# Images are held back until so many winners wait for their effective fields, which fill batches then.
_WAITING = 256
_MOST_BYTES = 256_000_000  # of source images held back meanwhile

WinnerId = tuple[str, str, int, int]  # table, layer, position of the channel in the layer's heap, rank
WinnersByExample = Mapping[int, Sequence[tuple[Winners, int, int]]]  # by example: layer, position of the channel, rank


@dataclass(frozen=True)
class WinnerDetails:
    """What is known of one winner after its image was opened.

    source: its box in pixels of the source image.
    effective, effective_source: its effective field, in pixels of the input and of the source; None where it has none.
    """

    key: str
    label: str | None
    source: Box
    effective: Box | None = None
    effective_source: Box | None = None


@dataclass(frozen=True)
class SourceImage:
    """A source image that has a winner; its thumbnail is in the spool."""

    key: str
    label: str | None
    height: int
    width: int


@dataclass
class WinnerPictures:
    """The encoded crops and thumbnails of the winners, on disk, and what was read beside them.

    tiles: {layer: {"crop" or "full": (height, width)}}: the sizes at which they are drawn.
    """

    spool: Spool
    tiles: dict[str, dict[str, tuple[int, int]]]
    details: dict[WinnerId, WinnerDetails] = field(default_factory=dict)
    images: dict[int, SourceImage] = field(default_factory=dict)

    def of(self, layer: Winners, c: int, rank: int) -> WinnerDetails:
        """What is known of one winner."""
        return self.details[layer.table, layer.layer, c, rank]

    def picture(self, kind: str, layer: Winners, c: int, rank: int) -> bytes:
        """The PNG of one winner: its "crop", or its "full" image, small and with the box."""
        return self.spool.get((kind, layer.layer, c, rank))


def open_images(
    winners: Sequence[Winners],
    source: Source,
    fit: Fit,
    whole: bool,
    pictures: WinnerPictures,
    progress: Callable[[int, int], None],
) -> None:
    """Decode every image that has a winner, once, and crop and draw its winners.

    Raises: UnusableData, for an image that can no longer be read.
    """
    winners_of: dict[int, list[tuple[Winners, int, int]]] = {}
    for layer in winners:
        for c, rank in layer.places():
            winners_of.setdefault(int(layer.examples[c, rank]), []).append((layer, c, rank))
    done = 0
    small = b""
    encoded: np.ndarray | None = None
    for group in _held_back(source.fetch(sorted(winners_of)), winners_of):
        effective = _effective(group, winners_of, fit)
        for example, image in group:
            pictures.images[example] = SourceImage(image.key, image.label, *image.pixels.shape[:2])
            if image.pixels is not encoded:  # windows of one image share its pixels
                encoded, small = image.pixels, encode_webp(shrink(image.pixels, _THUMBNAIL))
            pictures.spool.put(("image", example), small)
            for layer, c, rank in winners_of[example]:
                _keep(layer, c, rank, image, fit, whole, effective.get((layer.table, layer.layer, c, rank)), pictures)
            done += 1
            progress(done, len(winners_of))


def _held_back(images: Iterable[tuple[int, Image]], winners_of: WinnersByExample) -> Iterator[list[tuple[int, Image]]]:
    """The images in groups with enough winners that wait for their effective fields; where none does, one by one."""
    group: list[tuple[int, Image]] = []
    waiting = size = 0
    for example, image in images:
        waiting += sum(layer.effective is not None for layer, _, _ in winners_of[example])
        size += 0 if group and image.pixels is group[-1][1].pixels else image.pixels.nbytes
        group.append((example, image))
        if not waiting or waiting >= _WAITING or size >= _MOST_BYTES:
            yield group
            group, waiting, size = [], 0, 0
    if group:
        yield group


def _effective(group: Sequence[tuple[int, Image]], winners_of: WinnersByExample, fit: Fit) -> dict[WinnerId, Box]:
    """The effective fields of a group's winners that have one, by table, layer, position of the channel and rank."""
    units_of: dict[tuple[str, str], list[tuple[Winners, int, int, np.ndarray]]] = {}
    for example, image in group:
        waiting = [winner for winner in winners_of[example] if winner[0].effective is not None]
        if waiting:
            fitted = fit.apply(image.seen)
            for layer, c, rank in waiting:
                units_of.setdefault((layer.table, layer.layer), []).append((layer, c, rank, fitted))
    boxes: dict[WinnerId, Box] = {}
    for (table, name), of_layer in units_of.items():
        images = np.stack([fitted for _, _, _, fitted in of_layer])
        units = np.array([(layer.rows[c, k], layer.cols[c, k], layer.channels[c]) for layer, c, k, _ in of_layer])
        effective = of_layer[0][0].effective
        assert effective is not None
        for (_, c, rank, _), box in zip(of_layer, effective.boxes(images, units), strict=True):
            if box.any():
                boxes[table, name, c, rank] = Box.of(box)
    return boxes


def _keep(
    layer: Winners, c: int, rank: int, image: Image, fit: Fit, whole: bool, effective: Box | None, pictures: WinnerPictures
) -> None:
    """Crop one winner, draw its thumbnail, and keep what is known of it."""
    source = fit.to_source(layer.seen(c, rank, fit), image.region)
    effective_source = fit.to_source(effective, image.region) if effective else None
    part = effective_source or source
    crop = image.region if whole else part
    pictures.details[layer.table, layer.layer, c, rank] = WinnerDetails(
        image.key, image.label, source, effective, effective_source
    )
    if layer.table != "activations":
        return
    name = (layer.layer, c, rank)
    pictures.spool.put(("crop", *name), encode_png(crop.cut(image.pixels)))
    drawn = thumbnail(image.pixels, part, pictures.tiles[layer.layer]["full"])
    pictures.spool.put(("full", *name), encode_png(drawn))
