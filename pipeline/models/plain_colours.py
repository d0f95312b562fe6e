"""Plain colours through what a network does to pixels before its first weights: is what comes out what networks are fed?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from pipeline.models.layout import Layout
from pipeline.models.network import Setting
from pipeline.models.preprocessing import COLOUR_ONLY, MODES

_COLOURS = np.array(
    [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (64, 64, 64), (10, 90, 200), (250, 128, 3)], np.float32
)

_GREYS = (0, 5, 1)  # among them, black to white

# What networks are fed: values scaled to a spread of a few units, or centred with the spread of pixels.
_LEAST_STEP = 0.01  # from one grey to the next, as a share of the spread
_SCALED, _CENTRED_SPREAD, _CENTRED_LOW = (0.5, 26.0), 300.0, -50.0


class ReadsStem(Protocol):
    """What is needed of how a family of networks is read; see `pipeline.models.reader.Reader`."""

    layout: Layout
    input_shape: tuple[int, int, int]

    def read(self, images: tf.Tensor, names: Sequence[str]) -> Mapping[str, tf.Tensor]:
        """The outputs of layers."""


def answer(reader: ReadsStem, feeds: Sequence[str | int], steps: Sequence[str], end: str) -> Setting | str | None:
    """The preprocessing that a network's own steps leave to do, or in words why it cannot be told; None where they do nothing.

    Args:
        feeds: the layers that the first weights take; a number for the image itself.
        steps: what changes values on the way, for the words.
        end: what has the first weights, for the words.
    """
    tables = {mode: _values(reader, feeds, mode) for mode in MODES if _suits(mode, reader)}
    without, given = tables["none"], _colours(reader, "none")
    by = f"its own {', '.join(steps[:3])}" + (f" and {len(steps) - 3} more" if len(steps) > 3 else "")
    if without.shape[1] == given.shape[1] and np.allclose(without, given, atol=0.01):
        return None
    if _is_fed(without):
        return Setting("none", f"{by} gives {_span(without)}")
    likely = [mode for mode in ("unit", "symmetric", "caffe") if mode in tables and _is_fed(tables[mode])]
    advice = f'. With "{likely[0]}" it would be {_span(tables[likely[0]])}, which is likely' if likely else ""
    return f"{by} would give {end} {_span(without)} for pixels as they are{advice}"


def _values(reader: ReadsStem, feeds: Sequence[str | int], mode: str) -> np.ndarray:
    """The input of layers where the image has one colour: float (colours, channels)."""
    height, width, _ = reader.input_shape
    colours = _colours(reader, mode)
    images = tf.constant(np.broadcast_to(colours[:, None, None], (len(colours), height, width, colours.shape[1])))
    names = [name for name in feeds if isinstance(name, str)]
    read = tf.function(lambda pixels: dict(reader.read(pixels, names)), autograph=False)  # graphs are imported into graphs alone
    outputs = read(reader.layout.feed(images)) if names else {}
    return np.concatenate([colours] * (len(names) < len(feeds)) + [_middle(reader, outputs[name]) for name in names], axis=1)


def _middle(reader: ReadsStem, values: tf.Tensor) -> np.ndarray:
    """The middle of maps, float (count, channels); of flat ones, an image's worth of channels in their middle."""
    if values.shape.rank == 4:
        maps = np.asarray(reader.layout.maps(tf.cast(values, tf.float32)))
        return np.asarray(maps[:, maps.shape[1] // 2, maps.shape[2] // 2])
    flat = np.asarray(tf.cast(values, tf.float32)).reshape(len(values), -1, reader.input_shape[2])
    return np.asarray(flat[:, flat.shape[1] // 2])


def _colours(reader: ReadsStem, mode: str) -> np.ndarray:
    channels = reader.input_shape[2]
    colours = _COLOURS.mean(axis=1, keepdims=True) if channels == 1 else _COLOURS[:, np.arange(channels) % 3]
    return np.asarray(MODES[mode](tf.constant(colours[:, None, None]))).reshape(len(colours), channels)


def _suits(mode: str, reader: ReadsStem) -> bool:
    return mode != "standardize" and (reader.input_shape[2] == 3 or mode not in COLOUR_ONLY)


def _is_fed(values: np.ndarray) -> bool:
    """Whether values look like what networks are fed, and greys still differ: a clip to 0 and 1 takes pixels of 0 to 1."""
    spread = float(np.ptp(values))
    return _greys_differ(values) and (
        _SCALED[0] <= spread <= _SCALED[1] or (spread <= _CENTRED_SPREAD and float(values.min()) <= _CENTRED_LOW)
    )


def _greys_differ(values: np.ndarray) -> bool:
    steps = np.abs(np.diff(values[list(_GREYS)], axis=0)).max(axis=1)
    return bool(steps.min() >= _LEAST_STEP * np.ptp(values))


def _span(values: np.ndarray) -> str:
    return f"{values.min():.3g} to {values.max():.3g}{'' if _greys_differ(values) else ', but no difference between some greys'}"
