"""Probe images: a random background with some rows and columns replaced, and the units that this changes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from recfield.errors import BatchDependent, RandomForward, UnsolvableField
from recfield.leakage import above_leakage

Forward = Callable[[np.ndarray], Mapping[str, np.ndarray]]
# A background, what is sent of it, and what a probe replaces its pixels by.
_Sent = tuple["Background", "np.ndarray | Probe", np.ndarray]

# The standard deviations of a background and of what replaces it. A replaced row at the very edge of a deep unit's
# field arrives there multiplied by many small weights, so it has to be large for float32 to register it. Small
# backgrounds lower the rounding noise that it must exceed; large ones reach units that biases keep inactive.
_AMPLITUDES = ((1.0, 30.0), (0.03, 30.0), (1.0, 3000.0), (30.0, 3000.0), (1e-3, 1.0), (1.0, 1.0))
_NUDGE = 1e-2  # the relative size of the change of everything that shows which units are active
_TWIN = 2.0**-8  # the relative difference between a replacement and its twin
_PLAIN = 3e-4  # of the loudness at which a layer answers: changes above it are more than any convolution's rounding
_RANDOM = 3e-5  # differences between equal images, over the map's range: above it is randomness, below rounding
_FEW = 16  # units: the range of fewer, in one image, says little of the size of the numbers that they are made from


@dataclass(eq=False)
class Background:
    """A random image, its replacement, and the maps of every layer for the unmodified image.

    active: {layer: bool (h, w, c)}: units that a slight change of the whole image changes. If a unit
    does not respond to a change of the whole image (a ReLU below zero), its silence about a part proves nothing.
    loudness: the standard deviation of `strong`, over that of what is added to `pixels` in `nudged`.
    swing: {layer: the largest change by `nudged`}.
    twins: what replaces `strong` and `nudged` in the second image of a probe, where rounding leaks.
    """

    number: int
    pixels: np.ndarray
    strong: np.ndarray
    nudged: np.ndarray
    loudness: float
    twins: tuple[np.ndarray, np.ndarray] | None = None
    swing: dict[str, float] = field(default_factory=dict)
    base: dict[str, np.ndarray] = field(default_factory=dict)
    active: dict[str, np.ndarray] = field(default_factory=dict)
    with_nan: set[str] = field(default_factory=set)  # layers with NaN in `base`, which are equal only if both are


@dataclass(frozen=True, eq=False)
class Probe:
    """A background with some rows and some columns replaced: bool (height,), bool (width,)."""

    background: Background
    rows: np.ndarray
    cols: np.ndarray

    def image(self, strong: np.ndarray) -> np.ndarray:
        """The background with its replacement, or that one's twin: float32 (height, width, channels)."""
        replaced = self.rows[:, None, None] | self.cols[None, :, None]
        return np.where(replaced, strong, self.background.pixels)


def any_channel(units: np.ndarray) -> np.ndarray:
    """Whether any channel is set: bool (h, w, c) -> bool (h, w), eight channels at a time where they lie side by side."""
    if units.shape[2] % 8 == 0 and units.flags.c_contiguous:
        units = units.view(np.uint64)
    merged = np.bitwise_or.reduce(units, axis=2)
    return merged if merged.dtype == bool else merged != 0


