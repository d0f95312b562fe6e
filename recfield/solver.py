"""Find every unit's box by bisection and pattern, then prove each by probes.

Replacing the pixels [0, t) of an axis changes exactly the units whose first pixel lies below t: as t grows
the answer only grows. A few thresholds bracket every unit's edges at once; a regular pattern fitted to the
brackets names the edges, further thresholds split what still fits, and where no pattern fits each edge is
bisected. What was found on one background is then proved on others: nothing just outside a box changes
its unit, and the outermost row or column on each side does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recfield.edges import FIRST, LAST, Edges
from recfield.errors import UnprovenField
from recfield.guess import Guess, fit
from recfield.packing import Question, pack
from recfield.probing import Background, Probe, Prober

ROWS, COLS = 0, 1
_ATTEMPTS = 5  # times that boxes may be found, disproved and found again
_BACKGROUNDS = 4  # on which an edge may fail to show before it is believed not to be there
_MUCH = 12  # channels awake and silent at one unit's edge that may outweigh what its line shows
_ROUNDS = 24  # of questions on one background
_STUCK = 3  # rounds without progress after which a background is given up


@dataclass(eq=False)
class View:
    """A map to be solved: a layer, or some channels of one.

    first, last: int (2, h, w): what is claimed of each axis: the first and the last pixel of every unit.
    shown: bool (2, 2, h, w): axis, side: edges that were seen to matter.
    told: int (2, 2, h, w): how many channels were awake to tell.
    reached, tried: (2, 2, lines, c): for each channel and line of units, whether the outermost pixels changed
    it, and how often it was awake to tell.
    ever: bool (h, w): units of which any channel was ever awake.
    woken: int (c,): how often any unit of a channel was awake, in `looks` looks at `backgrounds`.
    lines: whether the units of a line vouch for each other: rows of pixels nearly always depend on the unit's
    row alone, and where one unit is asleep or feels an edge too little to tell, another speaks for it.
    patterned: bool (2, 2): axis, side: whether edges may be guessed; a guess that was disproved ends it.
    """

    layer: str
    channels: np.ndarray
    shape: tuple[int, int]
    image: tuple[int, int]
    edges: tuple[Edges, Edges] = field(init=False)
    changes: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.edges = (Edges(self.shape, self.image[ROWS]), Edges(self.shape, self.image[COLS]))
        self.first, self.last = np.zeros((2, 2, *self.shape), np.int32)
        self.shown = np.zeros((2, 2, *self.shape), bool)
        self.told = np.zeros((2, 2, *self.shape), np.int32)
        per_channel = (2, 2, max(self.shape), len(self.channels))
        self.reached, self.tried = np.zeros(per_channel, bool), np.zeros(per_channel, np.int32)
        self.woken = np.zeros(len(self.channels), np.int64)
        self.ever = np.zeros(self.shape, bool)
        self.looks = 0
        self.backgrounds: set[int] = set()
        self.patterned = np.ones((2, 2), bool)
        self.lines = True

    def brackets(self, axis: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        """The brackets of a side: int (h, w) each."""
        return self.edges[axis].low[side], self.edges[axis].high[side]

    def guess(self, axis: int, side: int) -> Guess | None:
        """The pattern of one side's edges along its axis, in pixels and lines from that side."""
        if not self.patterned[axis, side]:
            return None
        low, high = self.brackets(axis, side)
        low, high = low.max(axis=1 - axis), high.min(axis=1 - axis)
        turn = -1 if side == LAST else 1
        return fit(low[::turn], high[::turn], self.image[axis])

    def openness(self) -> np.ndarray:
        """int (2, 2): axis, side: the pixels that the brackets of all units leave open together."""
        return np.array([(edges.high - edges.low).sum(axis=(1, 2)) for edges in self.edges])

    def open_sides(self) -> np.ndarray:
        """bool (2, 2): axis, side: where something is left to find."""
        return np.array([[not self.settled(axis, side) for side in (FIRST, LAST)] for axis in (ROWS, COLS)])

    def settled(self, axis: int, side: int) -> bool:
        """Whether nothing is left to find: all edges follow a pattern or are bracketed to a pixel."""
        guess = self.guess(axis, side)
        if guess is not None and guess.sure:
            return True
        low, high = self.brackets(axis, side)
        return bool(((low == high) | (high == self.image[axis])).all()) and bool((high < self.image[axis]).any() or guess is None)

    def claim(self) -> None:
        """Fix the boxes that the brackets and patterns say; units that no probe has changed claim nothing."""
        nothing = np.zeros(self.shape, bool)
        for axis, length in enumerate(self.image):
            for side, ends in ((FIRST, self.first), (LAST, self.last)):
                guess = self.guess(axis, side)
                if guess is not None and guess.sure:
                    line = guess.edges[:: -1 if side == LAST else 1]
                    edge = np.broadcast_to(line[:, None] if axis == ROWS else line[None, :], self.shape)
                else:
                    edge, high = self.brackets(axis, side)
                    nothing = nothing | (high == length)
                ends[axis] = edge if side == FIRST else length - 1 - edge
        nothing |= (self.first > self.last).any(axis=0)
        self.first[:, nothing], self.last[:, nothing] = 0, -1
        self.shown[:], self.told[:] = nothing, 0
        self.reached[:], self.tried[:] = False, 0

    @property
    def separable(self) -> bool:
        """Whether rows of pixels are claimed to depend on the unit's row alone, and columns on its column alone."""
        rows, cols = (np.stack([self.first[axis], self.last[axis]]) for axis in (ROWS, COLS))
        seeing = self.last[ROWS] >= self.first[ROWS]
        return bool(((rows == rows[:, :, :1]) | ~seeing).all() and ((cols == cols[:, :1]) | ~seeing).all())

    def learn(self, axis: int, on: np.ndarray, changed: np.ndarray, awake: np.ndarray) -> None:
        """Take what replacing the pixels `on` of an axis changed: bool (h, w), and which units were awake."""
        self.changes.append((axis, on, np.packbits(changed)))
        self.edges[axis].learn(on, self._of_lines(axis, changed), self._of_lines(axis, awake))

    def _of_lines(self, axis: int, units: np.ndarray) -> np.ndarray:
        return np.broadcast_to(units.any(axis=1 - axis, keepdims=True), self.shape) if self.lines else units

    def forget(self) -> None:
        """Start anew from the changes alone, without guessing: silence may have been luck, changes are sure."""
        self.patterned[:] = False
        nobody = np.zeros(self.shape, bool)
        for edges in self.edges:
            edges.forget(~nobody)
        for axis, on, packed in self.changes:
            changed = np.unpackbits(packed, count=nobody.size).reshape(self.shape).astype(bool)
            self.edges[axis].learn(on, self._of_lines(axis, changed), nobody)

    def accept(self) -> bool:
        """Take what the proof has shown. Returns: whether the boxes stand.

        A unit that was asleep on every background keeps the box of its row and column if another unit of
        that line was shown to reach as far; a line that never woke sees nothing. A unit that was awake
        while its outermost pixels made no difference has its edge further in: it is to be found anew, the
        others are not.
        """
        if self.lines and self._lines_part():
            self.lines = False
            self.forget()
            return False
        stands = True
        asleep = np.zeros(self.shape, bool)
        for axis, edges in enumerate(self.edges):
            for side, claimed in ((FIRST, self.first[axis]), (LAST, edges.length - 1 - self.last[axis])):
                shown, told = (self._of_lines(axis, part[axis, side] > 0) for part in (self.shown, self.told))
                refuted = told & ~shown
                edges.low[side] = np.where(shown | refuted, claimed + refuted, edges.low[side])
                edges.high[side] = np.where(shown, claimed, edges.high[side])
                if refuted.any():
                    self.patterned[axis, side] = stands = False
                asleep |= ~shown & ~told
        if stands:
            self.first[:, asleep], self.last[:, asleep] = 0, -1
        return stands

    def _lines_part(self) -> bool:
        """Whether the units of a line plainly see different pixels of it.

        Of lines whose edge most units feel, the same units fall short again and again. Where few units feel an
        edge, it is merely faint.
        """
        for axis in (ROWS, COLS):
            for side in (FIRST, LAST):
                judged = self.told[axis, side] >= _MUCH
                short = judged & ~self.shown[axis, side]
                plain = 2 * short.sum(axis=1 - axis, keepdims=True) < judged.sum(axis=1 - axis, keepdims=True)
                if ((short & plain).sum(axis=axis) >= np.maximum(2, 0.6 * (judged & plain).sum(axis=axis))).any():
                    return True
        return False

    def pick(self, answer: np.ndarray) -> np.ndarray:
        return answer if len(self.channels) == answer.shape[2] else answer[:, :, self.channels]

    def boxes(self) -> np.ndarray:
        """int32 (h, w, 4): y1, x1, y2, x2."""
        boxes = np.stack([self.first[ROWS], self.first[COLS], self.last[ROWS] + 1, self.last[COLS] + 1], axis=-1)
        boxes[(boxes[..., 2] <= boxes[..., 0]) | (boxes[..., 3] <= boxes[..., 1])] = 0
        return boxes.astype(np.int32)


