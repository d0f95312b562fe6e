"""Probe images: a random background with some rows and columns replaced, and the units that this changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recfield.errors import BatchDependent, RandomForward, UnsolvableField

Forward = Callable[[np.ndarray], Mapping[str, np.ndarray]]

# The standard deviations of a background and of what replaces it. A replaced row at the very edge of a deep unit's
# field arrives there multiplied by many small weights, so it has to be large for float32 to register it. Small
# backgrounds lower the rounding noise that it must exceed; large ones reach units that biases keep inactive.
_AMPLITUDES = ((1.0, 30.0), (0.03, 30.0), (1.0, 3000.0), (30.0, 3000.0), (1e-3, 1.0), (1.0, 1.0))
_NUDGE = 1e-2  # the relative size of the change of everything that shows which units are active
_RANDOM = 3e-5  # differences between equal images, over the map's range: above it is randomness, below rounding


@dataclass(eq=False)
class Background:
    """A random image, its replacement, and the maps of every layer for the unmodified image.

    active: {layer: bool (h, w, c)}: units that a slight change of the whole image changes. If a unit
    does not respond to a change of the whole image (a ReLU below zero), its silence about a part proves nothing.
    """

    number: int
    pixels: np.ndarray
    strong: np.ndarray
    nudged: np.ndarray
    base: dict[str, np.ndarray] = field(default_factory=dict)
    active: dict[str, np.ndarray] = field(default_factory=dict)
    with_nan: set[str] = field(default_factory=set)  # layers with NaN in `base`, which are equal only if both are


@dataclass(frozen=True, eq=False)
class Probe:
    """A background with some rows and some columns replaced: bool (height,), bool (width,)."""

    background: Background
    rows: np.ndarray
    cols: np.ndarray

    def image(self) -> np.ndarray:
        """float32 (height, width, channels)."""
        replaced = self.rows[:, None, None] | self.cols[None, :, None]
        return np.where(replaced, self.background.strong, self.background.pixels)


def any_channel(units: np.ndarray) -> np.ndarray:
    """Whether any channel is set: bool (h, w, c) -> bool (h, w), eight channels at a time where they lie side by side."""
    if units.shape[2] % 8 == 0 and units.flags.c_contiguous:
        units = units.view(np.uint64)
    merged = np.bitwise_or.reduce(units, axis=2)
    return merged if merged.dtype == bool else merged != 0


class Prober:
    """Sends probes through a forward function in batches of one shape, and counts every image sent."""

    def __init__(self, imshape: Sequence[int], forward: Forward, seed: int = 0) -> None:
        self.batch, *self.image_shape = (int(size) for size in imshape)
        self.shapes: dict[str, tuple[int, int, int]] = {}  # of every layer's map, known after the first batch
        self.probes = 0
        self._forward = forward
        self._rng = np.random.default_rng(seed)
        self._noise: dict[str, float] = {}  # rounding differences between equal images, where there are any
        self._backgrounds = 0
        self._first: Background | None = None
        self._first_answer: dict[str, np.ndarray] = {}
        self._batches = 0

    def background(self) -> Background:
        """A new random background; its answers are known after the next `changes`."""
        weak, strong = _AMPLITUDES[self._backgrounds % len(_AMPLITUDES)]
        self._backgrounds += 1

        def noise() -> np.ndarray:
            return self._rng.standard_normal(self.image_shape, np.float32)

        pixels = weak * noise()
        background = Background(self._backgrounds, pixels, strong * noise(), pixels + _NUDGE * weak * noise())
        self._first = self._first or background
        return background

    def changes(self, probes: Sequence[Probe]) -> Iterator[tuple[Probe, dict[str, np.ndarray]]]:
        """Send probes, the new backgrounds first, and yield {layer: bool (h, w, c)}: what each changed."""
        fresh = dict.fromkeys(probe.background for probe in probes if not probe.background.base)
        queue: list[tuple[Background, np.ndarray | Probe]] = []
        for background in fresh:
            queue += [(background, background.pixels), (background, background.nudged)]
        queue += [(probe.background, probe) for probe in probes]
        while queue:
            # The first background is also the last image of the first three batches, with different neighbours.
            room = self.batch - 1 if self._batches < 3 and self.batch > 1 else self.batch
            part, queue = queue[:room], queue[room:]
            answers = self._send([sent.image() if isinstance(sent, Probe) else sent for _, sent in part])
            for position, (background, sent) in enumerate(part):
                answer = {layer: maps[position] for layer, maps in answers.items()}
                if isinstance(sent, Probe):
                    yield sent, self._differences(background, answer)
                elif sent is background.pixels:
                    background.base = {layer: maps.copy() for layer, maps in answer.items()}  # the batch need not stay
                    background.with_nan = {layer for layer, maps in answer.items() if np.isnan(maps).any()}
                else:
                    background.active = self._differences(background, answer)

    def _send(self, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Send one batch of the fixed shape, padded with the first background, whose answer must always be the same."""
        assert self._first is not None
        batch = np.stack(images + [self._first.pixels] * (self.batch - len(images))).astype(np.float32)
        answers = self._answers(batch)
        self._batches += 1
        if self._batches == 1:
            self._store_first(answers)
        for position in range(len(images), self.batch):
            self._check(batch, {layer: maps[position] for layer, maps in answers.items()})
        if self._batches == 1 and self.batch == 1:
            self._check(batch, {layer: maps[0] for layer, maps in self._answers(batch).items()})
        return answers

    def _answers(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.probes += len(batch)
        answers = {}
        for layer, value in self._forward(batch).items():
            maps = np.asarray(value)
            if maps.ndim == 2:  # a layer without a map: one unit that may see everything
                maps = maps[:, None, None, :]
            if maps.ndim != 4 or len(maps) != len(batch):
                raise UnsolvableField(
                    f"forward_func returned {layer or 'a map'} of shape {maps.shape} for a batch of {len(batch)}; "
                    "return (batch, height, width, channels)."
                )
            answers[layer] = maps
        return answers

    def _store_first(self, answers: dict[str, np.ndarray]) -> None:
        """Store the maps' shapes and the first background's answer, to which all its later ones must be equal."""
        self.shapes = {layer: maps.shape[1:] for layer, maps in answers.items()}
        self._first_answer = {layer: maps[0].copy() for layer, maps in answers.items()}
        for layer, maps in self._first_answer.items():
            if not np.isfinite(maps).all():
                raise UnsolvableField(f"forward_func returned NaN or infinity in {layer or 'its map'} for a random image.")

    def _check(self, batch: np.ndarray, answer: dict[str, np.ndarray]) -> None:
        """Compare an answer for the first background with its first answer."""
        for layer, first in self._first_answer.items():
            difference = float(np.abs(answer[layer] - first).max(initial=0))
            if difference <= _RANDOM * float(np.ptp(first)):
                self._noise[layer] = max(self._noise.get(layer, 0.0), difference)
                continue
            where = f"in layer {layer!r}" if layer else "in its map"
            second, third = self._answers(batch)[layer], self._answers(batch)[layer]
            if self._batches == 1 or not np.array_equal(second, third):
                raise RandomForward(
                    f"forward_func is random: the same image gave two answers {where}. "
                    "Dropout or noise is on; call the network in inference mode (training=False)."
                )
            raise BatchDependent(
                f"forward_func depends on the batch: the same image gave another answer among other images {where}. "
                "Batch normalisation runs in training mode; call the network in inference mode (training=False)."
            )

    def _differences(self, background: Background, answer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        changed = {}
        for layer, maps in answer.items():
            base, noise = background.base[layer], self._noise.get(layer, 0.0)
            if noise:
                with np.errstate(invalid="ignore"):  # infinity minus infinity: no difference
                    changed[layer] = np.abs(maps - base) > 8 * noise
            else:
                changed[layer] = maps != base
                if layer in background.with_nan:
                    changed[layer] &= ~(np.isnan(maps) & np.isnan(base))
        return changed
