"""Many questions in one probe: one image tests all units whose fields do not overlap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from recfield.edges import FIRST


@dataclass(frozen=True, order=True)
class Question:
    """Pixels along an axis that one test needs: replaced in [on, off), left alone elsewhere in [start, stop).

    With `outside`, it is the other way round: left alone in [on, off), replaced elsewhere in [start, stop).
    """

    start: int
    stop: int
    on: int
    off: int
    outside: bool = False


def pack(questions: Iterable[Question], length: int) -> list[np.ndarray]:
    """Patterns that ask every question at least once.

    First fit. Questions about the inside come in the order of their starts, which is optimal for intervals that must not
    overlap. Those about the outside come largest first, so that smaller boxes find their edges among those of larger ones.
    Questions that agree on the pixels they share may overlap.

    Returns: bool (length,) each: the pixels to replace. Pixels that no question needs are replaced in
    patterns that ask about the outside, and left alone in the others.
    """
    inside, outside = (sorted({question for question in questions if question.outside is of}) for of in (False, True))
    outside.sort(key=lambda question: (question.on - question.off, question))
    return [cells > 0 for cells in _first_fit(inside, length)] + [cells >= 0 for cells in _first_fit(outside, length)]


def _first_fit(questions: Iterable[Question], length: int) -> np.ndarray:
    """int8 (patterns, length): 1 replaced, -1 left alone, 0 free. A pattern that asks a question already is preferred."""
    cells = np.zeros((0, length), np.int8)
    for question in questions:
        want = np.full(question.stop - question.start, 1 if question.outside else -1, np.int8)
        want[question.on - question.start : question.off - question.start] *= -1
        part = cells[:, question.start : question.stop]
        asked = (part == want).all(axis=1)
        if asked.any():
            continue
        fitting = ((part == 0) | (part == want)).all(axis=1)
        if not fitting.any():
            cells = np.concatenate([cells, np.zeros((1, length), np.int8)])
            fitting = np.append(fitting, True)
        cells[fitting.argmax(), question.start : question.stop] = want
    return cells


def half(length: int, threshold: int, side: int) -> np.ndarray:
    """The `threshold` pixels next to one side."""
    on = np.arange(length) < threshold
    return on if side == FIRST else on[::-1].copy()