def solve_layers(prober: Prober) -> dict[str, View]:
    """Solve every layer that the forward function returns. Raises: as `solve`."""
    background = prober.background()
    views: dict[str, View] = {}

    def on_first_answer() -> list[View]:
        if not views:
            height, width, _ = prober.image_shape
            for layer, (h, w, c) in prober.shapes.items():
                views[layer] = View(layer, np.arange(c), (h, w), (height, width))
        return list(views.values())

    _ask(prober, on_first_answer, background, _sweep(prober))
    solve(prober, list(views.values()), background)
    return views


def solve(prober: Prober, views: Sequence[View], background: Background) -> None:
    """As `attempt`, for views that must be solved. Raises: UnprovenField, and what the prober raises."""
    for view in attempt(prober, views, background):
        raise UnprovenField(
            f"the receptive field of {view.layer or 'the map'} was found {_ATTEMPTS} times and contradicted each time. "
            "The function may be random now and then, or its units may be too seldom awake for random images."
        )


def attempt(prober: Prober, views: Sequence[View], background: Background) -> list[View]:
    """Find and prove the boxes of all views together, beyond what they have learned already.

    Returns: the views whose boxes could not be proved.
    """
    unsolved = list(views)
    fresh = [view for view in views if not view.changes]
    if fresh:
        _ask(prober, lambda: fresh, background, _sweep(prober))
    for _ in range(_ATTEMPTS):
        _find(prober, unsolved, background)
        for view in unsolved:
            view.claim()
        unsolved = _prove(prober, unsolved)
        if not unsolved:
            break
        background = prober.background()
    return unsolved


