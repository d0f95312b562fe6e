"""View: the state of a map while it is being solved, and the boxes that it claims."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from recfield.edges import FIRST, LAST, Edges
from recfield.guess import Guess, fit
from recfield.probing import any_channel

ROWS, COLS = 0, 1
_MUCH = 12  # channels, active and unchanged at one unit's edge, that outweigh the answer of its line


@dataclass(eq=False)
class View:
    """A map to be solved: a layer, or some channels of one.

    first, last: int (2, h, w): for each axis, the claimed first and last pixel of every unit.
    proven: bool (2, 2, h, w): axis, side: edges whose pixels changed their unit.
    plain: bool (2, 2, h, w): of them, those that did so by more than rounding could.
    tested: int (2, 2, h, w): how many active channels the edges were tested on.
    reached, tried: (2, 2, lines, c): for each channel and line of units, whether the outermost pixels changed
    it, and how often it was active when they were replaced.
    ever: bool (h, w): units of which any channel was ever active.
    active_times: int (c,): how often any unit of a channel was active, in `looks` probes on `backgrounds`, by number: int
    (c,), how many units of each channel were.
    lines: whether the answer of one unit holds for its whole line: which rows a unit sees nearly always depends only on
    the unit's row, so an active unit also answers for inactive ones, and for those that an edge changes too little.
    patterned: bool (2, 2): axis, side: whether edges may be guessed, until a guess is disproved.
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
        self.proven, self.plain = np.zeros((2, 2, 2, *self.shape), bool)
        self.tested = np.zeros((2, 2, *self.shape), np.int32)
        per_channel = (2, 2, max(self.shape), len(self.channels))
        self.reached, self.tried = np.zeros(per_channel, bool), np.zeros(per_channel, np.int32)
        self.active_times = np.zeros(len(self.channels), np.int64)
        self.ever = np.zeros(self.shape, bool)
        self.looks = 0
        self.backgrounds: dict[int, np.ndarray] = {}
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
        """bool (2, 2): axis, side: whether edges are still open."""
        return np.array([[not self.settled(axis, side) for side in (FIRST, LAST)] for axis in (ROWS, COLS)])

    def settled(self, axis: int, side: int) -> bool:
        """Whether no edge is open: all follow a pattern or are bracketed to a pixel."""
        guess = self.guess(axis, side)
        if guess is not None and guess.sure:
            return True
        low, high = self.brackets(axis, side)
        return bool(((low == high) | (high == self.image[axis])).all()) and bool((high < self.image[axis]).any() or guess is None)

    def plain_lines(self, axis: int, side: int) -> np.ndarray:
        """bool (lines,): the lines of units of which some edge changed its unit by more than rounding could."""
        return self.plain[axis, side].any(axis=1 - axis)

    def claim(self) -> None:
        """Set the boxes from the brackets and patterns; units that no probe has changed get none."""
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
        self.proven[:], self.plain[:], self.tested[:] = nothing, nothing, 0
        self.reached[:], self.tried[:] = False, 0

    @property
    def separable(self) -> bool:
        """Whether rows of pixels are claimed to depend on the unit's row alone, and columns on its column alone."""
        rows, cols = (np.stack([self.first[axis], self.last[axis]]) for axis in (ROWS, COLS))
        seeing = self.last[ROWS] >= self.first[ROWS]
        return bool(((rows == rows[:, :, :1]) | ~seeing).all() and ((cols == cols[:, :1]) | ~seeing).all())

    def learn(self, axis: int, on: np.ndarray, changed: np.ndarray, active: np.ndarray) -> None:
        """Narrow the brackets by what replacing the pixels `on` of an axis changed: bool (h, w), and which units were active."""
        self.changes.append((axis, on, np.packbits(changed)))
        self.edges[axis].learn(on, self._of_lines(axis, changed), self._of_lines(axis, active))

    def _of_lines(self, axis: int, units: np.ndarray) -> np.ndarray:
        return np.broadcast_to(units.any(axis=1 - axis, keepdims=True), self.shape) if self.lines else units

    def note_active(self, background: int, active: np.ndarray) -> None:
        """Count a look on a background, by its number, where some units were active: bool (h, w, c)."""
        if background not in self.backgrounds:
            self.backgrounds[background] = active.sum(axis=(0, 1))
            self.ever |= any_channel(active)
        self.active_times += self.backgrounds[background]
        self.looks += 1

    def forget(self) -> None:
        """Start over from the changes alone, without guessing: silence may have been chance, changes are proof."""
        self.patterned[:] = False
        nobody = np.zeros(self.shape, bool)
        for edges in self.edges:
            edges.forget(~nobody)
        for axis, on, packed in self.changes:
            changed = np.unpackbits(packed, count=nobody.size).reshape(self.shape).astype(bool)
            self.edges[axis].learn(on, self._of_lines(axis, changed), nobody)

    def accept(self) -> bool:
        """Update the boxes with the results of the proof. Returns: whether the boxes stand.

        A unit that was inactive on every background keeps the box of its row and column if another unit of
        that line was proven to reach as far; a line that was never active sees nothing. A unit that was active
        while its outermost pixels made no difference has its edge further in: only its edge is solved again.
        """
        if self.lines and self._lines_part():
            self.lines = False
            self.forget()
            return False
        stands = True
        inactive = np.zeros(self.shape, bool)
        for axis, edges in enumerate(self.edges):
            for side, claimed in ((FIRST, self.first[axis]), (LAST, edges.length - 1 - self.last[axis])):
                proven, tested = (self._of_lines(axis, part[axis, side] > 0) for part in (self.proven, self.tested))
                refuted = tested & ~proven
                edges.low[side] = np.where(proven | refuted, claimed + refuted, edges.low[side])
                edges.high[side] = np.where(proven, claimed, edges.high[side])
                if refuted.any():
                    self.patterned[axis, side] = stands = False
                inactive |= ~proven & ~tested
        if stands:
            self.first[:, inactive], self.last[:, inactive] = 0, -1
        return stands

    def _lines_part(self) -> bool:
        """Whether the units of a line clearly see different pixels of it.

        Then an edge changes most units of each line, and repeatedly not the same others. If it changes few units,
        it merely has little effect.
        """
        for axis in (ROWS, COLS):
            for side in (FIRST, LAST):
                judged = self.tested[axis, side] >= _MUCH
                short = judged & ~self.proven[axis, side]
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
