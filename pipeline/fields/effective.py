"""Effective fields: what a winner is shown with where the pixels that can change it are most of the image."""

from __future__ import annotations

import numpy as np

from pipeline.fields.energy import energy_of
from pipeline.models.network import LayerInfo, Network
from recfield import ReceptiveField
from recfield.effective import smallest_box

SHARE = 0.95  # of a unit's energy that its effective field holds
_MOST = 0.5  # of the input that a field may cover and still be a part of the image


class EffectiveFields:
    """Finds the effective fields of one layer's units.

    The effective field of a unit, for one image, is the smallest box around the unit, inside its receptive field,
    that holds 95 % of the energy of d(unit)/d(preprocessed pixels) (Luo et al., "Understanding the Effective
    Receptive Field in Deep Convolutional Neural Networks", 2016). Around the unit: the box holds the pixel on which
    the unit's field is centred; along an axis on which the map has one unit alone, the box may lie anywhere.

    Attributes:
        found: units whose effective field was found.
        without: units that no pixel of their image changes, as behind a closed rectifier; they have none.
    """

    found: int
    without: int

    def __init__(self, network: Network, layer: LayerInfo, field: ReceptiveField) -> None:
        """For a layer with its solved field; nothing is compiled yet."""
        self._energy = energy_of(network, layer)
        self._image = network.input_shape[:2]
        self._field = field
        self.found = self.without = 0

    def boxes(self, images: np.ndarray, units: np.ndarray) -> np.ndarray:
        """The effective fields of some units, each for an image of its own.

        Args:
            images: uint8 (n, height, width, 3), at the network's input size.
            units: int (n, 3): row, col, channel.

        Returns: int32 (n, 4): y1, x1, y2, x2 in pixels of the input, half-open; 0, 0, 0, 0 for a unit without.
        """
        boxes = np.zeros((len(units), 4), np.int32)
        for place, energy in enumerate(self._energy(images, units)):
            row, col = (int(at) for at in units[place, :2])
            y1, x1, y2, x2 = (int(edge) for edge in self._field.boxes[row, col])
            around = [
                None if centre is None else int(np.clip(centre, first, last - 1)) - first
                for centre, first, last in zip(self.centre(row, col), (y1, x1), (y2, x2), strict=True)
            ]
            box = smallest_box(energy[y1:y2, x1:x2], SHARE, (around[0], around[1])) if y2 > y1 and x2 > x1 else None
            if box is not None:
                boxes[place] = (y1 + box[0], x1 + box[1], y1 + box[2], x1 + box[3])
        none = int((boxes[:, 2] == 0).sum())
        self.found, self.without = self.found + len(units) - none, self.without + none
        return boxes

    def centre(self, row: int, col: int) -> tuple[int | None, int | None]:
        """The pixel on which a unit's field is centred, the image's border left aside; None where the map has one unit."""
        lengths = self._field.boxes.shape[:2]
        found = [
            # The map lies centred on the image, whatever was padded: its outer units need not reach the border.
            int(size / 2 + (at - (length - 1) / 2) * stride) if length > 1 else None
            for at, length, size, stride in zip((row, col), lengths, self._image, self._field.stride, strict=True)
        ]
        return found[0], found[1]


def covers_most(field: ReceptiveField, height: int, width: int) -> bool:
    """Whether a layer's field, where no border clips it, is more than half of an input of this size."""
    return field.size[0] * field.size[1] > _MOST * height * width
