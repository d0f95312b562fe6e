"""Channels of one map that see less than the map does: the branches of concatenations."""

from __future__ import annotations

import numpy as np

from recfield.probing import Prober
from recfield.proving import retest_edges
from recfield.solver import attempt
from recfield.view import View

_ENOUGH = 6  # times that a channel must be active without a change before an edge is considered irrelevant to it
_LEAST_ACTIVE = 16  # times that any unit of a channel must have been active before the channel is judged
_LUCK = 1e-4  # units see nothing if the chance of their being inactive throughout is below this
_MORE = 6  # further backgrounds for undecided channels


def solve_channels(prober: Prober, layer: View) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """The boxes of every channel of a solved layer, and the channels that remain undecided.

    While a layer's boxes were proved, the outermost pixels of its units' boxes changed some channels and not others.
    The others see less. They are grouped by the sides where their fields are smaller, solved as separate maps, and
    checked again.

    Returns: (int32 (h, w, 4) for each channel, the undecided channels, which keep the layer's boxes).
    """
    boxes = [layer.boxes()] * len(layer.channels)
    unknown: set[int] = set()
    solved = [layer]
    while solved:
        waiting = []
        for view in solved:
            _retest(prober, view)
            short, undecided = _judge(view)
            unknown.update(view.channels[undecided].tolist())
            waiting += _groups(view, short)
        views = [View(layer.layer, channels, layer.shape, layer.image) for channels in waiting]
        unproved = attempt(prober, views, prober.background()) if views else []
        inactive = [view for view in views if view not in unproved and _may_be_inactive(prober, view, layer)]
        unknown.update(int(channel) for view in [*unproved, *inactive] for channel in view.channels)
        solved = [view for view in views if view not in unproved and view not in inactive]
        for view in solved:
            for channel in view.channels:
                boxes[channel] = view.boxes()
    for channel in unknown:
        boxes[channel] = layer.boxes()
    return boxes, tuple(sorted(unknown))


def _judge(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Judge each channel: bool (4, c), the sides where its field is smaller; bool (c,), whether it is undecided."""
    silent = np.where(view.reached, 0, view.tried).sum(axis=2).reshape(4, -1)
    lines = view.proven.any(axis=(2, 3))  # sides that probes proved for any unit
    missing = (~view.reached & _lines(view)[..., None]).any(axis=2).reshape(4, -1) & lines.reshape(4, 1)
    short = missing & (silent >= _ENOUGH)
    undecided = (missing & (silent < _ENOUGH)).any(axis=0) & ~short.any(axis=0) | (view.active_times < _LEAST_ACTIVE)
    return short & ~undecided, undecided


def _may_be_inactive(prober: Prober, view: View, layer: View) -> bool:
    """Whether units that never changed may only have been inactive, although the layer's units see something.

    Units see nothing, as in the gaps of a transposed convolution, if channels that are elsewhere as active as theirs
    would hardly have been inactive on every background.
    """
    blind, seeing = (~part.boxes().any(axis=2) for part in (view, layer))
    blind &= ~seeing
    if not blind.any():
        return False
    for _ in range(_MORE):
        retest_edges(prober, view)
        if (view.ever & blind).any():
            return True
    activity = view.active_times.sum() / max(1, view.looks * (~blind).sum() * len(view.channels))
    # Units of one channel on one background count as one: where the bias dominates, they are active or inactive together.
    return bool((1 - min(activity, 1)) ** (len(view.channels) * len(view.backgrounds)) > _LUCK)


def _lines(view: View) -> np.ndarray:
    """bool (2, 2, lines): the lines of units that see anything, on each axis."""
    lines = np.zeros(view.reached.shape[:3], bool)
    seeing = view.last[0] >= view.first[0]
    for axis in (0, 1):
        lines[axis, :, : view.shape[axis]] = seeing.any(axis=1 - axis)
    return lines


def _retest(prober: Prober, view: View) -> None:
    """Repeat the strips at the edges, on other backgrounds, until every channel is decided or the limit is reached."""
    for _ in range(_MORE):
        _, undecided = _judge(view)
        if not undecided.any():
            return
        retest_edges(prober, view)


def _groups(view: View, short: np.ndarray) -> list[np.ndarray]:
    """The channels of a view with smaller fields than its boxes, grouped by the sides where they are smaller."""
    groups: dict[bytes, list[int]] = {}
    for position in np.flatnonzero(short.any(axis=0)):
        groups.setdefault(short[:, position].tobytes(), []).append(int(view.channels[position]))
    # A group that contains all channels of the view cannot be split further by probes.
    return [np.array(channels) for channels in groups.values() if len(channels) < len(view.channels)]
