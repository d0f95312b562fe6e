"""Blanks: maps without any evidence, or with the same everywhere, and why they are so. No such map goes without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.attribution.methods import method_named
from pipeline.attribution.methods.expected_gradients import EXPECTED_GRADIENTS
from pipeline.attribution.methods.guided_gradcam import GUIDED_GRADCAM
from pipeline.attribution.plan import MapKey
from pipeline.progress import counted

_SUPERPIXELS = ("kernelshap", "lime")
_LEAST = 2e-4  # of a logit: squares of what is far smaller, and what is divided by a stabilised sum of it, are zero in float32


@dataclass
class Blanks:
    """Counts the maps of each method and layer that show nothing.

    largest: of all logits, by their size.
    """

    largest: float = 0.0
    _maps: dict[MapKey, int] = field(default_factory=dict)
    _first: dict[tuple[MapKey, str], str] = field(default_factory=dict)  # by map and kind: an image and target that has one
    _counts: dict[tuple[MapKey, str], int] = field(default_factory=dict)
    _nowhere: dict[str, list[str]] = field(default_factory=dict)  # by target: the images

    def add(self, key: MapKey, values: np.ndarray, sums: Sequence[float | None], of: str) -> None:
        """Take one map.

        Args:
            values: (h, w) or (h, w, 3).
            sums: of what spoke for the target and against it before either was left out; None where that is not known.
            of: the image and the target, in words.
        """
        self._maps[key] = self._maps.get(key, 0) + 1
        if (values != values[0, 0]).any() or values.shape[:2] == (1, 1):
            return
        self._count(key, "flat" if values.any() else "one side" if any(sums) else "zero", of)

    def add_broken(self, key: MapKey, of: str) -> None:
        """Take one map that held NaN or infinity, and is left out; of: as for `add`."""
        self._maps[key] = self._maps.get(key, 0) + 1
        self._count(key, "broken", of)

    def leave_out(self, target: str, image: str) -> None:
        """Note an image that has no map of a target, because the network predicts the target's class at none of its positions."""
        self._nowhere.setdefault(target, []).append(image)

    def _count(self, key: MapKey, kind: str, of: str) -> None:
        self._first.setdefault((key, kind), of)
        self._counts[key, kind] = self._counts.get((key, kind), 0) + 1

    def sentences(self) -> list[str]:
        """What to say of each target that images lack, and of each method and layer that has such maps."""
        absent = [
            f"{target}: {counted(len(images), 'image')} left out, such as {images[0]!r}: the network predicts the class at none "
            "of their positions."
            for target, images in self._nowhere.items()
        ]
        return [*absent, *(self._sentence(key, kind, count) for (key, kind), count in self._counts.items())]

    def _sentence(self, key: MapKey, kind: str, count: int) -> str:
        method, layer = key
        name = f"{method_named(method).title}{f' at {layer}' if layer else ''}"
        many = f"{count:,} of {counted(self._maps[key], 'map')}, such as that of {self._first[key, kind]},"
        if kind == "broken":
            why = "The network divides by zero, or has no gradient there, as at the root of zero."
            return f"{name}: {many} left out: they are NaN or infinite in places. {why}"
        if kind == "flat":
            more = " The image is a single superpixel: raise gradcam.segments." if method in _SUPERPIXELS else ""
            return f"{name}: {many} the same value everywhere.{more}"
        if kind == "one side":
            return f'{name}: {many} blank: all evidence is on the other side. gradcam.evidence = "both" shows it.'
        if method.endswith(GUIDED_GRADCAM.name):
            return f"{name}: {many} blank: it is multiplied by a GradCAM without evidence for the target."
        if method.endswith(EXPECTED_GRADIENTS.name):
            return f"{name}: {many} blank: all the images of the data set that it starts from look the same to the network."
        if self.largest < _LEAST:
            return (
                f"{name}: {many} blank. No logit is larger than {self.largest:.2g}, as in a network that was never trained, and "
                "what this method makes of such numbers is zero in float32."
            )
        return f"{name}: {many} blank: by this method, the score depends on nothing. It may be constant, or its ReLUs all zero."