def _sizes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How far two maps are apart: float64 (h, w, c). What is no number counts as the nearest one, NaN as 0."""
    with np.errstate(invalid="ignore"):
        apart = np.subtract(first, second, dtype=np.float64)
    if not np.isfinite(apart.sum()):
        apart = np.nan_to_num(first.astype(np.float64)) - np.nan_to_num(second.astype(np.float64))
    return np.abs(apart, out=apart)


class Prober:
    """Sends probes through a forward function in batches of one shape, and counts every image sent.

    room: how many probes it is best to send at a time: those of all batches in flight.
    leaks: whether rounding leaks out of the units' windows, so that a change must be well above what leaks: then each probe
    is sent with a twin.
    maps: the answer to the probe that `changes` yielded last.
    """

    def __init__(self, imshape: Sequence[int], forward: Forward, in_flight: int = 1) -> None:
        """in_flight: how many batches may be in the forward function at a time, each in a thread; with 1, in the caller's."""
        self.batch, *self.image_shape = (int(size) for size in imshape)
        self.room = self.batch * in_flight
        self.shapes: dict[str, tuple[int, int, int]] = {}  # of every layer's map, known after the first batch
        self.probes = 0
        self.leaks = False
        self.maps: Mapping[str, np.ndarray] = {}
        self._forward, self._in_flight = forward, in_flight
        self._rng, self._twins = np.random.default_rng(0), np.random.default_rng(1)
        self._gains: dict[str, np.ndarray] = {}  # of each channel: the largest change by a probe, over the replacement's size
        self._noise: dict[str, float] = {}  # rounding differences between equal images, where there are any
        self._backgrounds = 0
        self._first: Background | None = None
        self._first_answer: dict[str, np.ndarray] = {}
        self._ranges: dict[str, float] = {}  # of each layer's numbers: highest less lowest
        self._sent = self._batches = 0  # batches sent, and those of them that were answered

    def background(self, amplitudes: tuple[float, float] | None = None) -> Background:
        """A new random background; its answers are known after the next `changes`.

        amplitudes: of the background and of what replaces it; by default in turn.
        """
        weak, strong = amplitudes or _AMPLITUDES[self._backgrounds % len(_AMPLITUDES)]
        self._backgrounds += 1

        def noise() -> np.ndarray:
            return self._rng.standard_normal(self.image_shape, np.float32)

        pixels = weak * noise()
        loud, nudge = strong * noise(), _NUDGE * weak * noise()
        background = Background(self._backgrounds, pixels, loud, pixels + nudge, strong / (_NUDGE * weak))
        if self.leaks:
            first, second = 1 + _TWIN * self._twins.standard_normal((2, *self.image_shape), np.float32)
            background.twins = (loud * first, pixels + nudge * second)
        self._first = self._first or background
        return background

    def changes(self, probes: Sequence[Probe]) -> Iterator[tuple[Probe, dict[str, np.ndarray]]]:
        """Send probes, the new backgrounds first, and yield {layer: bool (h, w, c)}: what each changed."""
        fresh = dict.fromkeys(probe.background for probe in probes if not probe.background.base)
        queue: list[_Sent] = []
        for background in fresh:
            queue.append((background, background.pixels, background.pixels))
            queue.append((background, background.nudged, background.nudged))
            if background.twins:
                queue.append((background, background.nudged, background.twins[1]))
        for probe in probes:
            queue.append((probe.background, probe, probe.background.strong))
            if probe.background.twins:
                queue.append((probe.background, probe, probe.background.twins[0]))
        first: dict[str, np.ndarray] | None = None  # the answer of which the twin's is awaited
        for part, answers in self._answered(queue):
            for position, (background, sent, _) in enumerate(part):
                answer = {layer: maps[position] for layer, maps in answers.items()}
                if sent is background.pixels:
                    background.base = {layer: maps.copy() for layer, maps in answer.items()}  # the batch need not stay
                    background.with_nan = {layer for layer, maps in answer.items() if np.isnan(maps).any()}
                elif background.twins and first is None:
                    first = {layer: maps.copy() for layer, maps in answer.items()}
                else:
                    self.maps, twin, first = first or answer, answer if first else None, None
                    if isinstance(sent, Probe):
                        yield sent, self._differences(background, twin, sent)
                    else:
                        background.active = self._differences(background, twin)

    def plainly(self, background: Background, layer: str, lines: Any) -> np.ndarray:
        """Which units of some lines changed, in the answer of `maps`, by more than any rounding: bool (..., c)."""
        loud = background.swing[layer] * background.loudness
        with np.errstate(invalid="ignore"):
            return np.abs(self.maps[layer][lines] - background.base[layer][lines]) > _PLAIN * loud

    def _answered(self, queue: list[_Sent]) -> Iterator[tuple[list[_Sent], dict[str, np.ndarray]]]:
        """The queue in batches, each with its answer, in order. While one is evaluated, the next are in flight."""
        with ThreadPoolExecutor(self._in_flight) as threads:
            waiting: deque[tuple[list[_Sent], np.ndarray, Callable[[], dict[str, np.ndarray]]]] = deque()
            while queue or waiting:
                if queue and len(waiting) < self._in_flight:
                    # The first background is also the last image of the first three batches, with different neighbours.
                    room = self.batch - 1 if self._sent < 3 and self.batch > 1 else self.batch
                    part, queue = queue[:room], queue[room:]
                    batch = self._stacked(part)
                    answer = partial(self._answers, batch)
                    waiting.append((part, batch, threads.submit(answer).result if self._in_flight > 1 else answer))
                    self._sent += 1
                else:
                    part, batch, result = waiting.popleft()
                    answers = result()
                    self._compare(batch, answers, len(part))
                    yield part, answers

    def _stacked(self, part: list[_Sent]) -> np.ndarray:
        """A batch of the fixed shape, padded with the first background, whose answer must always be the same."""
        assert self._first is not None
        images = [sent.image(image) if isinstance(sent, Probe) else image for _, sent, image in part]
        return np.stack(images + [self._first.pixels] * (self.batch - len(images))).astype(np.float32)

    def _compare(self, batch: np.ndarray, answers: dict[str, np.ndarray], sent: int) -> None:
        """Compare the answers to the images that pad a batch, which follow `sent` others, with the first one."""
        self.probes += len(batch)
        self._batches += 1
        if self._batches == 1:
            self._store_first(answers)
        for position in range(sent, self.batch):
            self._check(batch, {layer: maps[position] for layer, maps in answers.items()})
        if self._batches == 1 and self.batch == 1:
            self._check(batch, {layer: maps[0] for layer, maps in self._again(batch).items()})

    def _again(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """The answer to a batch that was sent before."""
        self.probes += len(batch)
        return self._answers(batch)

    def _answers(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        answers = {}
        for layer, value in self._forward(batch).items():
            maps = np.asarray(value)
            if maps.ndim == 2:  # a layer without a map: one unit that may see everything
                maps = maps[:, None, None, :]
            if maps.ndim != 4 or len(maps) != len(batch):
                raise UnsolvableField(
                    f"forward_func returned {layer or 'a map'} of shape {maps.shape} for a batch of {len(batch)}; "
                    "return (batch, height, width, channels).",
                    [layer],
                )
            answers[layer] = maps
        return answers

    def _store_first(self, answers: dict[str, np.ndarray]) -> None:
        """Store the maps' shapes and the first background's answer, to which all its later ones must be equal."""
        self.shapes = {layer: maps.shape[1:] for layer, maps in answers.items()}
        self._first_answer = {layer: maps[0].copy() for layer, maps in answers.items()}
        broken = [layer for layer, first in self._first_answer.items() if not np.isfinite(first).all()]
        if broken:
            where = broken[0] or "its map"
            raise UnsolvableField(f"forward_func returned NaN or infinity in {where} for a random image.", broken)
        for layer, first in self._first_answer.items():
            self._ranges[layer] = float(np.ptp(first))
            if first.size < _FEW:
                values = answers[layer][np.isfinite(answers[layer])]
                self._ranges[layer] = float(max(np.ptp(values), np.abs(first).max(initial=0)))

    def _check(self, batch: np.ndarray, answer: dict[str, np.ndarray]) -> None:
        """Compare an answer for the first background with its first answer."""
        differing = []
        for layer, first in self._first_answer.items():
            difference = float(np.abs(answer[layer] - first).max(initial=0))
            if difference <= _RANDOM * self._ranges[layer]:
                self._noise[layer] = max(self._noise.get(layer, 0.0), difference)
            else:
                differing.append(layer)
        if not differing:
            return
        layer = differing[0]
        where = f"in layer {layer!r}" if layer else "in its map"
        second, third = self._again(batch)[layer], self._again(batch)[layer]
        if self._batches == 1 or not np.array_equal(second, third):
            raise RandomForward(
                f"forward_func is random: the same image gave two answers {where}. "
                "Dropout or noise is on; call the network in inference mode (training=False).",
                differing,
            )
        raise BatchDependent(
            f"forward_func depends on the batch: the same image gave another answer among other images {where}. "
            "Batch normalisation runs in training mode; call the network in inference mode (training=False).",
            differing,
        )

    def _differences(
        self, background: Background, twin: Mapping[str, np.ndarray] | None, probe: Probe | None = None
    ) -> dict[str, np.ndarray]:
        """{layer: bool (h, w, c)}: where `maps` differ from the background's. probe: None for the nudged background."""
        changed = {}
        for layer, maps in self.maps.items():
            base, noise = background.base[layer], self._noise.get(layer, 0.0)
            if noise or twin:
                with np.errstate(invalid="ignore"):  # infinity minus infinity: no difference
                    changed[layer] = np.abs(maps - base) > 8 * noise
            else:
                changed[layer] = maps != base
                if layer in background.with_nan:
                    changed[layer] &= ~(np.isnan(maps) & np.isnan(base))
            if twin:
                changed[layer] &= self._above_leakage(background, layer, twin[layer], probe)
            if probe is None:
                with np.errstate(invalid="ignore"):
                    background.swing[layer] = float(np.abs(maps - base).max(initial=0))
        return changed

    def _above_leakage(self, background: Background, layer: str, twin: np.ndarray, probe: Probe | None) -> np.ndarray:
        change, repeated = _sizes(self.maps[layer], background.base[layer]), _sizes(twin, self.maps[layer])
        size = background.loudness if probe else 1.0
        largest = change.max(axis=(0, 1)) / size
        gains = self._gains[layer] = np.maximum(self._gains.get(layer, largest), largest)
        axes = (0, 1) if probe is None else (1,) if probe.rows.any() else (0,)
        return above_leakage(change, repeated, gains * size, axes)
