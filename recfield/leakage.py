"""Rounding that leaks out of a unit's window, as in Winograd and FFT convolutions, and the changes that are more than that.

Such a convolution computes many units from one transform of the pixels that they see together. Exactly, the pixels outside
a unit's window cancel; rounded, they leave an error in proportion to the loudest of them, the same one for the same image.
So a change of the unit is no proof, and its size is none either: behind many small weights a true effect is smaller still.
But an effect changes little if its cause does, and rounding is as different as for any other image. Each probe is sent
with a twin whose replaced pixels are different by less than one in a hundred: the difference between the two answers is small
beside a true change, and as large as the change where that is rounding.
"""

from __future__ import annotations

import numpy as np

_ABOVE = 8.0  # times the difference between twins that a change must have
_FEW = 8  # numbers; from fewer, the size of rounding is not known well
_OF_FEW = 8.0  # times more that a change must have then


def above_leakage(change: np.ndarray, repeated: np.ndarray, scales: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Which changes are well above the rounding that leaks.

    Args:
        change: float64 (h, w, c): by a probe; its size, without a sign.
        repeated: float64 (h, w, c): from the probe to its twin, its size.
        scales: float64 (c,): the sizes of the channels' changes; what leaks is in proportion.
        axes: of the map, along which rounding is alike: that of the lines which the probe replaced.

    Returns: bool (h, w, c).
    """
    cells = int(np.prod([change.shape[axis] for axis in axes]))
    changes, differences = (part.max(axis=axes, keepdims=True) for part in (change, repeated))
    # Channels whose change is rounding say together how large it is; one channel of a small map would say so by chance.
    rounding = (differences > 0) & (changes <= _ABOVE * differences) & (scales > 0)
    level = np.divide(differences, scales, out=np.zeros_like(differences), where=rounding).max(axis=2, keepdims=True)
    above = np.where(cells * np.maximum(rounding.sum(axis=2, keepdims=True), 1) < _FEW, _OF_FEW * _ABOVE, _ABOVE)
    return change > above * np.maximum(differences, level * scales)
