"""Prove boxes on new backgrounds: nothing outside a box may change its unit, and every edge must."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from recfield.edges import FIRST, LAST
from recfield.packing import Question, half, pack
from recfield.probing import Probe, Prober, any_channel
from recfield.view import COLS, ROWS, View

_BACKGROUNDS = 4  # on which an edge may have no effect before it is considered wrong
# The amplitudes of backgrounds on which a true change, however small, is more than rounding, and of their replacements.
# On the last one, units are active that biases keep inactive on quiet ones.
_QUIET = ((1e-3, 3e3), (1e-3, 1e6), (1.0, 3e3))


def prove(prober: Prober, views: Sequence[View]) -> list[View]:
    """Test the claimed boxes on new backgrounds. Returns: the views that must be solved again."""
    disproved: dict[View, None] = {}
    patterns = _outsides(prober, views) + strips(prober, {view: ~view.proven for view in views})
    tried = 0
    while patterns and tried < _BACKGROUNDS:
        # If few strips are left, test them on several backgrounds at once: a half-empty batch costs the same.
        count = min(_BACKGROUNDS - tried, max(1, prober.room // (len(patterns) + 2)))
        probes = [Probe(background, *on) for background in [prober.background() for _ in range(count)] for on in patterns]
        disproved |= _test(prober, views, probes)
        tried += count
        patterns = strips(prober, {view: ~view.proven for view in views if view not in disproved})
    unproved = []
    for view in views:
        if view in disproved:
            view.forget()
            unproved.append(view)
        elif not view.accept():
            unproved.append(view)
    return unproved


def _outsides(prober: Prober, views: Sequence[View]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Patterns for rows and columns together that replace the pixels just outside boxes, and some that replace far more."""
    lines: list[list[np.ndarray]] = []
    # Rounding that leaks is known by lines, of rows or of columns.
    separable = not prober.leaks and all(view.separable for view in views)
    for axis in (ROWS, COLS):
        length = prober.image_shape[axis]
        questions = set()
        for view in views:
            for first, last in _distinct(view, axis, np.ones(view.shape, bool)):
                gap = max(2, (last - first + 1) // 8)
                # Each side on its own: the boxes of other layers that begin, or end, at the same pixel are asked alike.
                if first > 0:
                    questions.add(Question(max(0, first - gap), last + 1, first, last + 1, outside=True))
                if last + 1 < length:
                    questions.add(Question(first, min(length, last + 1 + gap), first, last + 1, outside=True))
        halves = [half(length, length * part // 4, side) for part in (1, 2) for side in (FIRST, LAST)]
        lines.append(pack(questions, length) + halves)
    rows, cols = lines
    none = [np.zeros(length, bool) for length in prober.image_shape[:2]]
    if not separable:
        return [(on, none[COLS]) for on in rows] + [(none[ROWS], on) for on in cols]
    longest = max(len(rows), len(cols))
    rows += [none[ROWS]] * (longest - len(rows))
    cols += [none[COLS]] * (longest - len(cols))
    return list(zip(rows, cols, strict=True))


def retest_edges(prober: Prober, view: View) -> None:
    """Replace the outermost row or column of every unit again, on a new background, to learn about its channels."""
    background = prober.background()
    everything = np.ones((2, 2, *view.shape), bool)
    _test(prober, [view], [Probe(background, *on) for on in strips(prober, {view: everything})])


def strips(prober: Prober, edges: Mapping[View, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Patterns that replace the outermost row or column of the given units: bool (2, 2, h, w) for each view."""
    no_rows, no_cols = (np.zeros(length, bool) for length in prober.image_shape[:2])
    patterns: list[tuple[np.ndarray, np.ndarray]] = []
    for axis in (ROWS, COLS):
        questions = set()
        for view, units in edges.items():
            for side in (FIRST, LAST):
                for first, last in _distinct(view, axis, units[axis, side]):
                    edge = first if side == FIRST else last
                    questions.add(Question(first, last + 1, edge, edge + 1))
        patterns += [(on, no_cols) if axis == ROWS else (no_rows, on) for on in pack(questions, prober.image_shape[axis])]
    return patterns


def _distinct(view: View, axis: int, units: np.ndarray) -> list[tuple[int, int]]:
    """The distinct pairs (first, last) of pixels among those of the units that see anything."""
    units = units & (view.last[axis] >= view.first[axis])
    length = view.image[axis]
    # Counted, not sorted: of the thousands of units of a large map, most see the same lines.
    counts = np.bincount(view.first[axis][units] * length + view.last[axis][units])
    return [divmod(pair, length) for pair in np.flatnonzero(counts).tolist()]


def _test(prober: Prober, views: Sequence[View], probes: Sequence[Probe]) -> dict[View, None]:
    """Send probes, mark the edges that matter, and return the views in which a pixel outside a box changed its unit."""
    wrong: dict[View, None] = {}
    for probe, changes in prober.changes(probes):
        for view in views:
            if _judge(prober, view, probe, changes[view.layer]):
                wrong[view] = None
    return wrong


def _judge(prober: Prober, view: View, probe: Probe, changes: np.ndarray) -> bool:
    """Evaluate one answer: mark the edges that changed a unit. Returns: whether a pixel outside a box changed its unit."""
    changed, active = view.pick(changes), view.pick(probe.background.active[view.layer])
    any_changed = any_channel(changed)
    for axis, on in ((ROWS, probe.rows), (COLS, probe.cols)):
        if not (probe.cols if axis == ROWS else probe.rows).any():
            view.learn(axis, on, any_changed, np.zeros(view.shape, bool))
    for axis, side, strip in _edge_strips(view, probe):
        lines = np.flatnonzero(strip.any(axis=1 - axis))
        # Strips lie apart: of a map of millions of numbers, few lines are looked at.
        of_lines = (lines, slice(None)) if axis == ROWS else (slice(None), lines)
        edges, felt = strip[of_lines][:, :, None], changed[of_lines]
        view.proven[axis, side] |= strip & any_changed
        if not view.plain_lines(axis, side)[lines].all():
            plain = prober.plainly(probe.background, view.layer, of_lines)
            view.plain[axis, side][of_lines] |= (view.pick(plain) & felt & edges).any(axis=2)
        tested = (felt | active[of_lines]) & edges
        view.tested[axis, side][of_lines] += tested.sum(axis=2, dtype=np.int32)
        view.reached[axis, side, lines] |= (felt & edges).any(axis=1 - axis)
        view.tried[axis, side, lines] += tested.sum(axis=1 - axis, dtype=np.int32)
    view.note_active(probe.background.number, active)
    rows, cols = _pixels_inside(view, probe)
    return bool((any_changed & (rows == 0) & (cols == 0)).any())


def _pixels_inside(view: View, probe: Probe) -> list[np.ndarray]:
    """How many rows, and how many columns, of each unit's box a probe replaces: int (h, w) each."""
    inside = []
    for axis, on in ((ROWS, probe.rows), (COLS, probe.cols)):
        total = np.concatenate([[0], np.cumsum(on)])
        inside.append(total[view.last[axis] + 1] - total[view.first[axis]])
    return inside


def _edge_strips(view: View, probe: Probe) -> Iterator[tuple[int, int, np.ndarray]]:
    """Axis, side, and the units of whose boxes a probe replaces the outermost line there alone: bool (h, w), where any is."""
    inside = _pixels_inside(view, probe)
    for axis, on in ((ROWS, probe.rows), (COLS, probe.cols)):
        alone = (inside[axis] == 1) & (inside[1 - axis] == 0)
        for side, edge in ((FIRST, view.first[axis]), (LAST, view.last[axis])):
            strip = alone & on[edge]
            if strip.any():
                yield axis, side, strip


def rounding_leaks(prober: Prober, views: Sequence[View], unproved: Sequence[View]) -> bool:
    """Whether boxes that were solved without regard to it end where rounding leaks to, and not at what the units see.

    Only edges whose change was small enough to be rounding are looked at; where none is, no probe is sent. On very quiet
    backgrounds with loud replacements, most of those of a network without leaks change their units as much as their twins do.
    """
    faint = {}
    for view in views:
        edges = np.ones_like(view.proven) if view in unproved else view.proven.copy()
        for axis, side in np.ndindex(2, 2):
            edges[axis, side] &= ~np.expand_dims(view.plain_lines(axis, side), 1 - axis)
        edges &= view.last[ROWS] >= view.first[ROWS]
        if edges.any():
            faint[view] = edges
    prober.leaks = bool(faint)  # so that probes have twins
    for amplitudes in _QUIET:
        count = max(1, (prober.room - 5) // 2 // max(1, len(faint)))
        background, probes = prober.background(amplitudes), dict[Probe, View]()
        for view, edges in faint.items():
            patterns = strips(prober, {view: edges})
            probes |= {Probe(background, *on): view for on in patterns[:: max(1, -(-len(patterns) // count))]}
        felt, true = dict.fromkeys(faint, 0), dict.fromkeys(faint, 0)  # lines of units that changed, and above the rounding
        for probe, changes in prober.changes(list(probes)):
            view = probes[probe]
            differs = view.pick(prober.maps[view.layer] != background.base[view.layer])
            for axis, side, strip in _edge_strips(view, probe):
                at = strip & faint[view][axis, side]
                felt[view] += int((at & any_channel(differs)).any(axis=1 - axis).sum())
                true[view] += int((at & any_channel(view.pick(changes[view.layer]))).any(axis=1 - axis).sum())
        faint = {view: edges for view, edges in faint.items() if 2 * true[view] <= felt[view]}
        if not faint:
            break
    prober.leaks = any(felt[view] for view in faint)
    return prober.leaks
