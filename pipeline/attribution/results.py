"""Findings: what is found of one image after another, as rows of the index and as pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.attribution import heat
from pipeline.attribution.album import Album
from pipeline.attribution.methods import CAMS, PRODUCT, Key
from pipeline.attribution.targets import Classes, softmax, top
from pipeline.compiled.guided_relu import Guide
from pipeline.drawing import attribution_maps as pictures
from pipeline.sources.fit import Fit
from pipeline.sources.picking import Picked
from pipeline.store.tables import INDEX

_SHOWN = 5  # of the likeliest classes, in the index


class Findings:
    """Collects the columns of two tables, and writes the pictures to an album as they come.

    classification, attributions: the columns by name.
    seen: the keys of the images.
    """

    def __init__(self, layers: Sequence[str], classes: Classes, fit: Fit, guide: Guide | None, album: Album) -> None:
        """Where pictures go, and what they need.

        Args:
            layers: those whose maps are shown side by side, each with what looks at pixels alone.
            fit: by which the network is shown the images.
            guide: what guided backpropagation replaced.
        """
        self._layers, self._classes, self._fit, self._guide, self._album = layers, classes, fit, guide, album
        self.classification: dict[str, list[Any]] = {field.name: [] for field in INDEX["classification"]}
        self.attributions: dict[str, list[Any]] = {field.name: [] for field in INDEX["attributions"]}
        self.seen: list[str] = []

    def classify(self, one: Picked, logits: np.ndarray) -> None:
        """Index the likeliest classes of an image: logits float32 (classes,)."""
        chances = softmax(logits)
        self.seen.append(one.image.key)
        for rank, number in enumerate(top(logits, _SHOWN)):
            what = (number, self._classes.name(number), logits[number], chances[number])
            row = (one.example, one.image.key, one.image.label, rank, *what)
            for name, value in zip(self.classification, row, strict=True):
                self.classification[name].append(value)

    def explain(self, one: Picked, number: int, chance: float, maps: Mapping[Key, np.ndarray]) -> None:
        """Draw and index the maps, (h, w) or (h, w, 3) each, of one image and one class with its probability."""
        name = self._classes.name(number)
        drawn: dict[Key, pictures.Panel] = {}
        for (method, layer), values in maps.items():
            where = heat.focus(values, self._fit.height, self._fit.width)
            picture = pictures.overlay(values, one.image.seen, self._fit)
            peak = where.peak if method in CAMS else None
            title = pictures.TITLES[method] if peak is None else f"{pictures.TITLES[method]}, 0 to {peak:.2g}"
            drawn[method, layer] = pictures.Panel(title, picture)
            caption = f"{name}  {chance:.1%}  {pictures.TITLES[method]}"
            path = self._album.single(one, number, method, layer, pictures.captioned(picture, caption, peak))
            guide = self._guide if method in ("guided_backprop", PRODUCT) else None
            row = {
                "example": one.example,
                "key": one.image.key,
                "label": one.image.label,
                "method": method,
                "layer": layer,
                "class": number,
                "name": name,
                "probability": chance,
                "digest": hashlib.sha256(np.ascontiguousarray(values, np.float32).tobytes()).hexdigest()[:16],
                "peak": where.peak,
                "row": where.row,
                "col": where.col,
                "map_height": values.shape[0],
                "map_width": values.shape[1],
                **where.box.columns(),
                **self._fit.to_source(where.box, one.image.region).columns("src_"),
                "rule": guide.rule if guide else None,
                "replaced": guide.replaced if guide else None,
                "picture": path,
            }
            for column, found in self.attributions.items():
                found.append(row[column])
        for shown in self._layers:
            panels = [panel for (_, layer), panel in drawn.items() if layer in (None, shown)]
            plain = pictures.Panel("image", pictures.plain(one.image.seen))
            self._album.row(one, number, shown, [plain, *panels], f"{name}  {chance:.1%}")
