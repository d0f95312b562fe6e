"""The stage `featuremaps`: what every channel of a layer makes of one image, one picture a layer and image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from pipeline.drawing.boxes import cross_out
from pipeline.drawing.contact_sheet import Scale, contact_sheet
from pipeline.drawing.palettes import GROUND, LETTERS, MARK, palette
from pipeline.drawing.pixels import encode_png, resize
from pipeline.drawing.text import Note
from pipeline.job import Job
from pipeline.models.network import LayerInfo, in_groups
from pipeline.models.selection import select_layers
from pipeline.report.pictures import feature_maps
from pipeline.report.section import Section
from pipeline.sources.picking import Picked, check_picks, count_picks, named, pick
from pipeline.spec.featuremaps import FeaturemapsSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.files import file_name, keep_only, write_bytes
from pipeline.store.tables import INDEX, write_index

_MOST_FLOATS = 100_000_000  # of the maps of one image that are in memory at a time
_SIDE = 1600  # pixels of a picture's longer side, roughly
_TILE = 112  # pixels of a large tile's longer side
_LEAST_TILE = 24
_GAP = 4
_NUMBERS = 14  # pixels of a line of numbers
_FRAME = (70, 74, 82)  # around each map: some colours begin at black, as the ground nearly is


@dataclass(frozen=True, eq=False)
class MapStatistics:
    """One value a channel of one image's maps, over what in them is finite: (channels,) each.

    low, high, mean: NaN where nothing is finite. share_positive: from 0 to 1.
    dead: whether the map is the same everywhere; a map of one unit never is. nans: how many values are not finite.
    """

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    share_positive: np.ndarray
    dead: np.ndarray
    nans: np.ndarray

    @classmethod
    def of(cls, maps: np.ndarray) -> MapStatistics:
        """The statistics of maps: float32 (h, w, channels)."""
        values = maps.reshape(-1, maps.shape[2])
        finite = np.isfinite(values)
        counts = finite.sum(axis=0)
        some = np.maximum(counts, 1)
        low = np.where(counts, np.where(finite, values, np.inf).min(axis=0), np.nan).astype(np.float32)
        high = np.where(counts, np.where(finite, values, -np.inf).max(axis=0), np.nan).astype(np.float32)
        mean = np.where(counts, np.where(finite, values, 0).sum(axis=0, dtype=np.float64) / some, np.nan)
        positive = ((values > 0) & finite).sum(axis=0) / some
        dead = (low == high) & (counts == len(values)) & (len(values) > 1)
        return cls(low, high, mean, positive, dead, len(values) - counts)


def featuremaps(job: Job) -> Outcome:
    """Draw the maps and write index/featuremaps.parquet.

    Raises: UnknownLayer, WrongSpec, MissingInput, as `check_featuremaps` does; UnusableData, for an image that
    cannot be read; StoreFailed.
    """
    from pipeline.compiled.compile import compile_tap

    layers, picks = _layers(job), job.spec.featuremaps
    rows: dict[str, list[dict[str, Any]]] = {layer.name: [] for layer in layers}
    nans: dict[str, int] = {}
    expected = len(layers) * count_picks(job.source, picks)
    with job.reporter.step("feature maps", "pictures") as advance:
        for group in in_groups(layers, _MOST_FLOATS):
            tap = compile_tap(job.network, [layer.name for layer in group], 1)
            # The images are read anew for each group: all of them at once may be more than memory holds.
            for one, name in named(pick(job.source, job.fit, picks)):
                maps = tap(one.shown[np.newaxis])
                for layer in group:
                    of_layer = np.asarray(maps[layer.name])[0]
                    statistics = MapStatistics.of(of_layer)
                    rows[layer.name].append(_write(job, layer, one, name, of_layer, statistics))
                    if statistics.nans.any():
                        nans[layer.name] = nans.get(layer.name, 0) + int(statistics.nans.sum())
                    advance(sum(map(len, rows.values())), expected)
    found = [row for layer in layers for row in rows[layer.name]]
    columns = {name: [value for row in found for value in row[name]] for name in INDEX["featuremaps"].names}
    write_index(job.folder, "featuremaps", columns)
    folder = job.folder / "mosaics" / "featuremaps"
    keep_only(folder, {job.folder / row["picture"][0] for row in found})
    images = len(rows[layers[0].name])
    dead = int(sum(columns["dead"]))
    return {
        "layers": [layer.name for layer in layers],
        "images": images,
        "nans": nans,
        "told": f"{len(columns['dead']):,} maps of {len(layers)} layers and {images} images, {dead:,} of them dead",
    }


def check_featuremaps(job: Job) -> None:
    """Find before work starts which layers and images are not there. Raises: UnknownLayer, WrongSpec, MissingInput."""
    _layers(job)
    check_picks(job.source, job.spec.featuremaps, "[featuremaps]")


def draw_maps(
    maps: np.ndarray, statistics: MapStatistics, lines: Sequence[str], corner: np.ndarray, colours: str, shared: bool, most: int
) -> np.ndarray:
    """One image's maps of one layer as one picture: uint8 RGB.

    Args:
        maps: float32 (h, w, channels).
        lines: what the head says first.
        corner: the image, uint8 (h, w, 3).
        shared: one scale for all maps that are drawn, instead of each its own, which maps of a single unit do not have.
        most: channels that are drawn at most.
    """
    height, width, channels = maps.shape
    most = min(most, channels)
    shared = shared or (height, width) == (1, 1)  # a single value has no scale of its own
    high, wide, told = _tile(height, width, most)
    cell_high, cell_wide = high + _NUMBERS + _GAP, max(wide, 8 * len(str(most - 1)) + 2) + _GAP
    columns = int(np.clip(round((1.3 * most * cell_high / cell_wide) ** 0.5), 1, most))
    body = np.full((-(-most // columns) * cell_high, columns * cell_wide, 3), GROUND, np.uint8)
    low, top = np.nan_to_num(statistics.low[:most]), np.nan_to_num(statistics.high[:most])
    if shared:
        low, top = np.full_like(low, low.min()), np.full_like(top, top.max())
    notes, painted = [], palette(colours)
    for channel in range(most):
        y, x = channel // columns * cell_high + _NUMBERS, channel % columns * cell_wide + 1
        body[y - 1 : y + high + 1, x - 1 : x + wide + 1] = _FRAME
        tile = body[y : y + high, x : x + wide]
        coloured = _coloured(maps[..., channel], float(low[channel]), float(top[channel]), painted)
        # What grows stays made of squares: a smoothed map would look finer than it is.
        tile[:] = (
            resize(coloured, high, wide)
            if high < height or wide < width
            else coloured.repeat(high // height, axis=0).repeat(wide // width, axis=1)
        )
        if statistics.dead[channel]:
            cross_out(tile)
        notes.append(Note(y - 2, x, str(channel), "lb", colour=MARK if statistics.dead[channel] else LETTERS))
    told = f"{'Every channel' if most == channels else f'The first {most:,} of {channels:,} channels'}{told}"
    lines = [*lines, f"{told}; {'one scale for all' if shared else 'each map has a scale of its own'}."]
    if statistics.dead[:most].any():
        lines.append(f"{int(statistics.dead[:most].sum()):,} dead maps, the same everywhere, are crossed out.")
    if statistics.nans[:most].any():
        lines.append("Values that are no numbers are amber.")
    ends = (f"{low[0]:.3g}", f"{top[0]:.3g}") if shared else ("a map's least", "its greatest value")
    return contact_sheet(lines, body, notes, Scale(painted, *ends), corner)


def _layers(job: Job) -> list[LayerInfo]:
    named = job.spec.featuremaps.layers
    return list(job.layers) if named is None else select_layers(job.network, named)


def _write(job: Job, layer: LayerInfo, one: Picked, name: str, maps: np.ndarray, statistics: MapStatistics) -> dict[str, Any]:
    """Draw one layer's maps of one image. Returns: their rows of the index, column by column."""
    spec = job.spec.featuremaps
    height, width, channels = layer.shape
    whose = PurePosixPath(one.image.key).name if one.example is None else f"example {one.example}, {one.image.key}"
    lines = [
        f"{layer.name} ({layer.kind}): {channels:,} maps of {height} x {width}",
        whose if one.image.label is None else f"{whose}, label {one.image.label}",
    ]
    picture = f"mosaics/featuremaps/{file_name(layer.name)}/{name}.png"
    drawn = draw_maps(maps, statistics, lines, one.shown, spec.colours, spec.scale == "layer", spec.channels)
    write_bytes(job.folder / picture, encode_png(drawn))
    return {
        "layer": [layer.name] * channels,
        "channel": range(channels),
        "example": [one.example] * channels,
        "key": [one.image.key] * channels,
        "min": statistics.low,
        "max": statistics.high,
        "mean": statistics.mean,
        "share_positive": statistics.share_positive,
        "dead": statistics.dead,
        "drawn": np.arange(channels) < spec.channels,
        "picture": [picture] * channels,
    }


