"""Solve every unit's box by bisection and by fitted patterns, then prove each with probes.

Replacing the pixels [0, t) of an axis changes exactly the units whose first pixel lies below t, so the set of changed
units grows with t. A few thresholds bracket every unit's edges at once. A regular pattern fitted to the brackets
predicts the edges, and further thresholds distinguish the patterns that still fit; if none fits, each edge is
bisected. The boxes solved on one background are then proved on others: nothing just outside a box changes
its unit, and the outermost row or column on each side does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from recfield.edges import FIRST, LAST
from recfield.errors import UnprovenField
from recfield.guess import Guess
from recfield.packing import Question, half, pack
from recfield.probing import Background, Probe, Prober, any_channel
from recfield.proving import prove, rounding_leaks
from recfield.view import COLS, ROWS, View

_ATTEMPTS = 5  # to solve and prove the boxes
_ROUNDS = 24  # of probes on one background
_STUCK = 3  # rounds without progress after which a background is given up


def solve_layers(prober: Prober) -> dict[str, View]:
    """Solve every layer that the forward function returns; where rounding leaks, again, by changes above it.

    Raises: UnprovenField, and what the prober raises.
    """
    background = prober.background()
    views: dict[str, View] = {}

    def on_first_answer() -> list[View]:
        if not views:
            height, width, _ = prober.image_shape
            for layer, (h, w, c) in prober.shapes.items():
                views[layer] = View(layer, np.arange(c), (h, w), (height, width))
        return list(views.values())

    _ask(prober, on_first_answer, background, _sweep(prober))
    unproved = attempt(prober, list(views.values()), background)
    if rounding_leaks(prober, list(views.values()), unproved):
        views = {layer: View(layer, view.channels, view.shape, view.image) for layer, view in views.items()}
        unproved = attempt(prober, list(views.values()), prober.background())
    if unproved:
        raise UnprovenField(
            f"the receptive field of {unproved[0].layer or 'the map'} was solved {_ATTEMPTS} times and contradicted each time. "
            "The function may be random occasionally, or its units may be active for too few random images.",
            [view.layer for view in unproved],
        )
    return views


def attempt(prober: Prober, views: Sequence[View], background: Background) -> list[View]:
    """Solve and prove the boxes of all views together, starting from what they have learned already.

    Returns: the views whose boxes could not be proved.
    """
    unsolved = list(views)
    fresh = [view for view in views if not view.changes]
    if fresh:
        _ask(prober, lambda: fresh, background, _sweep(prober))
    for _ in range(_ATTEMPTS):
        _narrow(prober, unsolved, background)
        for view in unsolved:
            view.claim()
        unsolved = prove(prober, unsolved)
        if not unsolved:
            break
        background = prober.background()
    return unsolved


# ---- solving


def _narrow(prober: Prober, views: Sequence[View], background: Background) -> None:
    """Narrow all brackets until every edge is known or follows a pattern."""
    stuck = 0
    for _ in range(_ROUNDS):
        patterns = _next_patterns(prober, views)
        if not patterns:
            return
        before = [(view.openness(), view.open_sides()) for view in views]
        _ask(prober, lambda: views, background, patterns)
        narrowed = [(view.openness() < was) | ~asked for view, (was, asked) in zip(views, before, strict=True)]
        for view, better in zip(views, narrowed, strict=True):
            view.patterned &= better  # guesses that no longer make progress are wrong: bisect instead
        stuck = 0 if any(better.all() for better in narrowed) else stuck + 1
        if stuck == _STUCK:
            return
    # Brackets that this background keeps contradicting are left to the proof, and to the next background.


def _sweep(prober: Prober) -> list[tuple[int, np.ndarray]]:
    """The first thresholds: the outermost pixel, and others spread evenly, all different modulo small strides."""
    height, width, _ = prober.image_shape
    count = int(np.clip((prober.room - 3) // 4 - 1, 2, 6))
    patterns = []
    for axis, length in ((ROWS, height), (COLS, width)):
        for side in (FIRST, LAST):
            patterns.append((axis, half(length, 1, side)))
            for step in range(count):
                threshold = int((step + 0.5) * length / count) + (5 * step + 3) % 16 - 8 * (length >= 64)
                patterns.append((axis, half(length, int(np.clip(threshold, 1, max(1, length - 1))), side)))
    return patterns


def _next_patterns(prober: Prober, views: Sequence[View]) -> list[tuple[int, np.ndarray]]:
    """The next patterns: thresholds that split the offsets that still fit, or that bisect every open bracket."""
    unsettled = [
        (view, axis, side) for view in views for axis in (ROWS, COLS) for side in (FIRST, LAST) if not view.settled(axis, side)
    ]
    share = max(1, prober.room // max(1, len(unsettled)))
    patterns: dict[tuple[int, bytes], tuple[int, np.ndarray]] = {}
    bisected: dict[int, list[Question]] = {ROWS: [], COLS: []}
    for view, axis, side in unsettled:
        length = view.image[axis]
        guess = view.guess(axis, side)
        if guess is None:
            bisected[axis] += _halvings(view, axis, side)
        else:
            for threshold in _splits(guess, length, share):
                on = half(length, threshold, side)
                patterns[axis, on.tobytes()] = (axis, on)
    for axis, questions in bisected.items():
        for on in pack(questions, prober.image_shape[axis]):
            patterns[axis, on.tobytes()] = (axis, on)
    return list(patterns.values())


def _splits(guess: Guess, length: int, count: int) -> Iterator[int]:
    """Thresholds that split the floors and offsets that still fit evenly, or distinguish the guess from its rival."""
    if guess.on_unknown_floor:
        yield guess.floors[0] + 1
    least, most = guess.offsets
    count = min(count, most - least)
    for share in range(1, count + 1):
        offset = least + (most - least) * share // (count + 1)
        thresholds = guess.steps - offset  # unit by unit: silent below it if the offset is at most this one
        usable = thresholds[(thresholds >= 1) & (thresholds <= length - 1)]
        if len(usable):
            yield int(usable[len(usable) // 2])
    if guess.rival is not None:
        unit = int(np.abs(guess.edges - guess.rival).argmax())
        yield int(np.clip(max(guess.edges[unit], guess.rival[unit]), 1, length - 1))


def _halvings(view: View, axis: int, side: int) -> list[Question]:
    """One question for every distinct open bracket of a side: is the edge in its nearer half?"""
    length = view.image[axis]
    low, high = view.brackets(axis, side)
    beyond, _ = view.brackets(axis, 1 - side)
    units = low < high
    seen = units & (high < length)
    if seen.any():  # units that no probe has changed are left to the others, or see nothing
        units = seen
    questions = []
    for nearest, furthest, far in np.unique(np.stack([low[units], high[units], beyond[units]]), axis=1).T.tolist():
        start, stop, on, off = nearest, length - far, nearest, (nearest + min(furthest, length) + 1) // 2
        if off > stop:
            continue
        if side == LAST:
            start, stop, on, off = (length - position for position in (stop, start, off, on))
        questions.append(Question(start, stop, on, off))
    return questions


def _ask(
    prober: Prober, views: Callable[[], Sequence[View]], background: Background, patterns: Sequence[tuple[int, np.ndarray]]
) -> None:
    """Send one-axis patterns and let every view learn from the answers."""
    probes = {_probe(prober, background, axis, on): (axis, on) for axis, on in patterns}
    for probe, changes in prober.changes(list(probes)):
        axis, on = probes[probe]
        for view in views():
            changed, active = (view.pick(answer[view.layer]) for answer in (changes, background.active))
            view.learn(axis, on, any_channel(changed), any_channel(active))


def _probe(prober: Prober, background: Background, axis: int, on: np.ndarray) -> Probe:
    height, width, _ = prober.image_shape
    off = np.zeros(width if axis == ROWS else height, bool)
    return Probe(background, on, off) if axis == ROWS else Probe(background, off, on)
