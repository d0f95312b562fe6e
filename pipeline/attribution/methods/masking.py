"""Masking: the scores of an image of which only parts are left, for methods that need no gradient."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np

from pipeline.attribution.baselines import baseline
from pipeline.attribution.methods.method import Evidence

_AT_A_TIME = 64  # masked images in memory


def scores_behind(evidence: Evidence, number: int, masks: Iterable[np.ndarray]) -> np.ndarray:
    """The scores of one image behind masks: float64 (masks, targets).

    masks: (height, width) each, 1 where the image is left, 0 where the baseline stands in its place.
    """
    image, scores, left = evidence.images[number], [], iter(masks)
    empty = baseline(image, evidence.settings.baseline, evidence.bands)
    while several := list(islice(left, _AT_A_TIME)):
        shares = np.stack(several).astype(np.float32)[..., np.newaxis]
        classes = np.tile(evidence.classes[number], (len(several), 1))
        scores.append(evidence.scores(empty + shares * (image - empty), classes))
    return np.concatenate(scores).astype(np.float64)


def superpixels(evidence: Evidence, number: int) -> np.ndarray:
    """The segments of one image, int (height, width) from 0: SLIC (Achanta et al., 2012), in Lab where it has three bands."""
    from skimage.segmentation import slic

    pixels, in_lab = evidence.images[number, ..., : evidence.bands] / 255, evidence.bands == 3
    labels = slic(pixels, evidence.settings.segments, start_label=0, channel_axis=-1, convert2lab=in_lab)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
