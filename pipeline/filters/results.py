"""The results of the stage: a picture for each kernel, and a row of the index for each filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.drawing.pixels import encode_flat_png
from pipeline.filters.kernel_sheet import KernelSheet, Limits, draw_kernel, kind_of
from pipeline.filters.statistics import FilterStatistics
from pipeline.geometry import EDGES
from pipeline.models.network import Kernel
from pipeline.store.files import file_name, keep_only
from pipeline.store.picture_writer import PictureWriter
from pipeline.store.places import Place
from pipeline.store.tables import INDEX, write_index


@dataclass(frozen=True)
class KernelOrigin:
    """Where a kernel stands in the network.

    layer: the convolution. gives: the layers whose channels are the kernel's filters, one for one.
    inputs_of: the layer whose channels the kernel's inputs are; None where it takes the image, or several layers.
    """

    layer: str
    gives: Sequence[str]
    inputs_of: str | None = None


class FilterResults:
    """Draws kernels one by one, and collects their filters' rows of the index."""

    def __init__(self, folder: Place, limits: Limits) -> None:
        """For a job's folder; nothing is written yet."""
        self._folder, self._limits, self._writer = folder, limits, PictureWriter()
        self._columns: dict[str, list[Any]] = {name: [] for name in INDEX["filters"].names}

    def add(self, origin: KernelOrigin, kernel: Kernel, colours: Sequence[int] | None) -> None:
        """Draw one kernel.

        Args:
            colours: for red, green and blue, the number of the input that carries it; None where the inputs are not colours.

        Raises: StoreFailed.
        """
        layer = origin.layer
        suffix, part = ("", "") if kernel.part == "kernel" else (f"-{kernel.part}", f", {kernel.part}")
        picture = f"mosaics/filters/{file_name(layer)}{suffix}.png"
        drawn = draw_kernel(f"{layer}{part}", kernel, self._limits, colours, origin.inputs_of)
        self._writer.put(self._folder / picture, lambda: encode_flat_png(drawn.picture))
        for name, values in _rows(kernel, drawn).items():
            self._columns[name].extend(values)
        for name, value in (
            ("layer", layer),
            ("picture", picture),
            ("gives", list(origin.gives)),
            ("inputs_of", origin.inputs_of),
        ):
            self._columns[name].extend([value] * kernel.filters)

    def write_index(self, layers: Sequence[str]) -> dict[str, Any]:
        """Write index/filters.parquet and remove the pictures of earlier runs. Returns: the counts. Raises: StoreFailed."""
        self._writer.finish()
        write_index(self._folder, "filters", self._columns)
        keep_only(self._folder / "mosaics" / "filters", {self._folder / picture for picture in self._columns["picture"]})
        filters, drawn = len(self._columns["layer"]), int(sum(self._columns["drawn"]))
        summary = f"{filters:,} filters of {len(layers)} layers, {drawn:,} of them drawn"
        return {"layers": list(layers), "filters": filters, "summary": summary}


def _rows(kernel: Kernel, drawn: KernelSheet) -> dict[str, Any]:
    """The columns of the index for a kernel and its picture, a row for each filter."""
    statistics = FilterStatistics.of(kernel)
    count = kernel.filters
    height, width, inputs, _ = kernel.weights.shape
    alone = statistics.twin < 0
    strongest, input_weights = statistics.strongest_inputs
    return {
        "part": [kernel.part] * count,
        "channel": np.arange(count),
        "kind": [kind_of(kernel)] * count,
        "height": [height] * count,
        "width": [width] * count,
        "inputs": [inputs] * count,
        "first_input": [kernel.first_input(filter) for filter in range(count)],
        "norm": statistics.norm,
        "mean": statistics.mean,
        "share_near_zero": statistics.share_near_zero,
        "twin": _null_where(alone, statistics.twin, int),
        "twin_cosine": _null_where(alone, statistics.twin_cosine, float),
        "strongest_inputs": list(strongest),
        "input_weights": list(input_weights),
        "drawn": drawn.filters,
        **{edge: _null_where(~drawn.filters, drawn.boxes[:, column], int) for column, edge in enumerate(EDGES)},
    }


def _null_where(missing: np.ndarray, values: np.ndarray, kind: type) -> list[Any]:
    return [None if none else kind(value) for value, none in zip(values, missing, strict=True)]