# ---- finding


def _find(prober: Prober, views: Sequence[View], background: Background) -> None:
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
            view.patterned &= better  # guesses that no longer learn anything have gone astray: bisect instead
        stuck = 0 if any(better.all() for better in narrowed) else stuck + 1
        if stuck == _STUCK:
            return
    # Brackets that this background keeps contradicting are left to the proof, and to the next background.


def _sweep(prober: Prober) -> list[tuple[int, np.ndarray]]:
    """The first thresholds: the outermost pixel, and others spread evenly, all different modulo small strides."""
    height, width, _ = prober.image_shape
    count = int(np.clip((prober.batch - 3) // 4 - 1, 2, 6))
    patterns = []
    for axis, length in ((ROWS, height), (COLS, width)):
        for side in (FIRST, LAST):
            patterns.append((axis, _half(length, 1, side)))
            for step in range(count):
                threshold = int((step + 0.5) * length / count) + (5 * step + 3) % 16 - 8 * (length >= 64)
                patterns.append((axis, _half(length, int(np.clip(threshold, 1, max(1, length - 1))), side)))
    return patterns


def _half(length: int, threshold: int, side: int) -> np.ndarray:
    """The `threshold` pixels next to one side."""
    on = np.arange(length) < threshold
    return on if side == FIRST else on[::-1].copy()


def _next_patterns(prober: Prober, views: Sequence[View]) -> list[tuple[int, np.ndarray]]:
    """What to replace next: thresholds that split the offsets that still fit, or every open bracket in the middle."""
    unsettled = [
        (view, axis, side) for view in views for axis in (ROWS, COLS) for side in (FIRST, LAST) if not view.settled(axis, side)
    ]
    share = max(1, (prober.batch or 1) // max(1, len(unsettled)))
    found: dict[tuple[int, bytes], tuple[int, np.ndarray]] = {}
    bisected: dict[int, list[Question]] = {ROWS: [], COLS: []}
    for view, axis, side in unsettled:
        length = view.image[axis]
        guess = view.guess(axis, side)
        if guess is None:
            bisected[axis] += _halvings(view, axis, side)
        else:
            for threshold in _splits(guess, length, share):
                on = _half(length, threshold, side)
                found[axis, on.tobytes()] = (axis, on)
    for axis, questions in bisected.items():
        for on in pack(questions, prober.image_shape[axis]):
            found[axis, on.tobytes()] = (axis, on)
    return list(found.values())


def _splits(guess: Guess, length: int, count: int) -> Iterator[int]:
    """Thresholds that part the floors and offsets that still fit into even shares, or the guess from its rival."""
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
            start, stop, on, off = (length - place for place in (stop, start, off, on))
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
            changed, awake = (view.pick(answer[view.layer]) for answer in (changes, background.awake))
            view.learn(axis, on, np.any(changed, axis=2), np.any(awake, axis=2))


def _probe(prober: Prober, background: Background, axis: int, on: np.ndarray) -> Probe:
    height, width, _ = prober.image_shape
    off = np.zeros(width if axis == ROWS else height, bool)
    return Probe(background, on, off) if axis == ROWS else Probe(background, off, on)


# ---- proving


def _prove(prober: Prober, views: Sequence[View]) -> list[View]:
    """Hold the claimed boxes against fresh backgrounds. Returns: the views to be found anew."""
    disproved: dict[View, None] = {}
    patterns = _outsides(prober, views) + _strips(prober, {view: ~view.shown for view in views})
    tried = 0
    while patterns and tried < _BACKGROUNDS:
        # What few strips are left go out on several backgrounds at once: a batch costs the same half empty.
        count = min(_BACKGROUNDS - tried, max(1, prober.batch // (len(patterns) + 2)))
        probes = [Probe(background, *on) for background in [prober.background() for _ in range(count)] for on in patterns]
        disproved |= _test(prober, views, probes)
        tried += count
        patterns = _strips(prober, {view: ~view.shown for view in views if view not in disproved})
    again = []
    for view in views:
        if view in disproved:
            view.forget()
            again.append(view)
        elif not view.accept():
            again.append(view)
    return again


def _outsides(prober: Prober, views: Sequence[View]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Patterns, rows and columns at once, that replace what lies just outside boxes, and some that replace far more."""
    lines: list[list[np.ndarray]] = []
    separable = all(view.separable for view in views)
    for axis in (ROWS, COLS):
        length = prober.image_shape[axis]
        questions = set()
        for view in views:
            for first, last in _distinct(view, axis, np.ones(view.shape, bool)):
                gap = max(2, (last - first + 1) // 8)
                start, stop = max(0, first - gap), min(length, last + 1 + gap)
                if stop - start > last + 1 - first:
                    questions.add(Question(start, stop, first, last + 1, outside=True))
        halves = [_half(length, length * part // 4, side) for part in (1, 2) for side in (FIRST, LAST)]
        lines.append(pack(questions, length) + halves)
    rows, cols = lines
    none = [np.zeros(length, bool) for length in prober.image_shape[:2]]
    if not separable:
        return [(on, none[COLS]) for on in rows] + [(none[ROWS], on) for on in cols]
    longest = max(len(rows), len(cols))
    rows += [none[ROWS]] * (longest - len(rows))
    cols += [none[COLS]] * (longest - len(cols))
    return list(zip(rows, cols, strict=True))


def show_edges(prober: Prober, view: View) -> None:
    """Replace the outermost row or column of every unit once more, on a new background, for its channels to tell."""
    background = prober.background()
    everything = np.ones((2, 2, *view.shape), bool)
    _test(prober, [view], [Probe(background, *on) for on in _strips(prober, {view: everything})])


def _strips(prober: Prober, wanted: Mapping[View, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Patterns that replace the outermost row or column of the units wanted: bool (2, 2, h, w) for each view."""
    no_rows, no_cols = (np.zeros(length, bool) for length in prober.image_shape[:2])
    patterns: list[tuple[np.ndarray, np.ndarray]] = []
    for axis in (ROWS, COLS):
        questions = set()
        for view, units in wanted.items():
            for side in (FIRST, LAST):
                for first, last in _distinct(view, axis, units[axis, side]):
                    edge = first if side == FIRST else last
                    questions.add(Question(first, last + 1, edge, edge + 1))
        patterns += [(on, no_cols) if axis == ROWS else (no_rows, on) for on in pack(questions, prober.image_shape[axis])]
    return patterns


def _distinct(view: View, axis: int, units: np.ndarray) -> list[tuple[int, int]]:
    """The different (first, last) pixels among some units that see anything."""
    units = units & (view.last[axis] >= view.first[axis])
    pairs = np.stack([view.first[axis][units], view.last[axis][units]], axis=1)
    return [(int(first), int(last)) for first, last in np.unique(pairs, axis=0)]


def _test(prober: Prober, views: Sequence[View], probes: Sequence[Probe]) -> dict[View, None]:
    """Send probes, mark the edges that matter, and return the views with a unit changed from outside its box."""
    wrong: dict[View, None] = {}
    for probe, changes in prober.changes(probes):
        for view in views:
            if _judge(view, probe, view.pick(changes[view.layer]), view.pick(probe.background.awake[view.layer])):
                wrong[view] = None
    return wrong


def _judge(view: View, probe: Probe, changed: np.ndarray, awake: np.ndarray) -> bool:
    """Take one answer: mark edges seen to matter. Returns: whether something outside a box mattered."""
    inside = []
    for axis, on in ((ROWS, probe.rows), (COLS, probe.cols)):
        total = np.concatenate([[0], np.cumsum(on)])
        inside.append(total[view.last[axis] + 1] - total[view.first[axis]])
    any_changed = np.any(changed, axis=2)
    for axis, on in ((ROWS, probe.rows), (COLS, probe.cols)):
        if not (probe.cols if axis == ROWS else probe.rows).any():
            view.learn(axis, on, any_changed, np.zeros(view.shape, bool))
        alone = (inside[axis] == 1) & (inside[1 - axis] == 0)
        for side, edge in ((FIRST, view.first[axis]), (LAST, view.last[axis])):
            strip = alone & on[edge]
            view.shown[axis, side] |= strip & any_changed
            told = (changed | awake) & strip[:, :, None]
            view.told[axis, side] += told.sum(axis=2, dtype=np.int32)
            lines = view.shape[axis]
            view.reached[axis, side, :lines] |= (changed & strip[:, :, None]).any(axis=1 - axis)
            view.tried[axis, side, :lines] += told.sum(axis=1 - axis, dtype=np.int32)
    view.woken += awake.sum(axis=(0, 1))
    view.ever |= awake.any(axis=2)
    view.looks += 1
    view.backgrounds.add(probe.background.number)
    return bool((any_changed & (inside[ROWS] == 0) & (inside[COLS] == 0)).any())