def _tile(height: int, width: int, count: int) -> tuple[int, int, str]:
    """The size of a map's tile, so that so many fill one picture, and how its head tells of it."""
    longer = max(height, width)
    if longer == 1:
        return _LEAST_TILE, _LEAST_TILE, ""
    side = next((side for side in range(_TILE, _LEAST_TILE, -4) if count * (side + _NUMBERS) * side <= _SIDE**2), _LEAST_TILE)
    if longer <= side:
        times = side // longer
        return height * times, width * times, "" if times == 1 else f", at {times} times its size"
    part = -(-longer // side)
    return max(1, height // part), max(1, width // part), f", at 1/{part} of its size"


def _coloured(values: np.ndarray, low: float, top: float, painted: np.ndarray) -> np.ndarray:
    """A map in colours: uint8 (h, w, 3)."""
    finite = np.isfinite(values)
    scaled = (np.where(finite, values, low).astype(np.float64) - low) / ((top - low) or 1.0)
    return np.where(finite[..., np.newaxis], painted[np.rint(255 * scaled).astype(int)], np.array(MARK, np.uint8))


STAGE = Stage(
    "featuremaps",
    featuremaps,
    table=FeaturemapsSpec,
    check=check_featuremaps,
    index=("featuremaps",),
    folders=("mosaics/featuremaps",),
    section=Section("what each channel makes of an image", "maps", feature_maps),
)
