"""JobResults: what a finished job left, for Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.errors import WrongSpec
from pipeline.receipt import read_receipt
from pipeline.store.places import place

if TYPE_CHECKING:
    from pipeline.attribution.map_files import StoredMap


class JobResults:
    """The results of a finished job, read when they are asked for."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open a job's folder, local or remote. Raises: WrongSpec, for a folder that holds no job."""
        self.folder = place(folder)
        self.receipt = read_receipt(self.folder, any_format=True)

    def maps(self, method: str = "gradcam", layer: str | None = None) -> Iterator[StoredMap]:
        """The attribution maps that `gradcam.arrays = true` stored, in the order of the images; a few are in memory at a time.

        Args:
            method: as in `gradcam.methods`.
            layer: for a method that looks at a layer's maps: which; None where the job explained but one layer.

        Returns: maps with `example`, `key`, `target`, `number` and `values`, float32 (h, w) or (h, w, 3).

        Raises: MissingInput, for a job that stored none of these; WrongSpec, where several layers have maps and none is named.
        """
        from pipeline.attribution.map_files import read_maps
        from pipeline.store.tables import read_index

        if layer is None:
            rows = read_index(self.folder, "attributions").select(["method", "layer"]).to_pylist()
            layers = sorted({row["layer"] for row in rows if row["method"] == method} - {None})
            if len(layers) > 1:
                raise WrongSpec(f"{self.folder} has maps of {method!r} at {', '.join(layers)}. Name one of these layers.")
            layer = layers[0] if layers else None
        return read_maps(self.folder, method, layer)


def open(folder: str | os.PathLike[str]) -> JobResults:
    """What the job in a folder left. Raises: WrongSpec, for a folder that holds no job."""
    return JobResults(folder)
