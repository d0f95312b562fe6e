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

    First fit in the order of the questions' starts, which is optimal for intervals that must not overlap; questions
    that agree on the pixels they share may overlap.

    Returns: bool (length,) each: the pixels to replace. Pixels that no question needs are replaced in
    patterns that ask about the outside, and left alone in the others.
    """
    patterns: list[tuple[bool, np.ndarray]] = []  # cells: 1 replaced, -1 left alone, 0 free
    for question in sorted(set(questions)):
        want = np.full(question.stop - question.start, 1 if question.outside else -1, np.int8)
        want[question.on - question.start : question.off - question.start] *= -1
        for outside, cells in patterns:
            part = cells[question.start : question.stop]
            if outside == question.outside and ((part == 0) | (part == want)).all():
                part[:] = want
                break
        else:
            cells = np.zeros(length, np.int8)
            cells[question.start : question.stop] = want
            patterns.append((question.outside, cells))
    return [cells >= 0 if outside else cells > 0 for outside, cells in patterns]


def half(length: int, threshold: int, side: int) -> np.ndarray:
    """The `threshold` pixels next to one side."""
    on = np.arange(length) < threshold
    return on if side == FIRST else on[::-1].copy()
