"""Channels of one map that see less than the map does: the branches of concatenations."""

from __future__ import annotations

import numpy as np

from recfield.probing import Prober
from recfield.proving import show_edges
from recfield.solver import attempt
from recfield.view import View

_ENOUGH = 6  # times that a channel must have been awake and silent before an edge is believed not to matter to it
_SLEEPY = 16  # times that any unit of a channel must have been awake for the channel to be judged at all
_LUCK = 1e-4  # the chance of oversleeping by luck below which units are taken to see nothing
_MORE = 6  # further backgrounds for channels of which too little is known


def solve_channels(prober: Prober, layer: View) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """The boxes of every channel of a solved layer, and the channels of which too little could be learned.

    While a layer's boxes were proved, each channel either felt the outermost pixels of its units' boxes or did
    not. Those that did not see less: they are parted by the sides where they fall short, solved as maps of
    their own, and looked at again.

    Returns: (int32 (h, w, 4) for each channel, the channels that kept the layer's boxes for want of evidence).
    """
    boxes = [layer.boxes()] * len(layer.channels)
    unknown: set[int] = set()
    solved = [layer]
    while solved:
        waiting = []
        for view in solved:
            _ask_more(prober, view)
            short, undecided = _judge(view)
            unknown.update(view.channels[undecided].tolist())
            waiting += _parted(view, short)
        views = [View(layer.layer, channels, layer.shape, layer.image) for channels in waiting]
        unproved = attempt(prober, views, prober.background()) if views else []
        asleep = [view for view in views if view not in unproved and _overslept(prober, view, layer)]
        unknown.update(int(channel) for view in [*unproved, *asleep] for channel in view.channels)
        solved = [view for view in views if view not in unproved and view not in asleep]
        for view in solved:
            for channel in view.channels:
                boxes[channel] = view.boxes()
    for channel in unknown:
        boxes[channel] = layer.boxes()
    return boxes, tuple(sorted(unknown))


def _judge(view: View) -> tuple[np.ndarray, np.ndarray]:
    """What is known of each channel: bool (4, c), the sides where it falls short; bool (c,), those undecided."""
    silent = np.where(view.reached, 0, view.tried).sum(axis=2).reshape(4, -1)
    lines = view.shown.any(axis=(2, 3))  # sides that any unit was shown to reach
    missing = (~view.reached & _lines(view)[..., None]).any(axis=2).reshape(4, -1) & lines.reshape(4, 1)
    short = missing & (silent >= _ENOUGH)
    undecided = (missing & (silent < _ENOUGH)).any(axis=0) & ~short.any(axis=0) | (view.woken < _SLEEPY)
    return short & ~undecided, undecided


def _overslept(prober: Prober, view: View, layer: View) -> bool:
    """Whether units that never changed may have been asleep, where the layer's units see something.

    Units see nothing themselves, as in the gaps of a transposed convolution, if channels as wakeful as theirs
    are elsewhere would hardly have slept through every background.
    """
    blind, seeing = (~one.boxes().any(axis=2) for one in (view, layer))
    blind &= ~seeing
    if not blind.any():
        return False
    for _ in range(_MORE):
        show_edges(prober, view)
        if (view.ever & blind).any():
            return True
    wakeful = view.woken.sum() / max(1, view.looks * (~blind).sum() * len(view.channels))
    # Units of one channel on one background count as one: where the bias rules, they wake and sleep together.
    return bool((1 - min(wakeful, 1)) ** (len(view.channels) * len(view.backgrounds)) > _LUCK)


def _lines(view: View) -> np.ndarray:
    """bool (2, 2, lines): the lines of units that see anything, on each axis."""
    lines = np.zeros(view.reached.shape[:3], bool)
    seeing = view.last[0] >= view.first[0]
    for axis in (0, 1):
        lines[axis, :, : view.shape[axis]] = seeing.any(axis=1 - axis)
    return lines


def _ask_more(prober: Prober, view: View) -> None:
    """Repeat the strips at the edges, on other backgrounds, until every channel has told enough or plainly will not."""
    for _ in range(_MORE):
        _, undecided = _judge(view)
        if not undecided.any():
            return
        show_edges(prober, view)


def _parted(view: View, short: np.ndarray) -> list[np.ndarray]:
    """Groups of a view's channels that fall short of its boxes, by the sides where they do."""
    groups: dict[bytes, list[int]] = {}
    for position in np.flatnonzero(short.any(axis=0)):
        groups.setdefault(short[:, position].tobytes(), []).append(int(view.channels[position]))
    # A group that would be parted into itself has been solved as far as probes can tell.
    return [np.array(channels) for channels in groups.values() if len(channels) < len(view.channels)]
