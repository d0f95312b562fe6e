"""ExplanationPictures: the pictures of the stage below mosaics/gradcam/, and the mosaics that join them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from pipeline.attribution.heat import energy, on_source
from pipeline.attribution.methods import method_named
from pipeline.attribution.methods.method import Side
from pipeline.attribution.plan import MapKey
from pipeline.drawing import attribution_maps as drawing
from pipeline.drawing.attribution_maps import Panel
from pipeline.drawing.pixels import encode_jpeg, encode_png
from pipeline.sources.fit import Fit
from pipeline.sources.picking import Picked
from pipeline.store.files import file_name
from pipeline.store.picture_writer import PictureWriter
from pipeline.store.places import Place

_TILES = 48  # in one mosaic
_QUALITY = 92  # of JPEG


class ExplanationPictures:
    """Writes pictures as they come, until `close`; keeps the tiles of one mosaic a layer, at most, in memory.

    EXAMPLE/TARGET-METHOD[-LAYER].jpg: one map over its image; EXAMPLE/TARGET-LAYER.jpg: all maps of a layer side by
    side; LAYER.jpg, LAYER-2.jpg and so on: many images. They are PNG where the images are so small that their pixels are
    drawn as squares. A file's images are named for its path.
    """

    def __init__(
        self,
        folder: Place,
        layers: Sequence[str],
        fit: Fit,
        bands: tuple[int, int, int] = (0, 1, 2),
        sides: Side = "for",
    ) -> None:
        """The pictures of one output.

        Args:
            layers: those whose maps stand side by side, each with the maps that look at pixels alone.
            fit: by which the network is shown the images.
            bands: of maps that have a value for each band: those drawn as red, green and blue.
            sides: which the maps have; see `ExplainPlan`.
        """
        self._folder, self._layers, self._fit = folder, layers, fit
        self._bands, self._sides = list(bands), sides
        self._below = f"{folder.name}/" if folder.parent.name == "gradcam" else ""  # of one of several outputs
        self._writer = PictureWriter()
        self._tiles: dict[str, list[np.ndarray]] = {}
        self._titles: dict[str, list[str]] = {}
        self._suffixes: dict[str, str] = {}  # of the last image's pictures
        self._pages: dict[str, int] = {}

    @staticmethod
    def clear(folder: Place) -> None:
        """Remove the pictures of an earlier run, those of several outputs too."""
        for below in ("", "*/", "*/*/", "*/*/*/"):
            for path in [path for suffix in (".png", ".jpg") for path in folder.glob(f"{below}*{suffix}")]:
                path.unlink()

    def add(self, picked: Picked, name: str, caption: str, maps: Mapping[MapKey, np.ndarray]) -> dict[MapKey, str]:
        """Draw the maps of one target of an image.

        Args:
            name: of the target, for the files.
            caption: what stands above every picture; the method's title follows.

        Returns: the path of every map's picture below the job's folder.
        """
        folder = str(picked.example) if picked.example is not None else file_name(picked.image.key)
        suffix = ".png" if drawing.is_enlarged(picked.drawn) else ".jpg"
        panels: dict[MapKey, Panel] = {}
        paths: dict[MapKey, str] = {}
        for (key, layer), values in maps.items():
            method = method_named(key)
            draws = "signed" if method.draws == "heat" and self._sides == "both" else method.draws
            drawn = values[..., self._bands] if values.ndim == 3 else values
            pixels = overlay(drawn, draws, picked.drawn, self._fit)
            peak = float(energy(values).max()) if draws == "heat" else None
            range_of = f", 0 to {peak:.2g}" if peak else ", no evidence on this side" if draws == "heat" else ", zero everywhere"
            blank = not values.any()
            title = f"{method.title}{range_of}" if blank or peak is not None else method.title
            panels[key, layer] = Panel(title, pixels, draws)
            file = f"{name}-{key.replace('+', 'p')}{f'-{file_name(layer)}' if layer else ''}{suffix}"
            captioned = drawing.captioned(pixels, f"{caption}  {method.title}{range_of if blank else ''}", peak)
            paths[key, layer] = self._write(f"{folder}/{file}", captioned)
        for layer_of_row in self._layers:
            row = [panel for (_, layer), panel in panels.items() if layer in (None, layer_of_row)]
            self._side_by_side(f"{folder}/{name}-{file_name(layer_of_row)}{suffix}", picked, layer_of_row, row, caption)
        return paths

    def close(self) -> None:
        """Write the mosaics that are not full, and wait until all pictures are written. Raises: StoreFailed."""
        for layer, tiles in self._tiles.items():
            if tiles:
                self._write_mosaic(layer)
        self._writer.finish()

    def _side_by_side(self, path: str, picked: Picked, layer: str, maps: Sequence[Panel], caption: str) -> None:
        panels = [Panel("image", drawing.plain(picked.drawn)), *maps]
        self._write(path, drawing.side_by_side(panels, f"{caption}   {picked.image.key}"))
        tiles = self._tiles.setdefault(layer, [])
        tiles.append(drawing.tile(panels, caption))
        self._suffixes[layer] = path[-4:]
        self._titles[layer] = [panel.title.partition(",")[0] for panel in panels]
        if len(tiles) == _TILES:
            self._write_mosaic(layer)

    def _write_mosaic(self, layer: str) -> None:
        self._pages[layer] = page = self._pages.get(layer, 0) + 1
        name = f"{file_name(layer)}{'' if page == 1 else f'-{page}'}{self._suffixes[layer]}"
        self._write(name, drawing.together(self._tiles[layer], self._titles[layer]))
        self._tiles[layer].clear()

    def _write(self, name: str, pixels: np.ndarray) -> str:
        encode = encode_png if name.endswith(".png") else partial(encode_jpeg, quality=_QUALITY, fine=True)
        self._writer.put(self._folder / name, lambda: encode(pixels))
        return f"mosaics/gradcam/{self._below}{name}"


def overlay(values: np.ndarray, draws: str, image: np.ndarray, fit: Fit) -> np.ndarray:
    """A map laid over its image, at the image's own resolution.

    Args:
        values: (h, w), or (h, w, 3), standing for the network's whole input.
        draws: as `Method.draws`.
        image: uint8 (height, width, 3), what was fitted to the network's input.

    Returns: uint8 RGB; images under 224 pixels grow by a whole factor, and the map is drawn at that size.
    """
    image = drawing.plain(image)
    spread, seen = on_source(values, fit, *image.shape[:2])
    if draws == "heat":
        return drawing.heat_over(image, spread / (float(values.max()) or 1.0), seen)
    return drawing.signed(spread, seen)
