"""ExplanationResults: what is known of one image after another, as rows of the index and as pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.attribution.explainer import Explained
from pipeline.attribution.heat import focus
from pipeline.attribution.methods import METHODS
from pipeline.attribution.pictures import ExplanationPictures
from pipeline.attribution.plan import MapKey
from pipeline.attribution.targets import Classes, softmax, top
from pipeline.compiled.guided_relu import Guide
from pipeline.sources.fit import Fit
from pipeline.sources.picking import Picked
from pipeline.store.places import Place
from pipeline.store.tables import INDEX, write_index

_LIKELIEST = 5  # classes of an image, in the index


class ExplanationResults:
    """Collects the columns of two tables, and has the pictures drawn as the maps come.

    classification, attributions: the columns by name.
    keys: of the images.
    """

    def __init__(self, classes: Classes, fit: Fit, guide: Guide | None, pictures: ExplanationPictures) -> None:
        """What the rows need.

        Args:
            fit: by which the network is shown the images.
            guide: what guided backpropagation replaced.
        """
        self._classes, self._fit, self._guide, self._pictures = classes, fit, guide, pictures
        self.classification: dict[str, list[Any]] = {field.name: [] for field in INDEX["classification"]}
        self.attributions: dict[str, list[Any]] = {field.name: [] for field in INDEX["attributions"]}
        self.keys: list[str] = []

    def add(self, explained: Explained) -> None:
        """Index and draw what is said of a batch."""
        for place, picked in enumerate(explained.batch.picked):
            logits = explained.logits[place]
            probabilities = softmax(logits)
            self._classify(picked, logits, probabilities)
            for slot in explained.slots[place]:
                number = int(explained.classes[place, slot])
                maps = {key: values[place, slot] for key, values in explained.maps.items()}
                self._explain(picked, number, float(probabilities[number]), maps)

    def write(self, folder: Place) -> None:
        """Write the two tables, and the mosaics that are not full. Raises: StoreFailed."""
        self._pictures.close()
        write_index(folder, "classification", self.classification)
        write_index(folder, "attributions", self.attributions)

    def _classify(self, picked: Picked, logits: np.ndarray, probabilities: np.ndarray) -> None:
        self.keys.append(picked.image.key)
        for rank, number in enumerate(top(logits, _LIKELIEST)):
            image = (picked.example, picked.image.key, picked.image.label)
            row = (*image, rank, number, self._classes.name(number), logits[number], probabilities[number])
            for column, value in zip(self.classification.values(), row, strict=True):
                column.append(value)

    def _explain(self, picked: Picked, number: int, probability: float, maps: Mapping[MapKey, np.ndarray]) -> None:
        """Draw and index the maps of one image and one class with its probability."""
        name = self._classes.name(number)
        paths = self._pictures.add(picked, number, f"{name}  {probability:.1%}", maps)
        for (method, layer), values in maps.items():
            centre = focus(values, self._fit.height, self._fit.width)
            guide = self._guide if METHODS[method].is_guided else None
            row = {
                "example": picked.example,
                "key": picked.image.key,
                "label": picked.image.label,
                "method": method,
                "layer": layer,
                "class": number,
                "name": name,
                "probability": probability,
                "digest": hashlib.sha256(np.ascontiguousarray(values, np.float32).tobytes()).hexdigest()[:16],
                "peak": centre.peak,
                "row": centre.row,
                "col": centre.col,
                "map_height": values.shape[0],
                "map_width": values.shape[1],
                **centre.box.columns(),
                **self._fit.to_source(centre.box, picked.image.region).columns("src_"),
                "rule": guide.rule if guide else None,
                "replaced": guide.replaced if guide else None,
                "picture": paths[method, layer],
            }
            for column, cells in self.attributions.items():
                cells.append(row[column])
