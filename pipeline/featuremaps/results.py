"""The results of the stage: a picture for each layer and image, and a row of the index for each of its channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from pipeline.drawing.pixels import encode_flat_png
from pipeline.featuremaps.map_sheet import MapStyle, draw_maps
from pipeline.featuremaps.statistics import MapStatistics
from pipeline.models.network import LayerInfo, Network, in_groups
from pipeline.progress import counted
from pipeline.sources.picking import Picked, named
from pipeline.spec.featuremaps import FeaturemapsSpec
from pipeline.store.files import file_name, keep_only
from pipeline.store.picture_writer import PictureWriter
from pipeline.store.places import Place
from pipeline.store.tables import INDEX, write_index

_MOST_FLOATS = 100_000_000  # of the maps of one image that are in memory at a time


def maps_of(
    network: Network, layers: Sequence[LayerInfo], images: Callable[[], Iterable[Picked]]
) -> Iterator[tuple[LayerInfo, Picked, str, np.ndarray]]:
    """The maps of some layers for some images: layer, image, the image's name for files, float32 (h, w, channels).

    Each layer's images come in their order; layers whose maps are many take turns.

    Args:
        images: picks them. It is called for each group of layers, because all of them may not fit into memory.
    """
    from pipeline.compiled.compile import compile_tap

    for group in in_groups(layers, _MOST_FLOATS):
        tap = compile_tap(network, [layer.name for layer in group], 1)
        for picked, name in named(images()):
            maps = tap(picked.given[np.newaxis])
            for layer in group:
                yield layer, picked, name, np.asarray(maps[layer.name])[0]


class FeatureMapResults:
    """Draws maps one by one, and collects their rows of the index.

    Attributes:
        pictures: how many were drawn.
        nans: {layer: how many values of its maps were not finite}, for layers that have such.
    """

    def __init__(self, folder: Place, layers: Sequence[LayerInfo], spec: FeaturemapsSpec) -> None:
        """For a job's folder; nothing is written yet."""
        self._folder = folder
        self._style = MapStyle(spec.colours, spec.scale == "layer", spec.channels)
        self._rows: dict[str, list[dict[str, Any]]] = {layer.name: [] for layer in layers}
        self._writer = PictureWriter()
        self.pictures = 0
        self.nans: dict[str, int] = {}

    def add(self, layer: LayerInfo, picked: Picked, name: str, maps: np.ndarray) -> None:
        """Draw one layer's maps of one image, float32 (h, w, channels). Raises: StoreFailed."""
        statistics = MapStatistics.of(maps)
        picture = f"mosaics/featuremaps/{file_name(layer.name)}/{name}.png"
        self._writer.put(
            self._folder / picture, lambda: encode_flat_png(draw_maps(maps, _head(layer, picked), picked.fitted, self._style))
        )
        self.pictures += 1
        if statistics.nans.any():
            self.nans[layer.name] = self.nans.get(layer.name, 0) + int(statistics.nans.sum())
        self._rows[layer.name].append(
            {
                "layer": [layer.name] * layer.channels,
                "channel": range(layer.channels),
                "example": [picked.example] * layer.channels,
                "key": [picked.image.key] * layer.channels,
                "min": statistics.low,
                "max": statistics.high,
                "mean": statistics.mean,
                "share_positive": statistics.share_positive,
                "dead": statistics.dead,
                "drawn": np.arange(layer.channels) < self._style.channels,
                "picture": [picture] * layer.channels,
            }
        )

    def write_index(self) -> dict[str, Any]:
        """Write index/featuremaps.parquet and remove the pictures of earlier runs. Returns: the counts. Raises: StoreFailed."""
        rows = [row for of_layer in self._rows.values() for row in of_layer]
        columns = {name: [value for row in rows for value in row[name]] for name in INDEX["featuremaps"].names}
        self._writer.finish()
        write_index(self._folder, "featuremaps", columns)
        keep_only(self._folder / "mosaics" / "featuremaps", {self._folder / row["picture"][0] for row in rows})
        images = len(next(iter(self._rows.values())))
        maps, dead, layers = len(columns["dead"]), int(sum(columns["dead"])), list(self._rows)
        summary = (
            f"{counted(maps, 'map')} of {counted(len(layers), 'layer')} and {counted(images, 'image')}, {dead:,} of them dead"
        )
        return {"layers": layers, "images": images, "nans": self.nans, "summary": summary}


def _head(layer: LayerInfo, picked: Picked) -> list[str]:
    """The heading above the maps of a layer and image."""
    height, width, channels = layer.shape
    name = PurePosixPath(picked.image.key).name if picked.example is None else f"example {picked.example}, {picked.image.key}"
    return [
        f"{layer.name} ({layer.kind}): {counted(channels, 'map')} of {height} x {width}",
        name if picked.image.label is None else f"{name}, label {picked.image.label}",
    ]
