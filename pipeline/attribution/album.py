"""Album: the pictures of the stage, each in its place below mosaics/gradcam/, and the mosaics that join them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.drawing import attribution_maps as pictures
from pipeline.drawing.attribution_maps import Panel
from pipeline.drawing.pixels import encode_png
from pipeline.sources.picking import Picked
from pipeline.store.files import file_name, write_bytes
from pipeline.store.places import Place

_PAGE = 48  # tiles in one mosaic


class Album:
    """Writes pictures as they come; keeps the tiles of one mosaic a layer, at most, in memory.

    EXAMPLE/CLASS-METHOD[-LAYER].png: one map over its image; EXAMPLE/CLASS-LAYER.png: all maps of a layer side by
    side; LAYER.png, LAYER-2.png and so on: many images. A file's images are named for its path.
    """

    def __init__(self, folder: Place) -> None:
        """Empty the folder of what an earlier run left there."""
        self._folder = folder
        self._tiles: dict[str, list[np.ndarray]] = {}
        self._titles: dict[str, list[str]] = {}
        self._pages: dict[str, int] = {}
        for path in [*folder.glob("*.png"), *folder.glob("*/*.png")]:
            path.unlink()

    def single(self, one: Picked, number: int, method: str, layer: str | None, pixels: np.ndarray) -> str:
        """Write one picture. Returns: its path below the job's folder."""
        name = f"{number}-{method.replace('+', 'p')}{f'-{file_name(layer)}' if layer else ''}.png"
        return self._write(f"{_folder_of(one)}/{name}", pixels)

    def row(self, one: Picked, number: int, layer: str, panels: Sequence[Panel], caption: str) -> None:
        """Write one image's panels side by side, and keep them for the layer's mosaic."""
        drawn = pictures.side_by_side(panels, f"{caption}   {one.image.key}")
        self._write(f"{_folder_of(one)}/{number}-{file_name(layer)}.png", drawn)
        tiles = self._tiles.setdefault(layer, [])
        tiles.append(pictures.tile(panels, caption))
        self._titles[layer] = [panel.title.partition(",")[0] for panel in panels]
        if len(tiles) == _PAGE:
            self._write_page(layer)

    def close(self) -> None:
        """Write the mosaics that are not full."""
        for layer, tiles in self._tiles.items():
            if tiles:
                self._write_page(layer)

    def _write_page(self, layer: str) -> None:
        self._pages[layer] = page = self._pages.get(layer, 0) + 1
        self._write(
            f"{file_name(layer)}{'' if page == 1 else f'-{page}'}.png", pictures.together(self._tiles[layer], self._titles[layer])
        )
        self._tiles[layer].clear()

    def _write(self, name: str, pixels: np.ndarray) -> str:
        write_bytes(self._folder / name, encode_png(pixels))
        return f"mosaics/gradcam/{name}"


def _folder_of(one: Picked) -> str:
    return str(one.example) if one.example is not None else file_name(one.image.key)
