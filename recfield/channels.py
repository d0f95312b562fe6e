"""Channels of one map that see less than the map does: the branches of concatenations."""

from __future__ import annotations

import numpy as np

from recfield.probing import Prober
from recfield.solver import View, solve

_ENOUGH = 4  # units of a line that were awake and silent before the line's edge is believed not to matter
_SLEEPY = 16  # times that any unit of a channel must have been awake for the channel to be judged at all


def solve_channels(prober: Prober, layer: View) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """The boxes of every channel of a solved layer, and the channels that never woke.

    While a layer's boxes were proved, each channel either felt the outermost pixels of its units' boxes or did
    not. Those that did not see less: they are parted by the sides where they fall short, solved as maps of
    their own, and looked at again.

    Returns: (int32 (h, w, 4) for each channel, the channels that kept the layer's boxes for want of evidence).
    """
    boxes = [layer.boxes()] * len(layer.channels)
    dead = tuple(int(channel) for channel in layer.channels[layer.woken < _SLEEPY])
    waiting = _shorter(layer)
    while waiting:
        views = [View(layer.layer, channels, layer.shape, layer.image) for channels in waiting]
        solve(prober, views, prober.background())
        waiting = []
        for view in views:
            for channel in view.channels:
                boxes[channel] = view.boxes()
            parts = _shorter(view)
            # A group that would be parted into itself has been solved as far as probes can tell.
            waiting += [part for part in parts if len(part) < len(view.channels)]
    return boxes, dead


def _shorter(view: View) -> list[np.ndarray]:
    """Groups of a view's channels that fall short of its boxes, by the sides where they do."""
    short = ((view.tried >= _ENOUGH) & ~view.reached).any(axis=2).reshape(4, -1)
    judged = (view.woken >= _SLEEPY) & short.any(axis=0)
    groups: dict[bytes, list[int]] = {}
    for position in np.flatnonzero(judged):
        groups.setdefault(short[:, position].tobytes(), []).append(int(view.channels[position]))
    return [np.array(channels) for channels in groups.values()]
