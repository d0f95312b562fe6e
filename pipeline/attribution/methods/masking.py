"""Masking: the scores of images of which only parts are left, for methods that need no gradient."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np

from pipeline.attribution.methods.method import Evidence

_AT_A_TIME = 64  # masked images in memory


def scores_behind(evidence: Evidence, masked: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
    """The scores of images behind masks: float64 (masks, targets).

    masked: the number of an image in the batch and a mask (height, width) each: 1 where the image is left, 0 where the baseline
        stands in its place.
    """
    scores, left = [], iter(masked)
    while several := list(islice(left, _AT_A_TIME)):
        numbers = np.array([number for number, _ in several])
        scores.append(evidence.behind(numbers, np.stack([mask for _, mask in several]).astype(np.float32)))
    return np.concatenate(scores).astype(np.float64)


def superpixels(evidence: Evidence, number: int) -> np.ndarray:
    """The segments of one image, int (height, width) from 0: SLIC (Achanta et al., 2012), in Lab where it has three bands."""
    from skimage.segmentation import slic

    pixels, in_lab = evidence.images[number, ..., : evidence.bands] / 255, evidence.bands == 3
    labels = slic(pixels, evidence.settings.segments, start_label=0, channel_axis=-1, convert2lab=in_lab)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
