"""Sums of floats that do not depend on the order of their addends.

Whole numbers below 2**53 are added exactly in float64. So every addend is cut into whole multiples of fixed powers of
two, few bits each, and every such piece is summed on its own (the pre-rounding of Demmel and Nguyen, "Fast Reproducible
Floating-Point Summation", 2013). `add` keeps every bit of float32 addends and their squares, in `PIECES` pieces;
`sum_in_units` rounds each addend to one piece, multiples of 2**-24, where memory counts: sums by label.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

_WIDTH = 20  # bits a piece: 2**33 addends fit beside it in a float64
_EXPONENTS = np.arange(240, -320, -_WIDTH)  # of the pieces' units; float32 values and their squares lie within
PIECES = len(_EXPONENTS)

UNIT = 2.0**-24  # of `sum_in_units`; up to 2**39 may be summed
_LARGEST = 2.0**30  # addends of `sum_in_units` are clipped to it


def add(sums: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The sums, float64 (PIECES, channels), after some more addends: float64 (n, channels)."""
    largest = np.abs(values).max(initial=0.0)
    if largest == 0:
        return sums
    sums, rest, piece = sums.copy(), values.copy(), np.empty_like(values)
    # Below half a unit everything rounds to zero: pieces of larger units can be left out.
    first = int(np.searchsorted(-_EXPONENTS, -math.frexp(largest)[1]))
    for number in range(first, PIECES):
        # Adding and taking away 1.5 * 2**52 units rounds to whole units.
        shift = math.ldexp(1.5, int(_EXPONENTS[number]) + 52)
        np.add(rest, shift, out=piece)
        piece -= shift
        sums[number] += piece.sum(axis=0)
        rest -= piece
        if not rest.any():
            break
    return sums


def total(sums: np.ndarray) -> list[Fraction]:
    """The exact sum of each channel, from its pieces: float64 (PIECES, channels)."""
    return [sum((Fraction(piece) for piece in channel if piece), Fraction()) for channel in sums.T.tolist()]


def sum_in_units(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sums of consecutive rows, each addend rounded to a multiple of UNIT.

    Args:
        values: finite float32 (n, channels).
        starts: int (groups,), ascending: the first row of each group.

    Returns: int64 (groups, channels), in units.
    """
    units = np.multiply(values, 1 / UNIT, dtype=np.float64)
    np.rint(units, out=units)
    limit = _LARGEST / UNIT
    # Whole numbers below 2**53 are added exactly as floats, which is the quicker way.
    if max(units.max(), -units.min()) * len(units) >= 2.0**53:
        units = units.clip(-limit, limit).astype(np.int64)
    return np.add.reduceat(units, starts, axis=0).astype(np.int64)
