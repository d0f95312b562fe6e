"""ReceptiveField: the input pixels that each unit of a map can see, for any network that can be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recfield.channels import solve_channels
from recfield.probing import Prober
from recfield.solver import solve_layers
from recfield.view import View


@dataclass
class _Solved:
    """The state of a solved field; channels: int32 (h, w, 4) for each, once they are solved."""

    prober: Prober
    view: View
    channels: list[np.ndarray] | None = None


class ReceptiveField:
    """The receptive field of every unit of one map, solved by probe images.

    Args:
        imshape: (batch, height, width, channels) of every batch that `forward_func` is given.
        forward_func: float32 batch -> (batch, h, w, c), in inference mode. A map of rank 2, (batch, c), counts
            as (batch, 1, 1, c).

    Attributes:
        boxes: int32 (h, w, 4): y1, x1, y2, x2 in pixels of the image, half-open, clipped to it: the smallest box
            around all pixels that can change the unit in any channel. A unit that sees nothing has 0, 0, 0, 0.
        leaks: whether the function's rounding leaks out of the units' windows, as Winograd and FFT convolutions on GPUs let
            it. Then the boxes hold the pixels whose effect is well above that rounding.

    Raises: RandomForward, BatchDependent, UnprovenField, UnsolvableField.
    """

    boxes: np.ndarray
    leaks: bool = False
    _solve: Callable[[], ReceptiveField]

    def __init__(self, imshape: Sequence[int], forward_func: Callable[[np.ndarray], np.ndarray]) -> None:
        solved = ReceptiveField.of_layers(imshape, lambda batch: {"": forward_func(batch)})[""]
        assert solved._solved is not None
        self._adopt(solved._solved.prober, solved._solved.view)

    @classmethod
    def of_layers(
        cls, imshape: Sequence[int], forward_func: Callable[[np.ndarray], Mapping[str, np.ndarray]], in_flight: int = 1
    ) -> dict[str, ReceptiveField]:
        """The fields of several layers from one pass of probes.

        Args:
            imshape: (batch, height, width, channels).
            forward_func: float32 batch -> {layer: (batch, h, w, c)}.
            in_flight: how many threads may call it at the same time; with 1, only the caller's does.
        """
        if len(imshape) != 4 or any(int(size) < 1 for size in imshape):
            raise ValueError(f"imshape is {tuple(imshape)}; it must be (batch, height, width, channels), all positive.")
        prober = Prober(imshape, forward_func, in_flight)
        fields = {}
        for layer, view in solve_layers(prober).items():
            fields[layer] = cls.__new__(cls)
            fields[layer]._adopt(prober, view)
        return fields

    @classmethod
    def of_boxes(cls, boxes: np.ndarray, image: tuple[int, int], solve: Callable[[], ReceptiveField]) -> ReceptiveField:
        """A field whose boxes are known, as from a file; no probe is sent.

        Args:
            boxes: int32 (h, w, 4), as the attribute.
            image: height and width of the input.
            solve: gives the same field by probes; called once, if the boxes of channels are asked for.
        """
        field = cls.__new__(cls)
        field.boxes, field._image, field._solve = boxes, image, solve
        field._solved, field.dead_channels = None, ()
        return field

    def _adopt(self, prober: Prober, view: View) -> None:
        self._solved: _Solved | None = _Solved(prober, view)
        self._image = view.image
        self.dead_channels: tuple[int, ...] = ()
        self.boxes, self.leaks = view.boxes(), prober.leaks

    @property
    def probes(self) -> int:
        """Images sent forward so far, padding of batches included, for all layers that were solved together."""
        return self._solved.prober.probes if self._solved else 0

    @property
    def batch(self) -> int:
        """Images in each batch of probes; 0 for a field that was not solved."""
        return self._solved.prober.batch if self._solved else 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the largest box, in pixels."""
        return int((self.boxes[..., 2] - self.boxes[..., 0]).max()), int((self.boxes[..., 3] - self.boxes[..., 1]).max())

    @property
    def stride(self) -> tuple[float, float]:
        """(y, x): pixels from one unit's box to the next one's; for maps whose boxes are all clipped, pixels per unit."""
        height, width = self._image
        return _stride(self.boxes[:, 0, 0], self.boxes[:, 0, 2], height), _stride(self.boxes[0, :, 1], self.boxes[0, :, 3], width)

    @property
    def is_global(self) -> bool:
        """Whether every unit sees the whole image."""
        return bool((self.boxes == (0, 0, *self._image)).all())

    def channel_boxes(self, channel: int) -> np.ndarray:
        """The boxes of one channel; in concatenations they differ. The first call may send further probes.

        A channel that is inactive for every random image (a dead ReLU) gets the layer's boxes and is named
        in `dead_channels`.

        Returns: int32 (h, w, 4), as `boxes`.
        Raises: IndexError.
        """
        self._solved = self._solved or self._solve()._solved
        assert self._solved is not None
        count = len(self._solved.view.channels)
        if not 0 <= channel < count:
            raise IndexError(f"channel {channel} is not in a map of {count} channels (0 to {count - 1}).")
        if self._solved.channels is None:
            self._solved.channels, self.dead_channels = solve_channels(self._solved.prober, self._solved.view)
        return self._solved.channels[channel]

    def draw_example(self) -> np.ndarray:
        """The box of the central unit, drawn: uint8 (height, width, 3), white on black, the unit's centre in red."""
        height, width = self._image
        rows, cols = self.boxes.shape[:2]
        y1, x1, y2, x2 = self.boxes[rows // 2, cols // 2]
        picture = np.zeros((height, width, 3), np.uint8)
        picture[y1:y2, x1:x2] = 255
        if y2 > y1:
            y, x = (y1 + y2 - 1) // 2, (x1 + x2 - 1) // 2
            reach = max(0, min(y2 - y1, x2 - x1) // 16)
            picture[max(y - reach, y1) : y + reach + 1, max(x - reach, x1) : x + reach + 1] = (220, 30, 30)
        return picture


def _stride(first: np.ndarray, last: np.ndarray, length: int) -> float:
    """The mean step between neighbours in the middle of the map whose edges both lie inside the image.

    Where the steps repeat, as 0, 2, 0, 2 of a map that was enlarged, the mean is over whole periods. A mean that drifts away
    from the edges, as of 48 pixels resized to 31, whose steps of 1 and 2 repeat only after 31 units, gives way to the pixels
    per unit, where these follow every edge.
    """
    middle = slice(len(first) // 4, len(first) - len(first) // 4)
    per_unit = length / max(1, len(first))
    for part in (middle, slice(None)):
        steps = []
        for edge in (first[part], last[part]):
            inside = (edge > 0) & (edge < length)
            steps.append(_whole_periods(np.diff(edge)[inside[:-1] & inside[1:]]))
        strides = np.concatenate(steps)
        if strides.any():
            mean = float(strides.mean())
            follows = _follows(mean, first, last, length) or not _follows(per_unit, first, last, length)
            return mean if follows else per_unit
    return per_unit


def _follows(stride: float, first: np.ndarray, last: np.ndarray, length: int) -> bool:
    """Whether all edges inside the image are those of units `stride` apart, rounded to the step of the map before."""
    for edge in (first, last):
        units = np.flatnonzero((edge > 0) & (edge < length))
        if len(units) > 1:
            rounding = np.gcd.reduce(np.diff(edge[units]))
            if np.ptp(edge[units] - stride * units) >= max(1, rounding):
                return False
    return True


def _whole_periods(steps: np.ndarray) -> np.ndarray:
    """The longest start of the steps that is a whole number of periods; all of them where no period fits in twice."""
    for period in range(1, len(steps) // 2 + 1):
        if (steps[period:] == steps[:-period]).all():
            return steps[: len(steps) // period * period]
    return steps
