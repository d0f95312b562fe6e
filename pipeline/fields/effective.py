"""Effective fields: the part of a field that matters, for layers whose fields cover most of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.compiled.energy import energy_of
from pipeline.geometry import Box
from pipeline.models.network import LayerInfo, Network
from recfield import ReceptiveField
from recfield.effective import smallest_box

SHARE = 0.95  # of a unit's energy that its effective field holds
_MOST = 0.5  # of the input's area; layers with larger receptive fields get effective fields


class EffectiveFields:
    """Finds the effective fields of one layer's units.

    The effective field of a unit, for one image, is the smallest box around the unit, inside its receptive field,
    that holds 95% of the energy of d(unit)/d(preprocessed pixels) (Luo et al., "Understanding the Effective
    Receptive Field in Deep Convolutional Neural Networks", 2016). Around the unit: the box holds the pixel on which
    the unit's field is centred; along an axis on which the map has one unit alone, the box may lie anywhere.

    Attributes:
        solved: how many of the units so far have an effective field.
        without: how many have none, because no pixel of their image changes them, as behind an inactive ReLU.
    """

    solved: int
    without: int

    def __init__(self, network: Network, layer: LayerInfo, field: ReceptiveField) -> None:
        """For a layer with its solved field; nothing is compiled yet."""
        self._energy = energy_of(network, layer)
        self._field, self._centres = field, UnitCentres.of(field, *network.input_shape[:2])
        self.solved = self.without = 0

    def boxes(self, images: np.ndarray, units: np.ndarray) -> np.ndarray:
        """The effective fields of some units, each for an image of its own.

        Args:
            images: uint8 (n, height, width, 3), at the network's input size.
            units: int (n, 3): row, col, channel.

        Returns: int32 (n, 4): y1, x1, y2, x2 in pixels of the input, half-open; 0, 0, 0, 0 for a unit without.
        """
        boxes = np.zeros((len(units), 4), np.int32)
        for number, energy in enumerate(self._energy(images, units)):
            row, col = (int(position) for position in units[number, :2])
            box = effective_box(energy, self._field, self._centres, (row, col))
            boxes[number] = box.edges if box else 0
        none = int((boxes[:, 2] == 0).sum())
        self.solved, self.without = self.solved + len(units) - none, self.without + none
        return boxes


def covers_most(field: ReceptiveField, height: int, width: int) -> bool:
    """Whether a layer's field, where no border clips it, is more than half of an input of this size."""
    return field.size[0] * field.size[1] > _MOST * height * width


def effective_fields(
    network: Network, layers: Sequence[LayerInfo], fields: Mapping[str, ReceptiveField]
) -> dict[str, EffectiveFields]:
    """The `EffectiveFields` of each layer whose receptive field covers most of the input, by name."""
    height, width, _ = network.input_shape
    large = [layer for layer in layers if covers_most(fields[layer.name], height, width)]
    return {layer.name: EffectiveFields(network, layer, fields[layer.name]) for layer in large}


@dataclass(frozen=True, eq=False)
class UnitCentres:
    """The pixels at the centres of a map's units if there were no border, clipped to the image.

    rows, cols: int (h,) and (w,).
    """

    rows: np.ndarray
    cols: np.ndarray

    @classmethod
    def of(cls, field: ReceptiveField, height: int, width: int) -> UnitCentres:
        """For the field of a layer, on an input of this size."""
        rows, cols = field.boxes[:, 0, ::2], field.boxes[0, :, 1::2]
        return cls(_centres(rows, height, field.stride[0]), _centres(cols, width, field.stride[1]))


def effective_box(energy: np.ndarray, field: ReceptiveField, centres: UnitCentres, unit: tuple[int, int]) -> Box | None:
    """The effective field of one unit, row and col, from its energy, float (height, width); None where there is none."""
    seen = Box.of(field.boxes[unit])
    if seen.is_empty:
        return None
    around = (_within(centres.rows, unit[0], seen.y1, seen.y2), _within(centres.cols, unit[1], seen.x1, seen.x2))
    edges = smallest_box(seen.cut(energy), SHARE, around)
    return None if edges is None else Box.of(edges).shifted(seen.y1, seen.x1)


def _within(centres: np.ndarray, unit: int, first: int, last: int) -> int | None:
    """The position of a unit within its box, from first to last; None along an axis on which the map has one unit alone."""
    return None if len(centres) == 1 else int(np.clip(centres[unit], first, last - 1)) - first


def _centres(edges: np.ndarray, size: int, stride: float) -> np.ndarray:
    """Counted from a unit that no border clips; where there is none, the map lies in the middle of the image."""
    inside = np.flatnonzero((edges[:, 0] > 0) & (edges[:, 1] < size))
    units = np.arange(len(edges))
    if len(inside):
        middle = inside[len(inside) // 2]
        centres = edges[middle].mean() + (units - middle) * stride
    else:
        centres = size / 2 + (units - (len(edges) - 1) / 2) * stride
    return np.clip(centres.astype(np.int64), 0, size - 1)
